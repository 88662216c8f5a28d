"""Networks from pixels to features: the Nature CNN and IMPALA. Pixels are scaled here, only here.

Frames come as uint8 (batch, 64, 64, 3). Permuting them to channels-first gives a view whose memory
is already channels-last, the layout in which convolutions run fastest, so no copy is made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UsageError
from common.parts import in_parts

ENCODER_NAMES = ("dqn", "bcq", "pporesnetbase", "bcqresnetbase", "pporesnet20")


class PixelEncoder(nn.Module):
    """Base: takes frames (batch, 64, 64, 3) uint8 and gives features (batch, feature_size)."""

    feature_size: int

    def __init__(self, scale_pixels: bool = True) -> None:
        super().__init__()
        self.scale_pixels = scale_pixels

    def pixels(self, observations: Tensor) -> Tensor:
        """Float pixels (batch, 3, 64, 64), in [0, 1] or, with `scale_pixels=False`, 0..255."""
        dtype = next(self.parameters()).dtype
        pixels = observations.permute(0, 3, 1, 2).to(dtype)
        return pixels / 255.0 if self.scale_pixels else pixels


class NatureEncoder(PixelEncoder):
    """Three convolutions (Mnih et al. 2015) as the benchmark sizes them; 1,024 features.

    8x8 stride 4 to 32 channels, 4x4 stride 2 to `hidden_size`, 3x3 stride 1 to 64:
    64 -> 15 -> 6 -> 4 pixels, so 4 * 4 * 64 features.
    """

    def __init__(self, hidden_size: int, scale_pixels: bool = True) -> None:
        super().__init__(scale_pixels)
        self.feature_size = 1024
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, hidden_size, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(hidden_size, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        features: Tensor = self.layers(self.pixels(observations))
        return features


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), channels kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.conv1(functional.relu(x)), inplace=True)
        out: Tensor = self.conv2(hidden)
        return out.add_(x)


class ConvSequence(nn.Module):
    """Convolution, 3x3 max-pooling with stride 2, two residual blocks: half width and height."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.block1 = ResidualBlock(channels_out)
        self.block2 = ResidualBlock(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.max_pool2d(self.conv(x), 3, stride=2, padding=1)
        out: Tensor = self.block2(self.block1(pooled))
        return out


class ImpalaEncoder(PixelEncoder):
    """The residual network of IMPALA (Espeholt et al. 2018, figure 3, right), without its LSTM.

    `channels` gives one `ConvSequence` each; `widths` the fully connected layers after them. With
    channels (16, 32, 32) and widths (256,) it has 622,144 weights.
    """

    def __init__(
        self, channels: tuple[int, ...], widths: tuple[int, ...], scale_pixels: bool = True
    ) -> None:
        super().__init__(scale_pixels)
        self.sequences = nn.Sequential(
            *(ConvSequence(a, b) for a, b in zip((3, *channels), channels, strict=False))
        )
        side = 64 // 2 ** len(channels)
        sizes = (channels[-1] * side * side, *widths)
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, widths, strict=False))
        self.feature_size = widths[-1]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, observations: Tensor) -> Tensor:
        x = in_parts(self._convolved, self.sequences, observations)
        for linear in self.linears:
            x = functional.relu(linear(x))
        return x

    def _convolved(self, observations: Tensor) -> Tensor:
        return functional.relu(self.sequences(self.pixels(observations))).flatten(1)


def make_encoder(name: str, hidden_size: int, scale_pixels: bool = True) -> PixelEncoder:
    """The encoder called `--agent_model name`, its weights stored channels-last.

    `bcq` and `bcqresnetbase` name the same trunks as `dqn` and `pporesnetbase`; the two heads of
    BCQ belong to the agent. Raises UsageError for an unknown name.
    """
    encoder: PixelEncoder
    if name in ("dqn", "bcq"):
        encoder = NatureEncoder(hidden_size, scale_pixels)
    elif name in ("pporesnetbase", "bcqresnetbase"):
        encoder = ImpalaEncoder((16, 32, 32), (hidden_size,), scale_pixels)
    elif name == "pporesnet20":
        encoder = ImpalaEncoder((64, 256, 256, 512), (2048, hidden_size), scale_pixels)
    else:
        raise UsageError(f"unknown agent_model {name!r}: choose one of {', '.join(ENCODER_NAMES)}")
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
