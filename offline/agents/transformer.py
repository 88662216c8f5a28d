"""The transformer of DT and BCT (Radford et al. 2019; Chen et al. 2021), smallest part first.

A window of K steps becomes K tokens (state, action) or (return-to-go, state, action) in turn. Real
steps come first and padding last, so the causal mask alone keeps padding from being attended to;
what the padding itself attends to is read by nobody, and frames in it need not be encoded.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.encoders import PixelEncoder

FINAL_RATE = 0.1  # share of the learning rate that is left when the cosine ends
INITIAL_STD = 0.02  # of GPT-2's weights


class Sizes(NamedTuple):
    """How large the transformer is; the defaults are the benchmark's."""

    layers: int = 6
    heads: int = 8
    width: int = 128
    dropout: float = 0.1


class CausalSelfAttention(nn.Module):
    """Every token looks at itself and at earlier ones; (B, T, width) to (B, T, width)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.dropout = sizes.dropout
        self.query_key_value = nn.Linear(sizes.width, 3 * sizes.width)
        self.output = nn.Linear(sizes.width, sizes.width)

    def forward(self, tokens: Tensor) -> Tensor:
        # (B, T, 3 * width) -> three of (B, heads, T, width / heads)
        split = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)): norms first, as in GPT-2."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(sizes)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        hidden = functional.gelu(self.expand(self.feed_forward_norm(x)))
        return x + self.dropout(self.contract(hidden))


class WindowTransformer(nn.Module):
    """From windows to the logits of the action at every step.

    Each token is the tanh of an embedding, plus a learned position (of the token in its window)
    and a learned time (of the step in its episode); episodes longer than `max_length` go on with
    the last time. With `conditioned` a return-to-go token precedes every state.
    """

    def __init__(
        self,
        encoder: PixelEncoder,
        num_actions: int,
        context_length: int,
        max_length: int,
        conditioned: bool,
        sizes: Sizes,
    ) -> None:
        super().__init__()
        self.conditioned = conditioned
        self.tokens_per_step = 3 if conditioned else 2
        width = sizes.width
        self.encoder = encoder
        self.embed_state = nn.Linear(encoder.feature_size, width)
        self.embed_action = nn.Embedding(num_actions, width)
        if conditioned:
            self.embed_return = nn.Linear(1, width)
        self.embed_position = nn.Embedding(context_length * self.tokens_per_step, width)
        self.embed_time = nn.Embedding(max_length, width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_actions)
        self._initialise(sizes.layers)

    def _initialise(self, layers: int) -> None:
        """As GPT-2; the encoder and the maps from features and returns stay as torch made them.

        Weights as small as GPT-2's would all but hide the one number that a return-to-go is.
        """
        of_tokens = [m for m in self.modules() if isinstance(m, nn.Embedding)]
        for module in (*of_tokens, *self.blocks.modules(), self.head):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for name, parameter in self.blocks.named_parameters():
            # What is added up over the blocks should not grow with their number.
            if name.endswith(("output.weight", "contract.weight")):
                nn.init.normal_(parameter, std=INITIAL_STD / math.sqrt(2 * layers))

    def embed_frames(self, frames: Tensor) -> Tensor:
        """State embeddings (N, width) float of frames (N, 64, 64, 3) uint8; no step's place."""
        return torch.tanh(self.embed_state(self.encoder(frames)))

    def embed_windows(self, observations: Tensor, mask: Tensor) -> Tensor:
        """State embeddings (B, K, width) of frames (B, K, 64, 64, 3); any number in padding."""
        frames = observations.flatten(0, 1)
        if frames.is_cuda:
            # Leaving padding out would make the host wait for the number of real steps.
            return self.embed_frames(frames).unflatten(0, mask.shape)
        embedded = self.embed_frames(frames[mask.flatten()])
        states = embedded.new_zeros(*mask.shape, embedded.shape[-1])
        states[mask] = embedded
        return states

    def forward(
        self, states: Tensor, actions: Tensor, time_steps: Tensor, returns_to_go: Tensor | None
    ) -> Tensor:
        """Logits (B, K, num_actions) of the action at each state, given all before it.

        `states` (B, K, width) from `embed_windows`, `actions` and `time_steps` (B, K) int64,
        `returns_to_go` (B, K) float, scaled to about [-1, 1], or None if not `conditioned`.
        """
        tokens = [states, torch.tanh(self.embed_action(actions))]
        if self.conditioned:
            assert returns_to_go is not None
            tokens.insert(0, torch.tanh(self.embed_return(returns_to_go[..., None])))
        times = self.embed_time(time_steps.clamp(max=self.embed_time.num_embeddings - 1))
        # (B, K, tokens_per_step, width) -> (B, T, width), step by step
        x = (torch.stack(tokens, 2) + times[:, :, None]).flatten(1, 2)
        x = self.blocks(self.dropout(x + self.embed_position.weight[: x.shape[1]]))
        at_states = x[:, self.tokens_per_step - 2 :: self.tokens_per_step]
        logits: Tensor = self.head(self.norm(at_states))
        return logits


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and convolution kernels; none for biases, norms, embeddings."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    parameters = list(model.parameters())
    decayed = [p.ndim >= 2 and id(p) not in tables for p in parameters]
    return [
        {
            "params": [p for p, d in zip(parameters, decayed, strict=True) if d == wanted],
            "weight_decay": weight_decay if wanted else 0.0,
        }
        for wanted in (True, False)
    ]


