"""A batch in parts gives what the whole batch gives, in whatever threads the parts are."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from common.encoders import ImpalaEncoder
from common.parts import SMALLEST_PART, in_parts, whole_batches

BATCH = 2 * SMALLEST_PART + 1  # parts of different sizes


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def encoder() -> ImpalaEncoder:
    torch.manual_seed(3)
    made = ImpalaEncoder((4, 8), (16,))
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def frames(count: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=generator)


def seen_by(
    encoder: ImpalaEncoder, work: Callable[[], object]
) -> tuple[list[int], list[threading.Thread], list[int]]:
    """Batch sizes, threads and numbers of cores with which the convolutions are called."""
    sizes, threads, cores = [], [], []

    def note(_: object, inputs: tuple[Tensor]) -> None:
        sizes.append(len(inputs[0]))
        threads.append(threading.current_thread())
        cores.append(torch.get_num_threads())

    hook = encoder.sequences.register_forward_pre_hook(note)
    work()
    hook.remove()
    return sizes, threads, cores


def gradients(encoder: ImpalaEncoder, count: int = BATCH) -> list[Tensor]:
    """Of a loss in which no two features or samples weigh the same."""
    encoder.zero_grad()
    features = encoder(frames(count))
    (features * torch.linspace(-1, 2, features.numel()).view_as(features)).sum().backward()
    return [p.grad.clone() for p in encoder.parameters() if p.grad is not None]


def test_each_part_has_a_thread_and_a_core_of_its_own(encoder: ImpalaEncoder) -> None:
    sizes, threads, cores = seen_by(encoder, lambda: encoder(frames()))
    assert sorted(sizes) == [SMALLEST_PART, SMALLEST_PART + 1]
    assert threading.main_thread() not in threads
    assert cores == [1, 1]
    # Who called, and threads that begin later, go on with all cores.
    assert torch.get_num_threads() == 2
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


def test_features_and_gradients_are_those_of_the_whole_batch(encoder: ImpalaEncoder) -> None:
    features, found = encoder(frames()), gradients(encoder)
    with whole_batches():
        sizes, _, _ = seen_by(encoder, lambda: encoder(frames()))
        torch.testing.assert_close(features, encoder(frames()))
        torch.testing.assert_close(found, gradients(encoder), rtol=1e-4, atol=1e-4)
    assert sizes == [BATCH]
    assert len(found) == len(list(encoder.parameters()))


def test_the_same_batch_gives_the_same_gradients_to_the_bit(encoder: ImpalaEncoder) -> None:
    first = gradients(encoder)
    for _ in range(5):
        assert all(map(torch.equal, gradients(encoder), first))
    assert not all(map(torch.equal, gradients(encoder, BATCH + 1), first))


@pytest.mark.parametrize("threads", [1, 2])
def test_small_batches_and_single_cores_are_left_whole(
    encoder: ImpalaEncoder, threads: int
) -> None:
    torch.set_num_threads(threads)
    count = BATCH if threads == 1 else 2 * SMALLEST_PART - 1
    sizes, used, _ = seen_by(encoder, lambda: encoder(frames(count)))
    assert (sizes, used) == ([count], [threading.current_thread()])


@pytest.mark.parametrize(
    ("threads", "parts", "cores"), [(3, 3, 1), (4, 4, 1), (5, 1, 5), (6, 3, 2)]
)
def test_no_core_is_left_over(encoder: ImpalaEncoder, threads: int, parts: int, cores: int) -> None:
    torch.set_num_threads(threads)
    sizes, _, given = seen_by(encoder, lambda: encoder(frames(4 * SMALLEST_PART)))
    assert (len(sizes), given) == (parts, [cores] * parts)


def test_a_thread_that_cannot_be_started_is_an_error_and_no_wait_for_ever() -> None:
    script = (
        "import threading, torch\n"
        "from common.parts import in_parts\n"
        "start, begun = threading.Thread.start, []\n"
        "def scarce(thread):\n"
        "    begun.append(thread)\n"
        "    if len(begun) > 1: raise RuntimeError('no more threads')\n"
        "    start(thread)\n"
        "threading.Thread.start = scarce\n"
        "torch.set_num_threads(2)\n"
        "in_parts(torch.neg, torch.nn.Identity(), torch.zeros(200))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "RuntimeError: no more threads" in done.stderr


def test_a_graph_is_gone_through_once(encoder: ImpalaEncoder) -> None:
    loss = encoder(frames()).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward goes once through a batch in parts"):
        loss.backward()


def test_without_gradients_no_graph_is_kept(encoder: ImpalaEncoder) -> None:
    expected = encoder(frames())
    with torch.no_grad():
        features = encoder(frames())
    assert torch.equal(features, expected)
    assert expected.requires_grad
    assert not features.requires_grad
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    assert not encoder(frames()).requires_grad


def test_weights_that_do_not_learn_get_no_gradient(encoder: ImpalaEncoder) -> None:
    whole = gradients(encoder)
    frozen = encoder.sequences[0].conv.weight.requires_grad_(False)
    assert len(gradients(encoder)) == len(whole) - 1
    assert frozen.grad is None


def test_the_precision_of_the_caller_is_that_of_the_parts(encoder: ImpalaEncoder) -> None:
    kinds = []
    hook = encoder.sequences.register_forward_hook(lambda *seen: kinds.append(seen[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        gradients(encoder)
    gradients(encoder)
    hook.remove()
    assert kinds == [torch.bfloat16] * 2 + [torch.float32] * 2


def test_what_a_part_fails_with_is_raised() -> None:
    def fail(part: Tensor) -> Tensor:
        raise ValueError(f"{len(part)} samples")

    module = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=f"{SMALLEST_PART}|{SMALLEST_PART + 1} samples"):
        in_parts(fail, module, frames())
