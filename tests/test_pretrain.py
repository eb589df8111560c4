"""Making a base LLM: tokenizer, denoising, the reference LM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONTEXT, base_settings, new_tiny_base
from hypothesis import given
from hypothesis import strategies as st

from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.pretrain import (
    Denoising,
    ReferenceLM,
    mask_token,
    new_base,
    restored_tokens,
    token_texts,
    train_denoising,
    train_reference,
)

ODD = ["naïve crème brûlée 200 °C", "e\u0301 \u00e9 ½ ⅓", "豚骨ラーメン 🍜", "a\tb\u00a0c  d\u200d"]


@pytest.fixture(scope="module")
def fresh(corpus: Corpus) -> BaseLM:
    """A base these tests may train."""
    return new_tiny_base(corpus)


@pytest.fixture(scope="module")
def task(fresh: BaseLM, texts: TokenTexts) -> Denoising:
    return Denoising(fresh, base_settings(), texts)


# ---- tokenizer -----------------------------------------------------------------------


def test_tokenizer_loses_nothing_of_odd_texts(tiny_base: BaseLM) -> None:
    assert tiny_base.to_text(tiny_base.tokenize(ODD)) == ODD


@given(st.text(min_size=1))
def test_tokenizer_loses_nothing_of_any_text(tiny_base: BaseLM, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode().strip()
    assert tiny_base.to_text(tiny_base.tokenize([text])) == [text]


def test_tokenizer_learns_the_training_texts_only(corpus: Corpus) -> None:
    word = "zzyzzxqq"
    texts = tuple(
        f"{word} {t}" if s != "train" else t
        for t, s in zip(corpus.texts, corpus.splits, strict=True)
    )
    changed = Corpus(corpus.ids, texts, corpus.titles, corpus.groups, corpus.splits)
    before = new_tiny_base(corpus).tokenizer.get_vocab()
    assert new_tiny_base(changed).tokenizer.get_vocab() == before


def test_recipes_are_shorter_than_their_bytes(tiny_base: BaseLM, corpus: Corpus) -> None:
    rows = tiny_base.tokenize(corpus.texts)
    assert sum(map(len, rows)) < 0.3 * sum(len(t.encode()) for t in corpus.texts)


# ---- the new base --------------------------------------------------------------------


def test_the_seed_fixes_the_new_base(corpus: Corpus, tiny_base: BaseLM) -> None:
    assert new_tiny_base(corpus).hash == tiny_base.hash
    assert new_tiny_base(corpus, seed=1).hash != tiny_base.hash


def test_each_position_first_looks_at_its_own(tiny_base: BaseLM, texts: TokenTexts) -> None:
    """So that copying need not be discovered."""
    batch = texts.gather(range(4))
    array_BTH = tiny_base.embed(batch.ids_BT, batch.mask_BT)
    cross = tiny_base.model.get_decoder().layers[0].encoder_attn
    values = cross.out_proj(cross.v_proj(array_BTH))
    torch.testing.assert_close(values, array_BTH, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(cross.q_proj.weight, cross.k_proj.weight)


# ---- denoising -----------------------------------------------------------------------


def test_masks_belong_to_the_text(task: Denoising, texts: TokenTexts) -> None:
    batch, part = texts.gather(range(8)), texts.gather([5, 2], length=75)
    whole, alone = task.masked(batch, 3), task.masked(part, 3)
    for row, i in enumerate([5, 2]):
        length = len(texts.rows[i])
        assert torch.equal(whole[i, :length], alone[row, :length])
    assert not torch.equal(whole, task.masked(batch, 4))


def test_masks_hide_the_asked_share_and_never_padding(
    task: Denoising, fresh: BaseLM, texts: TokenTexts
) -> None:
    batch = texts.gather(range(len(texts)), length=CONTEXT)
    hidden_BT = task.masked(batch, 0) == task.mask_id
    assert not hidden_BT[~batch.mask_BT].any()
    share_B = hidden_BT.sum(1) / batch.mask_BT.sum(1)
    wholly = share_B == 1
    assert wholly.float().mean().item() == pytest.approx(task.settings.unconditional, abs=0.05)
    assert share_B[~wholly].mean().item() == pytest.approx(task.settings.mask, abs=0.05)


@pytest.mark.parametrize(("mask", "unconditional"), [(0.0, 0.0), (0.0, 0.3), (0.2, 0.0)])
def test_each_kind_of_masking_can_be_off(
    fresh: BaseLM, texts: TokenTexts, mask: float, unconditional: float
) -> None:
    settings = base_settings().model_copy(update={"mask": mask, "unconditional": unconditional})
    task = Denoising(fresh, settings, texts)
    batch = texts.gather(range(len(texts)))
    share_B = (task.masked(batch, 0) == task.mask_id).sum(1) / batch.mask_BT.sum(1)
    assert ((share_B == 1).float().mean() > 0.15) == bool(unconditional)
    assert bool(((share_B > 0) & (share_B < 1)).any()) == bool(mask)


def test_memory_noise_raises_the_loss_and_belongs_to_the_text(
    fresh: BaseLM, texts: TokenTexts
) -> None:
    def nats(noise: float, *chosen: int) -> torch.Tensor:
        settings = base_settings().model_copy(update={"memory_noise": noise})
        task = Denoising(fresh, settings, texts)
        with torch.no_grad():
            return task.losses(texts.gather(chosen), 0)["cross_entropy"] * len(chosen)

    assert nats(0.0, 0, 1) != nats(3.0, 0, 1)
    torch.testing.assert_close(nats(3.0, 0, 1), nats(3.0, 0) + nats(3.0, 1), rtol=1e-4, atol=1e-2)


def test_a_few_steps_lower_the_loss_and_freeze_the_base(corpus: Corpus, tmp_path: Path) -> None:
    base = new_tiny_base(corpus)
    before = base.hash
    lines: list[dict[str, float]] = []
    settings = base_settings(steps=12, batch=16, lr=2e-2, evaluations=1, report_every=3)
    held_out = token_texts(base, corpus.select("validation"), CONTEXT)
    untrained = Denoising(base, settings, held_out).score()
    fit = train_denoising(base, corpus, settings, tmp_path, lines.append)
    assert fit.best_score > untrained + 50  # nats a text
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 1
    assert not any(w.requires_grad for w in base.model.parameters())
    assert not base.model.training
    assert base.hash != before  # not the one of the weights before


# ---- restoring -----------------------------------------------------------------------


class Perfect:
    """A stand-in base whose embeddings are the ids and which reads them off again."""

    device = torch.device("cpu")

    def __init__(self, wrong: int = 0, extra: int = 0) -> None:
        self.wrong, self.extra = wrong, extra

    def embed(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        return ids_BT[..., None].float()

    def write(
        self, memory_BTH: torch.Tensor, max_tokens: int, *, memory_mask_BM: torch.Tensor
    ) -> list[list[int]]:
        rows = []
        for row, length in zip(
            memory_BTH[..., 0].long().tolist(), memory_mask_BM.sum(1), strict=True
        ):
            kept = row[: int(length)]
            rows.append([-1] * self.wrong + kept[self.wrong :] + [9] * self.extra)
        return rows


def test_restored_tokens_counts_wrong_and_surplus_tokens(texts: TokenTexts) -> None:
    few = TokenTexts.of(["a", "b"], [[5, 6, 7, 1], [8, 9, 2, 3, 4, 1]], 0, 80)
    assert restored_tokens(Perfect(), texts) == 1.0
    assert restored_tokens(Perfect(wrong=1), few) == pytest.approx(8 / 10)
    assert restored_tokens(Perfect(extra=5), few) == pytest.approx(10 / 20)


def test_an_untrained_base_restores_next_to_nothing(tiny_base: BaseLM, texts: TokenTexts) -> None:
    few = TokenTexts(texts.names[:8], texts.rows[:8], texts.pad, 0)
    assert restored_tokens(tiny_base, few) < 0.5


def test_mask_tokens_of_other_families(tiny_base: BaseLM) -> None:
    assert mask_token(tiny_base) == tiny_base.tokenizer.convert_tokens_to_ids("<mask>")

    class Sentinels:
        mask_token_id = None
        unk_token_id = 2

        def __init__(self, found: int | None) -> None:
            self.found = found

        def convert_tokens_to_ids(self, token: str) -> int | None:
            return self.found if token == "<extra_id_0>" else None

    class Stand:
        pad = 0

        def __init__(self, found: int | None) -> None:
            self.tokenizer = Sentinels(found)

    assert mask_token(Stand(99)) == 99
    assert mask_token(Stand(None)) == 2


# ---- the reference LM ----------------------------------------------------------------


def test_reference_nats_are_the_models_own_loss(tiny_base: BaseLM, texts: TokenTexts) -> None:
    reference = ReferenceLM.new(tiny_base, base_settings(), CONTEXT)
    few = TokenTexts(texts.names[:5], texts.rows[:5], texts.pad, 0)
    nats_N = reference.nats(few, batch=2)
    for row, nats in zip(few.rows, nats_N, strict=True):
        ids = torch.tensor([[tiny_base.start, *row.tolist()]])
        with torch.no_grad():
            own = reference.model(ids, labels=ids).loss.item() * len(row)
        assert nats == pytest.approx(own, rel=1e-4)


def test_trained_reference_beats_an_even_guess_and_comes_back(
    tiny_base: BaseLM, corpus: Corpus, texts: TokenTexts, tmp_path: Path
) -> None:
    settings = base_settings(steps=10, batch=16, lr=2e-2, evaluations=1)
    reference, _ = train_reference(tiny_base, corpus, settings, tmp_path / "fit")
    few = TokenTexts(texts.names[:8], texts.rows[:8], texts.pad, 0)
    nats_N = reference.nats(few)
    assert nats_N.mean() < 0.8 * np.log(tiny_base.vocabulary) * texts.tokens / len(texts)
    reference.save(tmp_path / "reference")
    again = ReferenceLM.load(tmp_path / "reference", tiny_base)
    np.testing.assert_allclose(again.nats(few), nats_N, rtol=1e-5)


def test_a_folder_without_a_safe_reference_is_refused(tiny_base: BaseLM, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cllm pretrain"):
        ReferenceLM.load(tmp_path, tiny_base)
    reference = ReferenceLM.new(tiny_base, base_settings(), CONTEXT)
    reference.save(tmp_path)
    torch.save(reference.model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no reference LM"):
        ReferenceLM.load(tmp_path, tiny_base)


def test_texts_beyond_the_context_are_cut_and_said(
    tiny_base: BaseLM, corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    assert token_texts(tiny_base, corpus, CONTEXT).cut == 0
    assert not caplog.records
    assert token_texts(tiny_base, corpus, 20).cut == len(corpus)
    assert f"{len(corpus)} of {len(corpus)} texts" in caplog.text


def test_a_longer_context_gets_more_positions(corpus: Corpus) -> None:
    settings = base_settings().model_copy(update={"context": 200})
    assert new_base(corpus, settings, "long").limit > 200
