"""The pieces of DT and BCT in float64, by loops: loss, returns-to-go, schedule, transformer block.

Chen et al. 2021, "Decision Transformer: Reinforcement Learning via Sequence Modeling"; the block
is that of Radford et al. 2019 (GPT-2: layer norm before each part) with the attention of Vaswani
et al. 2017. Dropout is left out: these are the numbers of evaluation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tests.reference.bc import log_softmax

FINAL_RATE = 0.1
LAYER_NORM_EPSILON = 1e-5


def loss(logits: np.ndarray, actions: np.ndarray, mask: np.ndarray) -> float:
    """Mean over the real steps of the batch of -log pi(a_t | tokens up to the state of t).

    `logits` (B, K, A) at the state tokens, `actions` (B, K), `mask` (B, K) true at real steps. One
    mean over all real steps: a long window weighs more than a padded one.
    """
    total, steps = 0.0, 0
    for window in range(len(actions)):
        log_probabilities = log_softmax(logits[window])
        for t, action in enumerate(actions[window]):
            if mask[window, t]:
                total -= log_probabilities[t, action]
                steps += 1
    return float(total / steps)


def gradient(logits: np.ndarray, actions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Derivative of `loss` by the logits (B, K, A): (pi - [a' = a]) / real steps, 0 at padding."""
    steps = sum(1 for real in mask.ravel() if real)
    result = np.zeros(logits.shape, np.float64)
    for window in range(len(actions)):
        probabilities = np.exp(log_softmax(logits[window]))
        for t, taken in enumerate(actions[window]):
            if mask[window, t]:
                for action in range(logits.shape[2]):
                    is_taken = 1.0 if action == taken else 0.0
                    result[window, t, action] = (probabilities[t, action] - is_taken) / steps
    return result


def returns_to_go(rewards: np.ndarray, dones: np.ndarray) -> np.ndarray:
    """R_t = r_t + r_{t+1} + ... + r_T, undiscounted, T being the episode's last step.

    `rewards` and `dones` (N,) are episodes laid end to end; a sum ends at the first done.
    """
    result = np.zeros(len(rewards), np.float64)
    for start in range(len(rewards)):
        for t in range(start, len(rewards)):
            result[start] += float(rewards[t])
            if dones[t]:
                break
    return result


def total_tokens(windows: int, context: int) -> int:
    """Tokens at which the learning rate has come down: 2 * windows * context * 3."""
    return 2 * windows * context * 3


def learning_rate(peak: float, tokens: int, warmup_tokens: int, final_tokens: int) -> float:
    """The rate after `tokens` tokens: a line from 0 to `peak`, then half a cosine to peak / 10.

    peak * n / warmup for n < warmup; after that peak * (0.1 + 0.9 (1 + cos(pi p)) / 2) with
    p = (n - warmup) / (final - warmup), and peak / 10 from `final_tokens` on.
    """
    if tokens < warmup_tokens:
        return peak * tokens / warmup_tokens
    if tokens >= final_tokens:
        return peak * FINAL_RATE
    progress = (tokens - warmup_tokens) / (final_tokens - warmup_tokens)
    return peak * (FINAL_RATE + (1.0 - FINAL_RATE) * (1.0 + math.cos(math.pi * progress)) / 2.0)


class Linear(NamedTuple):
    """y = W x + b, `weight` (out, in) and `bias` (out,)."""

    weight: np.ndarray
    bias: np.ndarray


class LayerNorm(NamedTuple):
    """`weight` and `bias` (C,) of a layer normalisation."""

    weight: np.ndarray
    bias: np.ndarray


class Attention(NamedTuple):
    """Four C to C maps; head h owns the outputs h C/H to (h + 1) C/H of the first three."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear


class Block(NamedTuple):
    """One transformer block; `expand` maps C to the hidden width and `contract` back."""

    attention_norm: LayerNorm
    attention: Attention
    feed_forward_norm: LayerNorm
    expand: Linear
    contract: Linear


def linear(layer: Linear, x: np.ndarray) -> np.ndarray:
    """W x + b of one token: (in,) to (out,)."""
    result = np.zeros(len(layer.bias), np.float64)
    for row in range(len(layer.bias)):
        products = [float(w) * float(e) for w, e in zip(layer.weight[row], x, strict=True)]
        result[row] = sum(products) + float(layer.bias[row])
    return result


def layer_norm(layer: LayerNorm, x: np.ndarray) -> np.ndarray:
    """Ba et al. 2016: w (x - mean) / sqrt(variance + 1e-5) + b of one token (C,).

    The variance is that of the population: divided by C.
    """
    mean = sum(float(entry) for entry in x) / len(x)
    variance = sum((float(entry) - mean) ** 2 for entry in x) / len(x)
    normalised = (x.astype(np.float64) - mean) / math.sqrt(variance + LAYER_NORM_EPSILON)
    return normalised * layer.weight + layer.bias


def gelu(x: float) -> float:
    """Hendrycks & Gimpel 2016: x Phi(x), with the normal distribution function itself."""
    return x * 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def causal_self_attention(
    layer: Attention, heads: int, tokens: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Vaswani et al. 2017, equation 1 and section 3.2.2, over one sequence: (T, C) to (T, C).

    Per head of width D = C / heads: softmax over j of q_i . k_j / sqrt(D), weighing v_j, for the
    real tokens j <= i alone; the heads side by side go through `output`. `mask` (T,) is true at
    real tokens. A padded token attends to nothing: its heads are 0 and its row means nothing.
    """
    length, width = tokens.shape
    head_width = width // heads
    queries = [linear(layer.query, token) for token in tokens]
    keys = [linear(layer.key, token) for token in tokens]
    values = [linear(layer.value, token) for token in tokens]
    result = np.zeros((length, width), np.float64)
    for i in range(length):
        joined = np.zeros(width, np.float64)
        visible = [j for j in range(i + 1) if mask[j]] if mask[i] else []
        for head in range(heads):
            own = range(head * head_width, (head + 1) * head_width)
            scores = []
            for j in visible:
                product = sum(float(queries[i][c]) * float(keys[j][c]) for c in own)
                scores.append(product / math.sqrt(head_width))
            if not visible:
                continue
            largest = max(scores)
            weights = [math.exp(score - largest) for score in scores]
            for weight, j in zip(weights, visible, strict=True):
                for c in own:
                    joined[c] += weight / sum(weights) * values[j][c]
        result[i] = linear(layer.output, joined)
    return result


def block(layer: Block, heads: int, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """x + attention(norm(x)), then x + contract(gelu(expand(norm(x)))): (B, T, C) to (B, T, C).

    `mask` (B, T) is true at real tokens; compare the rows of real tokens only.
    """
    result = tokens.astype(np.float64)
    for sequence in range(len(result)):
        normed = np.array([layer_norm(layer.attention_norm, x) for x in result[sequence]])
        result[sequence] += causal_self_attention(layer.attention, heads, normed, mask[sequence])
        for t in range(result.shape[1]):
            hidden = linear(layer.expand, layer_norm(layer.feed_forward_norm, result[sequence, t]))
            activated = np.array([gelu(float(entry)) for entry in hidden])
            result[sequence, t] += linear(layer.contract, activated)
    return result
