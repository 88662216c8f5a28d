"""Behavioural cloning transformer: Decision Transformer (Chen et al. 2021) without the returns.

Loss      -log pi(a_t | s_t and all earlier states and actions of the window), averaged over the
          real steps of the batch; AdamW, gradient norm clipped.
Networks  GPT: 6 layers, 8 heads, width 128, dropout 0.1 while training; tokens (state, action) per
          step; the encoder (`agent_model`) embeds each frame.
Acting    samples pi of the window of the last `dt_context_length` steps, its argmax when
          `deterministic`. No return is asked for, so `dt_eval_ret` is refused.
The schedule is DT's and counts two tokens per step: the cosine ends after three passes over the
data. Deviates from DT in the missing returns alone: comparing the two shows their use.
"""

from __future__ import annotations

from offline.agents import dt


class Agent(dt.Agent):
    """Behavioural cloning transformer."""

    conditioned = False
