"""The three forms of a CLLM: how an array of token embeddings becomes one vector, and back.

`mirrored` is the article's: collapse layers and their mirror image. `pooled` and
`direct` are what the field uses, kept to be beaten: 16 memory slots, no hierarchy.
"""

# Shapes: B texts, T tokens, H width, D bottleneck, S slots.
from __future__ import annotations

import logging
from itertools import pairwise

import torch
from torch import Tensor, nn

from cllm.layers import Block, Collapse, Expand, Level, Perceptron, Regroup, attention_heads
from cllm.reductions import plan_reductions

log = logging.getLogger(__name__)

SLOTS = 16


class Codec(nn.Module):
    """Encoder (B, T, H) to (B, D) and decoder (B, D) to (B, M, H); M is T or 16."""

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def start(self, arrays_NTH: Tensor) -> None:
        """Prepare for standardised arrays like these; by default nothing is to be done."""


def make_codec(
    form: str, array: Level, dim: int, blocks: int, window: int, *, perceptron: bool
) -> Codec:
    """The encoder and decoder of a form for arrays of (T, H)."""
    if form == "mirrored":
        return mirrored(array, dim, blocks, window, perceptron=perceptron)
    make_encoder = {"pooled": pooled_encoder, "direct": direct_encoder}[form]
    return Codec(
        make_encoder(array, dim, blocks, window), slot_decoder(array[1], dim, blocks, window)
    )


def mirrored(array: Level, dim: int, blocks: int, window: int, *, perceptron: bool) -> Codec:
    """Collapse layers along `plan_reductions`, mirrored by expand layers."""
    levels = [array, *(step.shape for step in plan_reductions(*array, dim))]
    down: list[Collapse] = []
    up: list[Expand] = []
    for i, (old, new) in enumerate(pairwise(levels)):
        outermost = perceptron and i == 0
        down.append(Collapse(old, new, blocks, window, perceptron=outermost))
        up.insert(0, Expand(new, old, blocks, window, perceptron=outermost))
    return Mirrored(
        nn.Sequential(*down, nn.Flatten()), nn.Sequential(nn.Unflatten(1, levels[-1]), *up)
    )


class Mirrored(Codec):
    """The article's form. `start` makes it a hierarchical PCA, from which training goes on."""

    @torch.no_grad()
    def start(self, arrays_NTH: Tensor) -> None:
        """Set each reduction to the principal components of its input, each expansion back.

        Greedy, level by level, like the layer-wise pre-training of deep autoencoders (Hinton &
        Salakhutdinov 2006). The last step is whitened, so that all coordinates weigh the same.
        """
        x = arrays_NTH
        down = [m for m in self.encoder if isinstance(m, Collapse)]
        up = [m for m in self.decoder if isinstance(m, Expand)]
        for collapse, expand in zip(down, reversed(up), strict=True):
            there, back = collapse.regroup, expand.regroup
            axes, spread = principal_axes(there.grouped(x).flatten(0, 1), there.map.out_features)
            if collapse is down[-1]:
                there.map.weight.copy_(axes / spread[:, None])
                back.map.weight.copy_((axes * spread[:, None]).T)
            else:
                there.map.weight.copy_(axes)
                back.map.weight.copy_(axes.T)
            x = there(x)


LARGEST_PCA = 4096  # beyond it a reduction stays a random rotation


def principal_axes(x_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` principal axes (count, V) and the spread along each (count,)."""
    values = x_NV.shape[1]
    if values > LARGEST_PCA:
        log.info("a reduction of %d values starts as a random rotation, not as a PCA", values)
        axes = nn.init.orthogonal_(x_NV.new_empty(count, values))
    else:
        _, vectors = torch.linalg.eigh(x_NV.T @ x_NV / len(x_NV))
        axes = vectors.flip(1).T[:count]
    spread = (x_NV @ axes.T).square().mean(0).sqrt()
    return axes, spread.clamp(min=1e-3 * float(spread.max()) + 1e-6)


def pooled_encoder(array: Level, dim: int, blocks: int, window: int) -> nn.Sequential:
    """Attention pooling to four tokens, then one linear map to the vector."""
    width = array[1]
    return nn.Sequential(
        *(Block(width, window) for _ in range(blocks)),
        Pool(width, 4),
        nn.Flatten(),
        nn.LayerNorm(4 * width),
        nn.Linear(4 * width, dim),
    )


def direct_encoder(array: Level, dim: int, blocks: int, window: int) -> nn.Sequential:
    """Two strided 4:1 reductions, then flattened to the vector in one map."""
    (tokens, width), levels = array, [array]
    for _ in range(2):
        tokens = -(-tokens // 4)
        levels.append((tokens, width))
    steps: list[nn.Module] = []
    for old, new in pairwise(levels):
        steps += [Regroup(old, new), *(Block(width, window) for _ in range(blocks))]
    return nn.Sequential(
        *steps, nn.Flatten(), nn.LayerNorm(tokens * width), nn.Linear(tokens * width, dim)
    )


def slot_decoder(width: int, dim: int, blocks: int, window: int) -> nn.Sequential:
    """The vector through an MLP to 16 slots, then blocks over the slots (vec2text's form)."""
    slots = (SLOTS, width)
    return nn.Sequential(
        nn.Linear(dim, 4 * width),
        Perceptron(4 * width),
        nn.Linear(4 * width, SLOTS * width),
        nn.Unflatten(1, slots),
        Positions(slots),
        *(Block(width, window) for _ in range(2 * blocks)),
    )


class Positions(nn.Module):
    """Add a learned position to each token."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(level) * 0.1)

    def forward(self, x_BSH: Tensor) -> Tensor:
        """Tokens with their positions."""
        return x_BSH + self.weight


class Pool(nn.Module):
    """Learned queries gather the array: (B, T, H) to (B, S, H)."""

    def __init__(self, width: int, slots: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, slots, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, attention_heads(width), batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BTH: Tensor) -> Tensor:
        """What each query gathered."""
        x = self.norm(x_BTH)
        query = self.query.expand(len(x), -1, -1)
        pooled: Tensor = self.attention(query, x, x, need_weights=False)[0]
        return pooled
