"""The networks have the sizes of the paper and see each pixel scaled exactly once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.encoders import (
    ENCODER_NAMES,
    ImpalaEncoder,
    NatureEncoder,
    PixelEncoder,
    make_encoder,
)
from common.errors import UsageError
from tests.reference import impala


def frames(count: int = 2) -> torch.Tensor:
    """Random frames (count, 64, 64, 3) uint8 in which 0 and 255 occur."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    pixels[0, 0, 0] = 0, 255, 51
    return torch.from_numpy(pixels)


def number_of_weights(encoder: PixelEncoder) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())


def channels_first(observations: torch.Tensor, divisor: float) -> torch.Tensor:
    """The hand-made input: one pixel at a time into a contiguous (batch, 3, 64, 64) tensor."""
    pixels = torch.empty((len(observations), 3, 64, 64))
    for channel in range(3):
        pixels[:, channel] = observations[:, :, :, channel].float() / divisor
    return pixels


# Sizes


def test_the_impala_trunk_with_256_features_has_622144_weights() -> None:
    encoder = make_encoder("pporesnetbase", 256)
    assert number_of_weights(encoder) == 622_144
    assert encoder.feature_size == 256
    assert encoder(frames()).shape == (2, 256)


def test_the_nature_network_has_1024_features() -> None:
    encoder = make_encoder("dqn", 64)
    # 8*8*3*32+32 = 6,176; 4*4*32*64+64 = 32,832; 3*3*64*64+64 = 36,928.
    assert number_of_weights(encoder) == 6_176 + 32_832 + 36_928
    assert encoder.feature_size == 1024
    assert encoder(frames()).shape == (2, 1024)


def test_the_hidden_size_of_the_nature_network_is_its_second_layer() -> None:
    # 4*4*32*16+16 = 8,208; 3*3*16*64+64 = 9,280.
    assert number_of_weights(make_encoder("dqn", 16)) == 6_176 + 8_208 + 9_280


def test_the_large_residual_network_has_33_million_weights() -> None:
    encoder = make_encoder("pporesnet20", 256)
    # A sequence from a to b channels: 9ab + b for its convolution, 4 (9bb + b) for its two blocks.
    sequences = 149_504 + 2_508_032 + 2_950_400 + 10_619_392  # 3-64-256-256-512
    linears = (8192 * 2048 + 2048) + (2048 * 256 + 256)  # 512 channels of 4x4 pixels
    assert sequences + linears == 33_531_136
    assert number_of_weights(encoder) == 33_531_136
    assert encoder.feature_size == 256
    assert encoder(frames(1)).shape == (1, 256)


@pytest.mark.parametrize(("name", "twin"), [("bcq", "dqn"), ("bcqresnetbase", "pporesnetbase")])
def test_the_names_of_bcq_stand_for_the_same_trunks(name: str, twin: str) -> None:
    one, other = make_encoder(name, 32), make_encoder(twin, 32)
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    assert one.feature_size == other.feature_size


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'resnet'.*dqn.*pporesnet20"):
        make_encoder("resnet", 256)


def test_every_name_makes_an_encoder_whose_weights_can_learn() -> None:
    for name in ENCODER_NAMES:
        if name == "pporesnet20":  # the same class as pporesnetbase, and slow
            continue
        encoder = make_encoder(name, 16)
        encoder(frames(1)).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


# Pixels


def test_pixels_become_channels_first_floats_in_zero_to_one() -> None:
    pixels = make_encoder("dqn", 16).pixels(frames())
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([0.0, 1.0, 0.2])
    torch.testing.assert_close(pixels, channels_first(frames(), 255.0))


def test_pixels_can_be_left_unscaled() -> None:
    pixels = make_encoder("dqn", 16, scale_pixels=False).pixels(frames())
    assert pixels[0, :, 0, 0].tolist() == [0.0, 255.0, 51.0]
    assert torch.equal(pixels, channels_first(frames(), 1.0))


@pytest.mark.parametrize(("scale", "divisor"), [(True, 255.0), (False, 1.0)])
def test_the_nature_network_scales_pixels_exactly_once(scale: bool, divisor: float) -> None:
    encoder = make_encoder("dqn", 16, scale_pixels=scale)
    assert isinstance(encoder, NatureEncoder)
    by_hand = encoder.layers(channels_first(frames(), divisor))
    torch.testing.assert_close(encoder(frames()), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scale", "divisor"), [(True, 255.0), (False, 1.0)])
def test_impala_agrees_with_a_plain_channels_first_forward_pass(
    scale: bool, divisor: float
) -> None:
    encoder = make_encoder("pporesnetbase", 32, scale_pixels=scale)
    with torch.no_grad():
        for bias in (p for name, p in encoder.named_parameters() if name.endswith("bias")):
            bias.uniform_(-0.1, 0.1)  # they start at zero, which would hide a mistake
        got = encoder(frames(2)).double().numpy()
    weights = {name: w.double().numpy() for name, w in encoder.state_dict().items()}
    pixels = frames(2).numpy().astype(np.float64).transpose(0, 3, 1, 2) / divisor
    expected = np.stack([impala.features(frame, weights, 3, 1) for frame in pixels])
    assert expected.max() > 0
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * expected.max())


def test_an_encoder_with_two_linear_layers_agrees_with_the_plain_forward_pass() -> None:
    encoder = ImpalaEncoder((4, 8, 8, 8), (24, 12))
    weights = {name: w.double().numpy() for name, w in encoder.state_dict().items()}
    pixels = frames(1)[0].numpy().astype(np.float64).transpose(2, 0, 1) / 255.0
    with torch.no_grad():
        got = encoder(frames(1))[0].numpy()
    np.testing.assert_allclose(got, impala.features(pixels, weights, 4, 2), rtol=1e-4, atol=1e-5)


def test_frames_reach_the_convolutions_channels_last() -> None:
    encoder = make_encoder("pporesnetbase", 16)
    assert encoder.pixels(frames()).is_contiguous(memory_format=torch.channels_last)
    assert isinstance(encoder, ImpalaEncoder)
    assert encoder.state_dict()["sequences.1.conv.weight"].is_contiguous(
        memory_format=torch.channels_last
    )
