"""Making a base LLM: tokenizer, denoising, the reference LM."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from conftest import CONTEXT, base_settings, new_tiny_base
from hypothesis import given
from hypothesis import strategies as st

from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.corpus import Corpus
from cllm.pretrain import (
    Denoising,
    LowRank,
    new_base,
    restored_tokens,
    rewritten,
    token_texts,
    train_denoising,
    train_low_rank,
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


# ---- low rank ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def low_rank(fresh: BaseLM, texts: TokenTexts) -> LowRank:
    settings = base_settings().model_copy(update={"rank": 32})
    return LowRank(fresh, settings, texts, texts, CONTEXT)


def test_kept_components_are_the_first_ones_even_in_the_log(
    low_rank: LowRank, texts: TokenTexts
) -> None:
    kept_BD, whole_B = low_rank.kept(texts.gather(range(len(texts))), 0)
    first_B = kept_BD.sum(1)
    assert torch.equal(kept_BD, torch.arange(low_rank.dim) < first_B[:, None])
    assert first_B.min() == 1
    assert low_rank.dim // 2 < first_B.max() <= low_rank.dim
    below_root = (first_B < (low_rank.dim + 1) ** 0.5).float().mean().item()
    assert below_root == pytest.approx(0.5, abs=0.1)
    assert whole_B.float().mean().item() == pytest.approx(low_rank.masked_share, abs=0.1)


def test_more_components_restore_more_of_the_array(low_rank: LowRank, texts: TokenTexts) -> None:
    batch = texts.gather(range(32))
    array_BTH = low_rank.base.embed(batch.ids_BT, batch.mask_BT)
    codec, collapse = low_rank.collapse.codec, low_rank.collapse
    code_BD = codec.encoder(collapse.standardised(array_BTH, batch.mask_BT))
    errors = []
    for k in (1, 4, 16, 32):
        kept_BD = code_BD * (torch.arange(low_rank.dim) < k)
        low_BMH = codec.decoder(kept_BD) * collapse.spread + collapse.mean
        length = array_BTH.shape[1]
        errors.append((low_BMH[:, :length] - array_BTH)[batch.mask_BT].square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_a_memory_is_a_texts_own_and_says_nothing_of_its_length(
    low_rank: LowRank, texts: TokenTexts
) -> None:
    whole, part = texts.gather(range(8)), texts.gather([5, 2], length=75)
    memory_BMH, alone_BMH = low_rank.memory(whole, 3), low_rank.memory(part, 3)
    assert memory_BMH.shape == (8, CONTEXT, low_rank.base.width)
    torch.testing.assert_close(memory_BMH[[5, 2]], alone_BMH, atol=1e-4, rtol=1e-3)


def test_low_rank_training_leaves_the_encoder_and_helps_at_low_rank(
    corpus: Corpus, tmp_path: Path
) -> None:
    base = new_tiny_base(corpus)
    loop = base_settings(steps=12, batch=16, lr=2e-2, evaluations=1).loop
    settings = base_settings().model_copy(update={"rank": 16, "low_rank_loop": loop})
    held_out = token_texts(base, corpus.select("validation"), CONTEXT)
    untrained = LowRank(base, settings, held_out, held_out, CONTEXT).score()
    before = {n: w.clone() for n, w in base.encoder.state_dict().items()}
    fit = train_low_rank(base, corpus, settings, tmp_path)
    assert fit.best_score > untrained + 5  # nats a text; tied token embeddings are fixed
    for name, weight in base.encoder.state_dict().items():
        assert torch.equal(weight, before[name])
    assert not any(w.requires_grad for w in base.model.parameters())


def test_low_rank_memories_know_no_dropout(
    tiny_t5: BaseLM, texts: TokenTexts, tmp_path: Path
) -> None:
    """The components are those that a CLLM over the frozen encoder will see."""
    base = BaseLM(copy.deepcopy(tiny_t5.model), tiny_t5.tokenizer, tiny_t5.name)
    assert base.model.config.dropout_rate > 0
    task = LowRank(base, base_settings().model_copy(update={"rank": 8}), texts, texts, CONTEXT)
    task.module.train()  # as the loop does
    batch = texts.gather(range(4))
    assert torch.equal(task.memory(batch, 3), task.memory(batch, 3))


def test_a_low_rank_checkpoint_belongs_to_one_base(corpus: Corpus, texts: TokenTexts) -> None:
    first, other = (
        LowRank(new_tiny_base(corpus, seed), base_settings(), texts, texts, CONTEXT).identity
        for seed in (0, 1)
    )
    assert first != other


@pytest.mark.parametrize("family", ["tiny_t5", "tiny_bart"])
def test_low_rank_training_works_in_other_families(
    family: str, request: pytest.FixtureRequest, corpus: Corpus, tmp_path: Path
) -> None:
    given: BaseLM = request.getfixturevalue(family)
    base = BaseLM(copy.deepcopy(given.model), given.tokenizer, given.name)
    loop = base_settings(steps=2, batch=8, evaluations=1).loop
    settings = base_settings().model_copy(update={"rank": 16, "low_rank_loop": loop})
    assert math.isfinite(train_low_rank(base, corpus, settings, tmp_path).best_score)
    assert base.hash != given.hash
    for name, weight in base.encoder.state_dict().items():
        assert torch.equal(weight, given.encoder.state_dict()[name])


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
    assert rewritten(Perfect(), texts) == [row.tolist() for row in texts.rows], "in their order"
    assert restored_tokens(Perfect(wrong=1), few) == pytest.approx(8 / 10)
    assert restored_tokens(Perfect(extra=5), few) == pytest.approx(10 / 20)


def test_an_untrained_base_restores_next_to_nothing(tiny_base: BaseLM, texts: TokenTexts) -> None:
    few = TokenTexts(texts.names[:8], texts.rows[:8], texts.pad, 0)
    assert restored_tokens(tiny_base, few) < 0.5


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


@pytest.mark.parametrize(("shares", "scores"), [([0.995], 1), ([0.5, 0.991], 1), ([0.0] * 5, 4)])
def test_adapting_ends_when_the_base_restores_enough(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shares: list[float],
    scores: int,
) -> None:
    """A base that restores at once is not touched; another trains to the first good score."""
    found = iter([*shares, 1.0])
    monkeypatch.setattr("cllm.pretrain.restored_tokens", lambda *_: next(found))
    base = new_tiny_base(corpus)
    before = base.hash
    settings = base_settings(steps=8, evaluations=4, batch=8)
    fit = train_denoising(base, corpus, settings, tmp_path, adapting=True)
    assert fit.steps == 2 * (len(shares) - 1)
    assert (base.hash == before) is (fit.steps == 0)
    assert (tmp_path / "metrics.jsonl").read_text().count("validation_nats") == scores
