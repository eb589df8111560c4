"""The layers of a CLLM and the three forms made of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from cllm.codecs import SLOTS, make_codec, mirrored, principal_axes
from cllm.layers import Block, Collapse, Expand, Perceptron, Regroup, blocks
from cllm.reductions import plan_reductions

# Shapes: N texts, t tokens, w width, V values of a group.


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(module: nn.Module, seed: int = 1) -> nn.Module:
    """With weights such that no part is silent (some start at zero)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return module.eval()


# ---- blocks --------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 5, 73, 8192])
@pytest.mark.parametrize("width", [8, 36])
def test_a_block_keeps_the_shape(tokens: int, width: int) -> None:
    x_Btw = noise(2, tokens, width)
    y_Btw = stirred(Block(width, window=64))(x_Btw)
    assert y_Btw.shape == x_Btw.shape
    assert y_Btw.isfinite().all()


@pytest.mark.parametrize("layer", [Block(16, 8), Perceptron(16)])
def test_an_untrained_block_changes_nothing(layer: nn.Module) -> None:
    x_Btw = noise(2, 20, 16)
    torch.testing.assert_close(layer(x_Btw), x_Btw)


def test_tokens_see_their_window_and_no_other() -> None:
    block = stirred(Block(16, window=4))
    x_Btw = noise(1, 12, 16)
    changed = x_Btw.clone()
    changed[:, 5] = noise(16, seed=9)
    moved = (block(changed) - block(x_Btw)).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [4 <= i < 8 for i in range(12)]


@given(tokens=st.integers(1, 40), window=st.integers(1, 12))
@examples(max_examples=30)
def test_the_last_window_does_not_see_its_padding(tokens: int, window: int) -> None:
    block = stirred(Block(8, window))
    x_Btw = noise(2, tokens, 8)
    start = (tokens - 1) // min(tokens, window) * min(tokens, window)
    alone = block.attend(x_Btw[:, start:])
    torch.testing.assert_close(block.attend(x_Btw)[:, start:], alone, atol=1e-5, rtol=1e-4)


def test_each_text_of_a_batch_is_on_its_own() -> None:
    block = stirred(Block(8, window=4))
    x_Btw = noise(3, 10, 8)
    torch.testing.assert_close(block(x_Btw)[1:2], block(x_Btw[1:2]), atol=1e-5, rtol=1e-4)


def test_one_token_or_the_outermost_layer_is_a_perceptron() -> None:
    kinds = [
        {type(m) for m in blocks(level, 2, 8, perceptron=perceptron)}
        for level, perceptron in [((1, 8), False), ((9, 8), True), ((9, 8), False)]
    ]
    assert kinds == [{Perceptron}, {Perceptron}, {Block}]


# ---- regrouping ----------------------------------------------------------------------

LEVELS = st.tuples(st.integers(1, 20), st.integers(1, 9))


