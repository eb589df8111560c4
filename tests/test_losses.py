"""What a CLLM is trained for, term by term."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cllm.batches import Batch, TokenTexts
from cllm.losses import (
    REST,
    Restoring,
    cluster_term,
    negative_term,
    prefix_lengths,
    squared_error,
    text_nats,
)
from cllm.model import CLLM
from cllm.settings import TrainSettings

# Shapes: B texts, T tokens, H width, D bottleneck.
DIM = 8
QUIET = {"nested": False, "vector_noise": 0.0, "token_noise": 0.0, "null": 0.0}
ALONE = {"array_weight": 0.0, "cluster_weight": 0.0, "negative_weight": 0.0}


@pytest.fixture(scope="module")
def model(new_cllm: Callable[..., CLLM]) -> CLLM:
    return new_cllm(dim=DIM)


@pytest.fixture(scope="module")
def task_of(model: CLLM, texts: TokenTexts) -> Callable[..., Restoring]:
    held_out = TokenTexts(texts.names[:8], texts.rows[:8], texts.pad, 0)
    return lambda **settings: Restoring(model, TrainSettings(**settings), held_out)


@pytest.fixture(scope="module")
def batch(texts: TokenTexts) -> Batch:
    return texts.gather(range(8))


def unit_noise(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@torch.no_grad()
def parts(task: Restoring, batch: Batch, step: int = 0) -> dict[str, float]:
    return {name: float(value) for name, value in task.losses(batch, step).items()}


# ---- the array -----------------------------------------------------------------------


def test_the_error_of_the_array_is_that_of_real_tokens_weighted_by_text() -> None:
    array_BTH = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    mask_BT = torch.tensor([[True, True, False, False], [True] * 4])
    spoilt = array_BTH.clone()
    spoilt[0, 2:] = 1e3
    longer = F.pad(spoilt, (0, 0, 0, 5), value=7.0)  # positions beyond the batch's longest text
    weight_B1 = torch.tensor([[0.5], [1.0]])
    assert not squared_error(longer, array_BTH, mask_BT, weight_B1).any()
    moved_N = squared_error(longer + 2, array_BTH, mask_BT, weight_B1)
    torch.testing.assert_close(moved_N, torch.tensor([2.0, 2.0, 4.0, 4.0, 4.0, 4.0]))


def test_restoring_the_mean_array_costs_about_one(
    task_of: Callable[..., Restoring], texts: TokenTexts
) -> None:
    task = task_of(**QUIET | {"array_weight": 1.0})
    task.model.start(texts)
    task.model.decode_array = lambda v: task.model.mean.expand(len(v), -1, -1)
    try:
        assert parts(task, texts.gather(range(len(texts))))["array"] == pytest.approx(1, abs=0.1)
    finally:
        del task.model.decode_array


# ---- gathering -----------------------------------------------------------------------


def test_cluster_term_grows_with_uniformity() -> None:
    centre = unit_noise(1, 16, seed=1)
    terms = [
        float(cluster_term(F.normalize(centre + width * unit_noise(256, 16), dim=-1), floor=0.0))
        for width in (0.0, 0.2, 0.5, 1.0, 5.0)
    ]
    assert terms == sorted(terms)
    assert terms[0] == pytest.approx(0, abs=1e-4)
    assert float(cluster_term(unit_noise(256, 512), 0.0)) == pytest.approx(4, abs=0.05)


def test_the_floor_prevents_collapse() -> None:
    """Going down the term alone gathers vectors, but not beyond the floor."""

    def settled(floor: float) -> float:
        raw = unit_noise(64, DIM).clone().requires_grad_(True)
        optimizer = torch.optim.Adam([raw], lr=0.04)
        for _ in range(150):
            optimizer.zero_grad()
            cluster_term(F.normalize(raw, dim=-1), floor).backward()
            optimizer.step()
        return float(F.normalize(raw.detach(), dim=-1).var(0, unbiased=False).sum())

    assert settled(0.0) < 0.05
    assert settled(0.5) == pytest.approx(0.5, abs=0.2)


def test_equal_vectors_still_give_a_finite_gradient() -> None:
    raw = torch.ones(8, DIM, requires_grad=True)
    cluster_term(F.normalize(raw, dim=-1), 0.5).backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


# ---- confusable texts ----------------------------------------------------------------


def test_negative_term_is_lower_for_matching_views() -> None:
    clean_BD, none_BD = unit_noise(32, DIM), torch.zeros(32, DIM)
    near_BD = F.normalize(clean_BD + 0.1 * unit_noise(32, DIM, seed=1), dim=-1)
    matching = float(negative_term(near_BD, clean_BD, none_BD, 0.1))
    assert matching < 0.8 * float(negative_term(near_BD.roll(1, 0), clean_BD, none_BD, 0.1))
    alike = clean_BD[:1].expand(32, -1)
    assert float(negative_term(alike, alike, alike, 0.1)) == pytest.approx(np.log(33), abs=1e-4)


def test_a_low_temperature_looks_at_the_nearest_confusable_text() -> None:
    a = F.normalize(torch.tensor([[1.0, 0, 0]]), dim=-1)
    b = F.normalize(torch.tensor([[1.0, 0.3, 0]]), dim=-1)
    far, farther = torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.0, 0, -1]])
    views = torch.cat([a, b, far, farther])

    def share_of_near(temperature: float) -> float:
        leaf = views.clone().requires_grad_(True)
        negative_term(a, leaf, torch.zeros_like(a), temperature).backward()
        size = leaf.grad.norm(dim=-1)
        return float(size[1] / size[1:].sum())

    assert share_of_near(0.05) > 0.99 > share_of_near(1.0)


def test_a_text_is_told_from_its_own_edit_and_not_from_another_ones() -> None:
    clean_BD = unit_noise(8, DIM)
    near_BD = F.normalize(clean_BD + 0.05 * unit_noise(8, DIM, seed=1), dim=-1)
    none = float(negative_term(clean_BD, clean_BD, torch.zeros(8, DIM), 0.1))
    assert float(negative_term(clean_BD, clean_BD, near_BD, 0.1)) > none + 0.3
    others = float(negative_term(clean_BD, clean_BD, near_BD.roll(1, 0), 0.1))
    assert others == pytest.approx(none, abs=0.05)


def test_edits_are_found_by_the_names_of_texts(
    new_cllm: Callable[..., CLLM], texts: TokenTexts, batch: Batch
) -> None:
    model = new_cllm()  # each text's edit is the one before it
    edits = TokenTexts(batch.names[1:], texts.rows[: len(batch) - 1], texts.pad, 0)
    how = TrainSettings(token_noise=0.1, negative_weight=1.0)
    task = Restoring(model, how, texts, edits=edits)
    edited_BD = task._edited(batch)
    assert not edited_BD[0].any(), "the first text has none"
    alone_BD = torch.from_numpy(model.encode_tokens(texts))[: len(batch) - 1]
    torch.testing.assert_close(edited_BD[1:].detach(), alone_BD, rtol=1e-3, atol=1e-4)
    copies = TokenTexts(batch.names, texts.rows[: len(batch)], texts.pad, 0)
    with_copies, without = Restoring(model, how, texts, edits=copies), Restoring(model, how, texts)
    assert parts(with_copies, batch)["negative"] > parts(without, batch)["negative"] + 0.3


def test_edits_are_kept_away_without_token_noise_as_well(
    new_cllm: Callable[..., CLLM], texts: TokenTexts, batch: Batch
) -> None:
    model = new_cllm()
    edits = TokenTexts(batch.names[1:], texts.rows[: len(batch) - 1], texts.pad, 0)
    task = Restoring(model, TrainSettings(negative_weight=1.0), texts, edits=edits)
    clean_BD = model.vectors_of(batch)
    wanted = negative_term(clean_BD, clean_BD, task._edited(batch), 0.1)
    assert parts(task, batch)["negative"] == pytest.approx(float(wanted.detach()), rel=1e-4)
    task.losses(batch, 0)["negative"].backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in model.parameters())


# ---- the weighted sum ----------------------------------------------------------------


def test_terms_are_off_when_their_weight_is_zero(
    task_of: Callable[..., Restoring], batch: Batch
) -> None:
    alone = ALONE | {"prefix_weight": 1.0}
    off = parts(task_of(**alone), batch)
    assert set(off) == {"loss", "cross_entropy"}
    assert off["loss"] == pytest.approx(off["cross_entropy"] * 8 / int(batch.mask_BT.sum()))
    for name in ("array", "cluster", "negative"):
        on = parts(task_of(**alone | {f"{name}_weight": 0.7}), batch)
        assert set(on) == {"loss", "cross_entropy", name}
        assert on["loss"] == pytest.approx(off["loss"] + 0.7 * on[name], rel=1e-5)


def test_vectors_are_gathered_over_random_batches(task_of: Callable[..., Restoring]) -> None:
    assert task_of(cluster_weight=0.1).mixed
    assert not task_of(cluster_weight=0.0).mixed
    assert task_of(cluster_weight=0.0, mixed=True).mixed, "to be compared with"


def test_slots_restore_no_array(
    new_cllm: Callable[..., CLLM], texts: TokenTexts, batch: Batch
) -> None:
    task = Restoring(new_cllm(form="direct"), TrainSettings(array_weight=1.0), texts)
    assert "array" not in parts(task, batch)


@pytest.mark.parametrize("split", [[0, 1, 2, 3], [6, 1], [5, 0, 3, 2, 7]])
def test_cross_entropy_of_a_batch_is_that_of_its_parts(
    task_of: Callable[..., Restoring], texts: TokenTexts, batch: Batch, split: list[int]
) -> None:
    """With every noise on: it belongs to the text."""
    task = task_of(**ALONE | {"token_noise": 0.2, "vector_noise": 0.5, "null": 0.2})
    rest = [i for i in range(8) if i not in split]
    whole = parts(task, batch, step=3)
    sizes = [int(texts.gather(rows).mask_BT.sum()) for rows in (split, rest)]
    halves = [parts(task, texts.gather(rows), step=3) for rows in (split, rest)]
    weighted = sum(n * half["loss"] for n, half in zip(sizes, halves, strict=True)) / sum(sizes)
    assert whole["loss"] == pytest.approx(weighted, rel=1e-5)
    assert whole["loss"] != parts(task, batch, step=4)["loss"]


@pytest.mark.parametrize(
    "noise", [{"token_noise": 0.3}, {"vector_noise": 0.5}, {"null": 0.5}, {"nested": True}]
)
def test_each_kind_of_noise_can_be_off_alone(
    task_of: Callable[..., Restoring], batch: Batch, noise: dict[str, Any]
) -> None:
    still = [parts(task_of(**ALONE | QUIET), batch, step)["loss"] for step in (0, 1)]
    assert still[0] == still[1]
    moved = [parts(task_of(**ALONE | QUIET | noise), batch, step)["loss"] for step in (0, 1)]
    assert moved[0] != moved[1]


# ---- prefixes ------------------------------------------------------------------------


def disturbed(task: Restoring, clean_BD: torch.Tensor, batch: Batch, step: int) -> torch.Tensor:
    return task._disturbed(clean_BD, task._kept(batch.keys_B, step), batch, step)


@torch.no_grad()
def test_prefixes_weigh_less_than_whole_vectors(
    task_of: Callable[..., Restoring], batch: Batch
) -> None:
    """The loss falls by what the prefixes lose, and not where all texts are whole."""
    nested = QUIET | ALONE | {"nested": True, "full_length": 0.5}
    full, light = (task_of(**nested | {"prefix_weight": w}) for w in (1.0, 0.25))
    for step in range(8):
        kept_BD = full._kept(batch.keys_B, step)
        whole_B = kept_BD.all(1)
        array_BTH = full.model.base.embed(batch.ids_BT, batch.mask_BT)
        vectors_BD = full._disturbed(
            full.model.encode_array(array_BTH, batch.mask_BT), kept_BD, batch, step
        )
        memory_BMH = full.model.decode_array(vectors_BD)
        nats_B = full.model.base.cross_entropy(memory_BMH, batch.ids_BT, batch.mask_BT).sum(1)
        wanted = (nats_B * torch.where(whole_B, 1.0, 0.25)).sum() / batch.mask_BT.sum()
        assert float(light.losses(batch, step)["loss"]) == pytest.approx(float(wanted), rel=1e-4)
        assert (float(full.losses(batch, step)["loss"]) > float(wanted)) == (not whole_B.all())


def test_a_prefix_answers_for_the_beginning_of_its_text(
    task_of: Callable[..., Restoring], batch: Batch
) -> None:
    """The weight above REST halves every `front` * k tokens; whole vectors count all alike."""
    task = task_of(**QUIET | ALONE | {"nested": True, "front": 1.5, "prefixes": [2, 4]})
    kept_BD = torch.arange(DIM)[None, :] < torch.tensor([0, 2, 4, DIM])[:, None]
    weight_BT = task._fronts(kept_BD, 13)
    torch.testing.assert_close(weight_BT[[0, 3]], torch.ones(2, 13))
    for row, k in ((1, 2), (2, 4)):
        assert weight_BT[row, 0] == 1
        assert float(weight_BT[row, int(1.5 * k)]) == pytest.approx(REST + (1 - REST) / 2)
        assert float(weight_BT[row, int(3 * k)]) == pytest.approx(REST + (1 - REST) / 4)
    lengths = {int(n) for step in range(30) for n in task._kept(batch.keys_B, step).sum(1)}
    assert lengths == {2, 4, DIM}


def test_plain_training_leaves_vectors_whole(
    task_of: Callable[..., Restoring], batch: Batch
) -> None:
    clean_BD = unit_noise(8, DIM)
    task = task_of(**QUIET)
    for step in range(20):
        torch.testing.assert_close(disturbed(task, clean_BD, batch, step), clean_BD)


@torch.no_grad()
def test_a_nested_vector_is_cut_to_a_prefix_and_back_on_the_sphere(
    task_of: Callable[..., Restoring], batch: Batch
) -> None:
    clean_BD = unit_noise(8, DIM)
    task = task_of(**QUIET | {"nested": True})
    lengths = []
    for step in range(60):
        cut_BD = disturbed(task, clean_BD, batch, step)
        torch.testing.assert_close(cut_BD.norm(dim=-1), torch.ones(8))
        for cut_D, clean_D in zip(cut_BD, clean_BD, strict=True):
            length = int(cut_D.count_nonzero())
            torch.testing.assert_close(cut_D[:length], F.normalize(clean_D[:length], dim=-1))
            assert (cut_D[length:] == 0).all()
            lengths.append(length)
    assert set(lengths) == {*prefix_lengths(DIM), DIM}
    share = task.settings.full_length
    assert np.mean(np.array(lengths) == DIM) == pytest.approx(share, abs=0.08)


@given(st.integers(2, 4096))
def test_prefix_lengths_rise_from_two_and_stay_below_dim(dim: int) -> None:
    lengths = prefix_lengths(dim)
    assert lengths == sorted(set(lengths))
    assert all(2 <= k < dim for k in lengths)
    assert dim == 2 or lengths[0] == 2
    assert all(b <= 2 * a for a, b in zip(lengths, [*lengths[1:], dim], strict=False))


def test_held_out_texts_are_scored_by_every_length_alike_where_that_is_wanted(
    task_of: Callable[..., Restoring], model: CLLM
) -> None:
    task = task_of(nested=True, prefixes=(2, 4, 6), score_prefixes=True)
    each_LN = [text_nats(model, task.held_out, k) for k in (2, 4, 6, DIM)]
    expected = [each_LN[row % 4][row] for row in range(len(task.held_out))]
    assert task.score() == pytest.approx(-np.mean(expected), rel=1e-4)
    assert task_of().score() == pytest.approx(-each_LN[3].mean(), rel=1e-4)


def test_a_two_dimensional_model_can_be_nested(
    new_cllm: Callable[..., CLLM], texts: TokenTexts, batch: Batch
) -> None:
    task = Restoring(new_cllm(dim=2), TrainSettings(nested=True), texts)
    assert np.isfinite(parts(task, batch)["loss"])


@torch.no_grad()
def test_vector_noise_moves_by_about_its_angle(
    task_of: Callable[..., Restoring], batch: Batch
) -> None:
    clean_BD = unit_noise(8, DIM)
    task = task_of(**QUIET | {"vector_noise": 0.1})
    moved = torch.stack([disturbed(task, clean_BD, batch, step) for step in range(50)])
    angles = torch.arccos((moved * clean_BD).sum(-1).clamp(-1, 1))
    assert float(angles.square().mean().sqrt()) == pytest.approx(0.1, rel=0.15)


@torch.no_grad()
def test_a_share_of_texts_trains_the_null_vector(
    task_of: Callable[..., Restoring], batch: Batch
) -> None:
    task = task_of(**QUIET | {"null": 0.25})
    null_D = task.model.null_vector()
    clean_BD = unit_noise(8, DIM)
    hits = [
        (disturbed(task, clean_BD, batch, step) - null_D).abs().amax(1) < 1e-6 for step in range(60)
    ]
    assert float(torch.stack(hits).float().mean()) == pytest.approx(0.25, abs=0.06)


def test_the_null_vector_gets_a_gradient(task_of: Callable[..., Restoring], batch: Batch) -> None:
    task = task_of(**ALONE | QUIET | {"null": 0.5})
    task.losses(batch, 0)["loss"].backward()
    assert float(task.model.null.grad.abs().sum()) > 0
    task.model.zero_grad()


# ---- scoring -------------------------------------------------------------------------


@torch.no_grad()
def test_text_nats_are_those_of_the_loss(
    task_of: Callable[..., Restoring], model: CLLM, texts: TokenTexts, batch: Batch
) -> None:
    few = TokenTexts(texts.names[:8], texts.rows[:8], texts.pad, 0)
    nats_N = text_nats(model, few, batch=3)
    quiet = parts(task_of(**ALONE | QUIET), batch)
    assert nats_N.mean() == pytest.approx(quiet["cross_entropy"], rel=1e-5)
    assert task_of().score() == pytest.approx(-nats_N.mean(), rel=1e-5)
    np.testing.assert_allclose(text_nats(model, few, prefix=DIM), nats_N, rtol=1e-5)
    assert not np.allclose(text_nats(model, few, prefix=2), nats_N, rtol=1e-4)
