"""Order and make-up of batches."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cllm.batches import POOL_BATCHES, Batch, TokenTexts
from cllm.errors import InputError
from cllm.noise import text_keys
from cllm.workers import Workers

PAD, END = 0, 1


def some(count: int, seed: int = 0, longest: int = 30) -> TokenTexts:
    lengths = np.random.default_rng(seed).integers(1, longest, count)
    rows = [[*range(2, 2 + n), END] for n in lengths]
    return TokenTexts.of([f"t{i}" for i in range(count)], rows, PAD, context=100)


def names(batches: list[Batch]) -> list[tuple[str, ...]]:
    return [batch.names for batch in batches]


def take(texts: TokenTexts, steps: int, batch: int, seed: int = 0, first: int = 0) -> list[Batch]:
    return [batch for (batch,) in islice(texts.batches(batch, seed, first), steps)]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    once, again, other = (names(take(some(40), 20, 4, seed)) for seed in (0, 0, 1))
    assert once == again
    assert once != other
    assert once[:10] != once[10:]  # a new epoch, a new order


def test_mixed_batches_are_random_parts_of_the_texts() -> None:
    texts = some(400)
    alike, mixed = (
        [np.ptp(batch.mask_BT.sum(1).numpy())
         for (batch,) in islice(texts.batches(20, 0, mixed=mixed), 20)]
        for mixed in (False, True)
    )  # fmt: skip
    assert np.median(alike) * 4 < np.median(mixed)
    batches = [batch for (batch,) in islice(texts.batches(20, 0, mixed=True), 20)]
    assert len({name for batch in batches for name in batch.names}) == 400


@given(first=st.integers(0, 50), count=st.integers(5, 60), batch=st.integers(1, 9))
def test_resuming_at_a_step_gives_the_same_batches(first: int, count: int, batch: int) -> None:
    texts = some(count)
    straight = names(take(texts, first + 12, batch))
    assert names(take(texts, 12, batch, first=first)) == straight[first:]


@given(count=st.integers(1, 300), batch=st.integers(1, 20), seed=st.integers(0, 5))
def test_an_epoch_holds_every_text_once_up_to_the_last_partial_batch(
    count: int, batch: int, seed: int
) -> None:
    texts = some(count)
    steps = texts.steps_per_epoch(batch)
    seen = Counter(name for each in take(texts, steps, batch, seed) for name in each.names)
    assert set(seen.values()) == {1}
    size = min(batch, count)
    assert sum(seen.values()) == count // size * size


def test_what_is_left_over_changes_with_the_epoch() -> None:
    texts = some(100)  # one pool, 36 texts left over each time
    seen = {name for each in take(texts, 30, 64) for name in each.names}
    assert len(seen) == 100
    longest = max(map(len, texts.rows))
    assert any(each.ids_BT.shape[1] == longest for each in take(texts, 10, 64))


def test_batches_hold_texts_of_similar_length() -> None:
    texts = some(POOL_BATCHES * 8, longest=90)
    spread = [np.ptp(each.mask_BT.sum(1).numpy()) for each in take(texts, POOL_BATCHES, 8)]
    assert np.mean(spread) < 10
    # but short ones do not all come first
    sizes = [each.ids_BT.shape[1] for each in take(texts, POOL_BATCHES, 8)]
    assert sizes != sorted(sizes)


def test_a_batch_larger_than_the_corpus_is_the_corpus() -> None:
    texts = some(3)
    assert texts.steps_per_epoch(64) == 1
    for batch in take(texts, 3, 64):
        assert sorted(batch.names) == ["t0", "t1", "t2"]


def test_cutting_keeps_the_end_token_and_is_counted() -> None:
    rows = [[5, 6, END], [*range(10, 30), END], [*range(10, 17), END]]
    texts = TokenTexts.of(["a", "b", "c"], rows, PAD, context=8)
    assert texts.cut == 1
    assert texts.rows[1].tolist() == [10, 11, 12, 13, 14, 15, 16, END]
    assert texts.rows[2].tolist() == rows[2]
    assert texts.tokens == 3 + 8 + 8


def test_gather_pads_masks_and_names() -> None:
    texts = TokenTexts.of(["a", "b"], [[5, 6, END], [7, END]], PAD, context=8)
    batch = texts.gather([1, 0])
    assert batch.ids_BT.tolist() == [[7, END, PAD], [5, 6, END]]
    assert batch.mask_BT.tolist() == [[True, True, False], [True, True, True]]
    assert batch.names == ("b", "a")
    np.testing.assert_array_equal(batch.keys_B, text_keys(["b", "a"]))
    assert texts.gather([1], length=5).ids_BT.shape == (1, 5)
    moved = batch.to(torch.device("cpu"))
    assert moved.names == batch.names
    assert len(moved) == 2


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_in_order_gives_each_text_once_with_its_row(batch: int) -> None:
    texts = some(30)
    rows: list[int] = []
    lengths: list[int] = []
    for chosen_B, part in texts.in_order(batch):
        assert part.names == tuple(texts.names[i] for i in chosen_B)
        rows += chosen_B.tolist()
        lengths += part.mask_BT.sum(1).tolist()
    assert sorted(rows) == list(range(30))
    assert lengths == sorted(lengths)


@given(count=st.integers(12, 40), workers=st.integers(1, 4), pieces=st.integers(1, 3))
def test_parts_deal_out_a_whole_batch(count: int, workers: int, pieces: int) -> None:
    texts = some(60)
    chosen = np.random.default_rng(0).permutation(60)[:count]
    dealt = [texts.parts(chosen, Workers(rank, workers), pieces) for rank in range(workers)]
    whole = dealt[0][0].whole
    assert (whole.texts, whole.parts) == (count, workers * pieces)
    assert whole.tokens == sum(len(texts.rows[i]) for i in chosen)
    assert whole.counts == tuple(sum(map(len, mine)) for mine in dealt)
    order = [name for mine in dealt for piece in mine for name in piece.names]
    assert sorted(order) == sorted(texts.names[i] for i in chosen)
    for piece in (piece for mine in dealt for piece in mine):
        np.testing.assert_array_equal(piece.keys_B, whole.keys_G[piece.rows])
        assert len(piece) > 0


def test_too_many_workers_for_a_batch_is_said() -> None:
    with pytest.raises(InputError, match=r"3 texts is too small for 2 workers and 2 pieces"):
        some(9).parts(np.arange(3), Workers(0, 2), 2)