@given(old=LEVELS, new=LEVELS)
def test_regroup_goes_from_any_level_to_any_other(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    y = stirred(Regroup(old, new))(noise(3, *old))
    assert y.shape == (3, *new)
    assert y.isfinite().all()


def test_regroup_joins_neighbours_only() -> None:
    regroup = Regroup((12, 4), (3, 4))
    x = noise(1, 12, 4)
    changed = x.clone()
    changed[:, 5] += 1
    moved = (regroup(changed) - regroup(x)).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [False, True, False]


def test_an_untrained_reduction_is_orthonormal_and_its_transpose_undoes_an_expansion() -> None:
    up, down = Regroup((3, 4), (12, 4)), Regroup((12, 4), (3, 4))
    with torch.no_grad():
        down.map.weight.copy_(up.map.weight.T)
    x = noise(2, 3, 4)
    torch.testing.assert_close(down(up(x)), x, atol=1e-5, rtol=1e-4)


# ---- the three forms -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["mirrored", "pooled", "direct"])
@pytest.mark.parametrize(
    ("tokens", "width", "dim"), [(1, 16, 2), (5, 8, 3), (73, 32, 8), (80, 32, 100)]
)
def test_every_form_folds_and_unfolds(form: str, tokens: int, width: int, dim: int) -> None:
    if form != "mirrored" and width < 32:
        width = 32  # what the field's forms are built for
    codec = stirred(make_codec(form, (tokens, width), dim, 1, 16, perceptron=True))
    vectors = codec.encoder(noise(3, tokens, width))
    assert vectors.shape == (3, dim)
    restored = codec.decoder(vectors)
    assert restored.shape == (3, tokens if form == "mirrored" else SLOTS, width)
    assert restored.isfinite().all()
    assert not torch.allclose(restored[0], restored[1], atol=1e-3)


@given(tokens=st.integers(1, 20), width=st.integers(2, 12), data=st.data())
@examples(max_examples=20)
def test_levels_are_the_planned_reductions_and_their_mirror(
    tokens: int, width: int, data: st.DataObject
) -> None:
    dim = data.draw(st.integers(2, tokens * width))
    codec = mirrored((tokens, width), dim, 1, 16, perceptron=True)
    planned = [step.size for step in plan_reductions(tokens, width, dim)]
    x = noise(1, tokens, width)
    down, up = [], []
    for layer in codec.encoder:
        x = layer(x)
        down += [x[0].numel()] if isinstance(layer, Collapse) else []
    for layer in codec.decoder:
        x = layer(x)
        up += [x[0].numel()] if isinstance(layer, Expand) else []
    assert down == planned
    assert up == [*planned[-2::-1], tokens * width][: len(up)]
    assert x.shape == (1, tokens, width)


def test_more_blocks_are_more_weights_and_the_first_layer_may_be_a_perceptron() -> None:
    def count(**how: int) -> int:
        codec = make_codec("mirrored", (64, 32), 8, how["blocks"], 16, perceptron=bool(how["p"]))
        return sum(w.numel() for w in codec.parameters())

    assert count(blocks=2, p=1) > 1.5 * count(blocks=1, p=1)
    assert count(blocks=1, p=1) < count(blocks=1, p=0)


# ---- the start -----------------------------------------------------------------------


def low_rank(count: int = 500, tokens: int = 12, width: int = 8, rank: int = 3) -> Tensor:
    """Few causes, and values that lie in the same few directions at every token."""
    causes = noise(count, rank, seed=3) * torch.linspace(2, 0.7, rank)
    profiles = noise(rank, tokens, 4, seed=2) @ torch.linalg.qr(noise(width, 4, seed=5))[0].T
    x_Ntw = torch.einsum("nr,rtw->ntw", causes, profiles) + 0.1 * noise(count, tokens, width)
    return x_Ntw - x_Ntw.mean(0)


def r2(x: Tensor, restored: Tensor) -> float:
    return 1 - float((x - restored).square().mean() / x.square().mean())


@torch.no_grad()
def test_the_start_is_close_to_a_principal_component_analysis() -> None:
    x_Ntw = low_rank()
    x_NV = x_Ntw.flatten(1)
    axes = torch.linalg.svd(x_NV, full_matrices=False)[2][:6]
    best = r2(x_NV, x_NV @ axes.T @ axes)
    torch.manual_seed(0)
    codec = mirrored((12, 8), 6, 1, 16, perceptron=True)
    assert r2(x_Ntw, codec.decoder(codec.encoder(x_Ntw))) < best - 0.3
    codec.start(x_Ntw)
    started = r2(x_Ntw, codec.decoder(codec.encoder(x_Ntw)))
    assert best - 0.05 < started <= best + 1e-5


@torch.no_grad()
def test_started_coordinates_weigh_the_same() -> None:
    x_Ntw = low_rank()
    codec = mirrored((12, 8), 5, 1, 16, perceptron=True)
    codec.start(x_Ntw)
    spread = codec.encoder(x_Ntw).std(0)
    torch.testing.assert_close(spread, torch.ones(5), atol=0.05, rtol=0)


@torch.no_grad()
def test_the_start_survives_arrays_without_spread_and_few_texts() -> None:
    codec = mirrored((12, 8), 20, 1, 16, perceptron=True)
    for x_Ntw in (torch.zeros(4, 12, 8), low_rank(3)):
        codec.start(x_Ntw)
        assert codec.decoder(codec.encoder(x_Ntw)).isfinite().all()


def test_principal_axes_are_orthonormal_and_in_order() -> None:
    axes, spread = principal_axes(noise(200, 6) * torch.tensor([1.0, 5, 2, 4, 3, 6]), 4)
    torch.testing.assert_close(axes @ axes.T, torch.eye(4), atol=1e-5, rtol=0)
    assert axes.abs().argmax(1).tolist() == [5, 1, 3, 4]
    assert spread.tolist() == sorted(spread.tolist(), reverse=True)


def test_axes_of_too_many_values_are_a_rotation() -> None:
    axes, _ = principal_axes(noise(3, 4000), 5)
    torch.testing.assert_close(axes @ axes.T, torch.eye(5), atol=1e-4, rtol=0)
