"""IMPALA's forward pass in NumPy float64, channels first: slow and obvious."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def convolution_3x3(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(channels_in, H, W) -> (channels_out, H, W): zero padding of one pixel."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    height, width = x.shape[1:]
    out = np.zeros((len(weight), height, width))
    for dy in range(3):
        for dx in range(3):
            shifted = padded[:, dy : dy + height, dx : dx + width]
            out += np.tensordot(weight[:, :, dy, dx], shifted, axes=1)
    return out + bias[:, None, None]


def max_pool(x: np.ndarray) -> np.ndarray:
    """Windows of 3x3 pixels, one at every second pixel; what lies outside the frame never wins."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = x.shape[1:]
    corners = [
        padded[:, dy : dy + height : 2, dx : dx + width : 2] for dy in range(3) for dx in range(3)
    ]
    pooled: np.ndarray = np.max(corners, axis=0)
    return pooled


def residual(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    hidden = x
    for layer in ("conv1", "conv2"):
        key = f"{name}.{layer}"
        hidden = convolution_3x3(relu(hidden), weights[f"{key}.weight"], weights[f"{key}.bias"])
    return x + hidden


def features(pixels: np.ndarray, weights: Weights, sequences: int, linears: int) -> np.ndarray:
    """Features of one frame, `pixels` (3, 64, 64), under an encoder's named weights."""
    x = pixels
    for i in range(sequences):
        name = f"sequences.{i}"
        x = convolution_3x3(x, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"])
        x = max_pool(x)
        for block in ("block1", "block2"):
            x = residual(x, weights, f"{name}.{block}")
    x = relu(x).reshape(-1)
    for i in range(linears):
        x = relu(weights[f"linears.{i}.weight"] @ x + weights[f"linears.{i}.bias"])
    return x
