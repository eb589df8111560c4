"""The layers of a CLLM: collapse an array of token embeddings step by step, and mirror it.

A collapse layer is some blocks at one size followed by a reduction to the next;
an expand layer undoes it. Far from the vector the array is long, so the first
layer may be a perceptron, and attention there is local: cost grows linearly.
"""

# Shapes: B texts, t tokens and w width of one level (T, H at the outermost), D bottleneck.
from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Level = tuple[int, int]  # (tokens, width)


def attention_heads(width: int) -> int:
    """As many heads as divide the width into 32 coordinates or more each."""
    return max(h for h in range(1, max(2, width // 32 + 1)) if width % h == 0)


class Perceptron(nn.Module):
    """Pre-norm MLP on each token, with a residual: (B, t, w) to (B, t, w)."""

    def __init__(self, width: int, ratio: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x_Btw: Tensor) -> Tensor:
        """MLP and residual."""
        change_Btw: Tensor = self.down(F.gelu(self.up(self.norm(x_Btw))))
        return x_Btw + change_Btw


class Block(nn.Module):
    """Pre-norm transformer block: (B, t, w) to (B, t, w).

    Tokens attend within neighbouring windows of `window` where t is longer, so cost is linear
    in t (blocks of Child et al., 2019, "Sparse Transformers", without the strided part).
    """

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.heads = attention_heads(width)
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.perceptron = Perceptron(width)

    def forward(self, x_Btw: Tensor) -> Tensor:
        """Attention, then the MLP, each with its residual."""
        mixed: Tensor = self.perceptron(x_Btw + self.out(self.attend(self.norm(x_Btw))))
        return mixed

    def attend(self, x_Btw: Tensor) -> Tensor:
        """Attention within windows; padding at the end is masked."""
        B, t, w = x_Btw.shape
        size = min(t, self.window)
        short = -t % size
        x = F.pad(x_Btw, (0, 0, 0, short)).view(-1, size, w)  # (B * windows, size, w)
        qkv = self.qkv(x).view(-1, size, 3, self.heads, w // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mask = None
        if short:
            real = torch.arange(t + short, device=x.device).view(-1, 1, 1, size) < t
            mask = real.repeat(B, 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y.transpose(1, 2).reshape(B, t + short, w)[:, :t]


class Regroup(nn.Module):
    """Change the size of an array: from level (t, w) to (t', w'), either way.

    Neighbouring tokens are joined (or one is split) by a linear map shared over groups; a
    level that does not divide is padded with zeros. Orthonormal at first, and without a norm
    of its own: with the blocks' residuals starting at zero, an untrained CLLM is linear.
    """

    def __init__(self, old: Level, new: Level) -> None:
        super().__init__()
        (t, w), (t2, w2) = old, new
        self.old, self.new = old, new
        self.groups = min(t, t2)
        self.join = -(-t // self.groups)  # old tokens a group
        self.split = -(-t2 // self.groups)  # new tokens a group
        self.map = nn.Linear(self.join * w, self.split * w2)
        nn.init.orthogonal_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.position = nn.Parameter(torch.zeros(t2, w2)) if t2 > 1 else None

    def grouped(self, x_Btw: Tensor) -> Tensor:
        """Each group's tokens side by side, (B, groups, join * w)."""
        (t, w) = self.old
        x = F.pad(x_Btw, (0, 0, 0, self.groups * self.join - t))
        return x.reshape(-1, self.groups, self.join * w)

    def forward(self, x_Btw: Tensor) -> Tensor:
        """The array at the new level."""
        (t2, w2) = self.new
        y: Tensor = self.map(self.grouped(x_Btw)).reshape(-1, self.groups * self.split, w2)[:, :t2]
        return y if self.position is None else y + self.position


def blocks(level: Level, count: int, window: int, *, perceptron: bool) -> nn.Sequential:
    """`count` blocks for one level; a single token has nobody to attend to."""
    tokens, width = level
    if perceptron or tokens == 1:
        return nn.Sequential(*(Perceptron(width) for _ in range(count)))
    return nn.Sequential(*(Block(width, window) for _ in range(count)))


class Collapse(nn.Sequential):
    """Blocks at one level, then the reduction to the next."""

    def __init__(
        self, old: Level, new: Level, count: int, window: int, *, perceptron: bool
    ) -> None:
        super().__init__(blocks(old, count, window, perceptron=perceptron), Regroup(old, new))

    @property
    def regroup(self) -> Regroup:
        """The reduction."""
        return cast(Regroup, self[1])


class Expand(nn.Sequential):
    """The mirror image: expansion to the level above, then its blocks."""

    def __init__(
        self, old: Level, new: Level, count: int, window: int, *, perceptron: bool
    ) -> None:
        super().__init__(Regroup(old, new), blocks(new, count, window, perceptron=perceptron))

    @property
    def regroup(self) -> Regroup:
        """The expansion."""
        return cast(Regroup, self[0])
