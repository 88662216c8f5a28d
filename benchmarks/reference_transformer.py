"""The plain side's DT and BCT: a GPT over (return-to-go, state, action) or (state, action) tokens.

Batches are as `WindowDataset` is collated: (returns-to-go, frames, actions, time steps, mask).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.reference_data import WindowDataset
from benchmarks.reference_methods import PlainMethod
from benchmarks.reference_parts import NUM_ACTIONS, ReferenceImpala
from benchmarks.sizes import HIDDEN_SIZE, LEARNING_RATE

LAYERS, HEADS, WIDTH, DROPOUT = 6, 8, 128, 0.1
WEIGHT_DECAY = 0.1
LARGEST_GRADIENT_NORM = 1.0
WARMUP_TOKENS = 10_240


class PlainAttention(nn.Module):
    """Causal softmax attention, (B, T, width) to (B, T, width)."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.later: Tensor
        self.register_buffer("later", torch.ones(num_tokens, num_tokens).triu(1).bool())

    def forward(self, x: Tensor) -> Tensor:
        size, num_tokens, _ = x.shape
        query, key, value = (
            part.view(size, num_tokens, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.query_key_value(x).split(WIDTH, 2)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        scores = scores.masked_fill(self.later, -torch.inf)
        weights = self.dropout(functional.softmax(scores, 3))
        mixed = (weights @ value).transpose(1, 2).reshape(size, num_tokens, WIDTH)
        attended: Tensor = self.output(mixed)
        return attended


class PlainBlock(nn.Module):
    """Attention and a feed-forward layer, each normalised before and added."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = PlainAttention(num_tokens)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.feed_forward = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class PlainTransformer(nn.Module):
    """Windows to action logits (B, K, 15) at each state; `conditioned` on returns-to-go or not."""

    def __init__(self, context_length: int, max_length: int, conditioned: bool) -> None:
        super().__init__()
        self.conditioned = conditioned
        self.tokens_per_step = 3 if conditioned else 2
        num_tokens = self.tokens_per_step * context_length
        self.embed_state = nn.Sequential(
            ReferenceImpala(HIDDEN_SIZE), nn.Linear(HIDDEN_SIZE, WIDTH), nn.Tanh()
        )
        self.embed_action = nn.Sequential(nn.Embedding(NUM_ACTIONS, WIDTH), nn.Tanh())
        if conditioned:
            self.embed_return = nn.Sequential(nn.Linear(1, WIDTH), nn.Tanh())
        self.embed_position = nn.Embedding(num_tokens, WIDTH)
        self.embed_time = nn.Embedding(max_length, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.Sequential(*(PlainBlock(num_tokens) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, NUM_ACTIONS)

    def forward(
        self, returns_to_go: Tensor, frames: Tensor, actions: Tensor, time_steps: Tensor
    ) -> Tensor:
        size, context_length = actions.shape
        times = self.embed_time(time_steps)
        states = self.embed_state(frames.flatten(0, 1)).view(size, context_length, WIDTH)
        tokens = [states + times, self.embed_action(actions) + times]
        if self.conditioned:
            tokens.insert(0, self.embed_return(returns_to_go.unsqueeze(2)) + times)
        x = torch.stack(tokens, 2).flatten(1, 2)
        positions = torch.arange(x.shape[1], device=x.device)
        x = self.blocks(self.dropout(x + self.embed_position(positions)))
        logits: Tensor = self.head(self.norm(x))
        return logits[:, self.tokens_per_step - 2 :: self.tokens_per_step]


class PlainSequenceMethod(PlainMethod):
    """DT if `conditioned`, else BCT: -log pi of the action at every real step."""

    def __init__(self, dataset: WindowDataset, batch_size: int, conditioned: bool) -> None:
        super().__init__()
        self.network = PlainTransformer(dataset.context_length, dataset.max_length, conditioned)
        self.return_scale = dataset.largest_return or 1.0
        self.final_tokens = 2 * len(dataset) * dataset.context_length * 3
        self.batch_tokens = batch_size * dataset.context_length * self.network.tokens_per_step
        matrices = [
            m.weight for m in self.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)
        ]
        decayed = {id(weight) for weight in matrices}
        others = [p for p in self.network.parameters() if id(p) not in decayed]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": WEIGHT_DECAY},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=LEARNING_RATE,
            betas=(0.9, 0.95),
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._share_of_rate)

    def _share_of_rate(self, steps: int) -> float:
        """A line to 1 over the first tokens, then a cosine to 0.1."""
        tokens = (steps + 1) * self.batch_tokens
        if tokens < WARMUP_TOKENS:
            return tokens / WARMUP_TOKENS
        progress = (tokens - WARMUP_TOKENS) / max(1, self.final_tokens - WARMUP_TOKENS)
        return 0.1 + 0.45 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    def update(self, batch: Sequence[Tensor]) -> float:
        returns_to_go, frames, actions, time_steps, mask = batch
        logits = self.network(returns_to_go / self.return_scale, frames, actions, time_steps)
        loss = functional.cross_entropy(logits[mask], actions[mask])
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), LARGEST_GRADIENT_NORM)
        self.optimiser.step()
        self.schedule.step()
        return loss.item()
