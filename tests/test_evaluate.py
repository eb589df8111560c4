"""What the vector carries: each number against its definition, on models that know nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cllm.arrays import TokenArrays
from cllm.batches import TokenTexts
from cllm.evaluate import _derangement, carried, restored_array, round_trip
from cllm.losses import null_nats, text_nats
from cllm.model import CLLM


def reference(nats: float) -> Any:
    return SimpleNamespace(nats=lambda texts: np.full(len(texts), nats))


@pytest.fixture(scope="module")
def some(texts: TokenTexts) -> TokenTexts:
    return TokenTexts.of(texts.names[:40], [list(row) for row in texts.rows[:40]], 0, 80)


def gains(model: CLLM, some: TokenTexts, nats: float, entropy: float | None) -> Any:
    vectors_ND = model.encode_tokens(some)
    rng = np.random.default_rng(0)
    return carried(model, reference(nats), some, vectors_ND, entropy, rng)


def test_gain_is_counted_from_the_cheapest_way_to_write_without_the_vector(
    tiny_cllm: CLLM, some: TokenTexts
) -> None:
    given_N, null_N = text_nats(tiny_cllm, some), null_nats(tiny_cllm, some)
    dear, cheap = gains(tiny_cllm, some, 1e6, None)[0], gains(tiny_cllm, some, 7.0, None)[0]
    assert dear["gain_nats"].mean == pytest.approx(null_N.mean() - given_N.mean(), abs=1e-3)
    assert cheap["gain_nats"].mean == pytest.approx(7.0 - given_N.mean(), abs=1e-3)
    assert "gain_over_entropy" not in cheap


def test_no_gain_is_above_the_entropy(tiny_cllm: CLLM, some: TokenTexts) -> None:
    found = gains(tiny_cllm, some, 1e6, 24.0)[0]
    assert found["gain_nats"].mean == pytest.approx(24.0 - found["nats_with_vector"].mean)
    assert found["gain_over_entropy"].mean == pytest.approx(found["gain_nats"].mean / 24.0)
    assert found["nats_per_dim"].mean == pytest.approx(found["gain_nats"].mean / 8)


def test_every_prefix_has_its_gain_and_a_plain_model_only_the_whole(
    new_cllm: Callable[..., CLLM], some: TokenTexts
) -> None:
    model = new_cllm()
    found, by_prefix = gains(model, some, 300.0, None)
    assert list(by_prefix) == [2, 4, 8]
    assert by_prefix[8].mean == found["gain_nats"].mean
    assert by_prefix[2].mean == pytest.approx(300.0 - text_nats(model, some, 2).mean(), abs=1e-3)
    model.config.nested = False
    assert list(gains(model, some, 300.0, None)[1]) == [8]


def test_array_r2_is_one_for_the_array_itself_and_zero_for_its_mean(
    new_cllm: Callable[..., CLLM], some: TokenTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_cllm()
    arrays: list[torch.Tensor] = []
    real = model.base.embed

    def embed(ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        arrays.append(real(ids_BT, mask_BT))
        return arrays[-1]

    whole = torch.cat(
        [real(part.ids_BT, part.mask_BT)[part.mask_BT] for _, part in some.in_order(64)]
    ).mean(0)
    monkeypatch.setattr(model.base, "embed", embed)
    monkeypatch.setattr(model, "decode_array", lambda _: arrays[-1])
    rng = np.random.default_rng(0)
    assert restored_array(model, some, rng)["array_r2"].mean == pytest.approx(1.0)
    monkeypatch.setattr(model, "decode_array", lambda _: whole.expand_as(arrays[-1]))
    assert restored_array(model, some, rng)["array_r2"].mean == pytest.approx(0.0, abs=1e-6)


def test_known_token_embeddings_are_not_worked_out_again(
    new_cllm: Callable[..., CLLM], some: TokenTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_cllm()
    rng = np.random.default_rng
    asked = restored_array(model, some, rng(0)), gains(model, some, 300.0, None)
    model.base.known = TokenArrays.of(model.base, [some])
    monkeypatch.setattr(model.base, "embed", None)
    known = restored_array(model, some, rng(0)), gains(model, some, 300.0, None)
    assert known[0]["array_r2"].mean == pytest.approx(asked[0]["array_r2"].mean, abs=1e-5)
    gain = known[1][0]["gain_nats"].mean
    assert gain == pytest.approx(asked[1][0]["gain_nats"].mean, abs=1e-3)


def test_slots_restore_no_array(new_cllm: Callable[..., CLLM], some: TokenTexts) -> None:
    found = restored_array(new_cllm(form="pooled"), some, np.random.default_rng(0))
    assert set(found) == {"forced_token_accuracy"}


def test_round_trip_is_none_where_texts_have_twins(tiny_cllm: CLLM, some: TokenTexts) -> None:
    vectors_ND = tiny_cllm.encode_tokens(some)
    texts = tiny_cllm.base.to_text([list(row) for row in some.rows])
    rng = np.random.default_rng(0)
    back = round_trip(tiny_cllm, vectors_ND, texts, vectors_ND, rng)
    assert back is not None
    assert back.mean == pytest.approx(0.0, abs=0.05)  # every text came back as it was
    twins_ND = np.repeat(vectors_ND[:1], 5, 0)
    assert round_trip(tiny_cllm, vectors_ND, texts, twins_ND, rng) is None


@given(n=st.integers(2, 200), seed=st.integers(0, 9))
def test_a_shuffle_leaves_nobody_their_own_vector(n: int, seed: int) -> None:
    given_N = _derangement(n, np.random.default_rng(seed))
    assert sorted(given_N) == list(range(n))
    assert (given_N != np.arange(n)).all()