def total_tokens(num_windows: int, context_length: int) -> int:
    """Tokens at which the learning rate has come down: two passes of three tokens per step."""
    return 2 * num_windows * context_length * 3


def learning_rate(
    peak: float, tokens: int, warmup_tokens: int, final_tokens: int, decay: bool = True
) -> float:
    """The rate after `tokens` tokens: a line from 0 to `peak`, then half a cosine to peak / 10.

    It stays there from `final_tokens` on. Without `decay` it stays at `peak` after the warm-up.
    """
    if tokens < warmup_tokens:
        return peak * tokens / warmup_tokens
    if not decay:
        return peak
    if tokens >= final_tokens:
        return peak * FINAL_RATE
    progress = (tokens - warmup_tokens) / (final_tokens - warmup_tokens)
    return peak * (FINAL_RATE + (1.0 - FINAL_RATE) * (1.0 + math.cos(math.pi * progress)) / 2.0)


class MemoryWindows(NamedTuple):
    """The windows of n environments, L <= K steps long, padded at the end as in training."""

    states: Tensor  # (n, L, width)
    actions: Tensor  # (n, L) int64; 0 at the current step, which has none yet, and in padding
    time_steps: Tensor  # (n, L) int64
    returns_to_go: Tensor  # (n, L) float32, raw
    last: Tensor  # (n,) int64, where in the window the current step is


class WindowMemory:
    """The last K steps of every environment, ready to be read as a batch of windows.

    Step t of an episode lies in slot t mod K, so nothing is ever moved. Frames are kept as their
    embeddings: weights do not change while acting and an embedding does not depend on where in
    the window its frame is, so each frame is encoded once, not K times.
    """

    def __init__(
        self,
        num_envs: int,
        context_length: int,
        width: int,
        target_return: float,
        device: torch.device,
    ) -> None:
        self._target_return = target_return
        self._device = device
        self._states = torch.zeros(num_envs, context_length, width, device=device)
        self._actions = np.zeros((num_envs, context_length), np.int64)
        self._returns_to_go = np.zeros((num_envs, context_length), np.float32)
        self._time_steps = np.zeros(num_envs, np.int64)  # of the step under way
        self._targets = np.full(num_envs, target_return, np.float64)  # what is left of them

    def begin_step(self, states: Tensor, env_ids: np.ndarray) -> None:
        """New frames have been seen: their embeddings (n, width)."""
        slots = self._time_steps[env_ids] % self._actions.shape[1]
        self._states[self._tensor(env_ids), self._tensor(slots)] = states.to(self._states.dtype)
        self._actions[env_ids, slots] = 0
        self._returns_to_go[env_ids, slots] = self._targets[env_ids]

    def windows(self, env_ids: np.ndarray) -> MemoryWindows:
        """The windows that end with the step under way, no longer than the longest real one."""
        context_length = self._actions.shape[1]
        before = np.minimum(self._time_steps[env_ids], context_length - 1)  # (n,)
        offsets = np.arange(before.max() + 1)  # (L,)
        mask = offsets <= before[:, None]  # (n, L)
        time_steps = ((self._time_steps[env_ids] - before)[:, None] + offsets) * mask
        envs, slots = env_ids[:, None], time_steps % context_length
        return MemoryWindows(
            states=self._states[self._tensor(envs), self._tensor(slots)],
            actions=self._tensor(self._actions[envs, slots] * mask),
            time_steps=self._tensor(time_steps),
            returns_to_go=self._tensor(self._returns_to_go[envs, slots] * mask),
            last=self._tensor(before),
        )

    def end_step(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        """Keep the actions, lower the targets by the rewards; where done, start anew."""
        slots = self._time_steps[env_ids] % self._actions.shape[1]
        self._actions[env_ids, slots] = actions
        left = self._targets[env_ids] - rewards
        self._targets[env_ids] = np.where(dones, self._target_return, left)
        self._time_steps[env_ids] = np.where(dones, 0, self._time_steps[env_ids] + 1)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)
