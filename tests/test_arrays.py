from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from cllm.arrays import TokenArrays
from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.losses import Restoring
from cllm.model import CLLM
from cllm.settings import TrainSettings


@pytest.fixture
def known(tiny_base: BaseLM, texts: TokenTexts) -> Iterator[TokenArrays]:
    """Of the training texts, each once though they are given twice; the base knows them."""
    arrays = TokenArrays.of(tiny_base, [texts, texts])
    tiny_base.known = arrays
    yield arrays
    tiny_base.known = None


def test_they_are_what_the_encoder_makes(
    tiny_base: BaseLM, texts: TokenTexts, known: TokenArrays
) -> None:
    batch = texts.gather(range(5))
    found = known.find(batch)
    assert found is not None
    assert torch.equal(found[1], batch.mask_BT)
    there = batch.mask_BT[..., None]
    made = tiny_base.embed(batch.ids_BT, batch.mask_BT)
    assert torch.allclose(found[0] * there, made * there, atol=1e-5)
    assert len(known) == len({row.tobytes() for row in texts.rows})
    assert len(known.values_SH) < 1.01 * texts.tokens


def test_a_batch_with_one_unknown_text_goes_through_the_encoder(
    tiny_base: BaseLM, texts: TokenTexts, known: TokenArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    encoder = tiny_base.embed
    monkeypatch.setattr(tiny_base, "embed", lambda *a: asked.append(1) or encoder(*a))
    tiny_base.arrays(texts.gather(range(3)))
    assert not asked
    other = TokenTexts.of(("new",), (texts.rows[0].tolist()[::-1],), tiny_base.pad, 80)
    assert known.find(other.gather([0])) is None
    tiny_base.arrays(other.gather([0]))
    assert asked


def test_losses_do_not_change_by_it(
    new_cllm: Callable[..., CLLM], texts: TokenTexts, tiny_base: BaseLM
) -> None:
    batch = texts.gather(range(6))

    def losses() -> float:
        task = Restoring(new_cllm(), TrainSettings(), texts)
        return float(task.losses(batch, 0)["loss"].detach())

    before = losses()
    tiny_base.known = TokenArrays.of(tiny_base, [texts])
    try:
        assert losses() == pytest.approx(before, rel=1e-4)
    finally:
        tiny_base.known = None
