"""Two levels: passages, their vectors as the array of a text, and back down to a text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from services import Counted
from starlette.testclient import TestClient
from torch.nn import functional as F
from toys import command, level_of

from cllm import fitting, levels, pipeline
from cllm.arrays import TokenArrays
from cllm.base import BaseLM, token_nats
from cllm.batches import TokenTexts
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.files import write_json
from cllm.improve import Loop, settings_for
from cllm.levels import InPassages, Packed, Passages
from cllm.losses import Rebuilding, Restoring
from cllm.model import CLLM
from cllm.passages import passages, passages_of
from cllm.run import SHIPPED, RunFolder
from cllm.settings import LoopSettings, TrainSettings, overridden
from cllm.training import Spread, fit
from serve.api import make_app
from serve.local import LocalHands
from serve.settings import Limits
from tune.space import Budget

WORDS, ROWS = 12, 6


@pytest.fixture(scope="module")
def below(tiny_base: BaseLM, corpus: Corpus) -> CLLM:
    """A CLLM of passages of the recipes, of 16 coordinates."""
    return level_of(tiny_base, corpus, WORDS)


@pytest.fixture(scope="module")
def base(below: CLLM) -> Passages:
    return Passages(below, WORDS, ROWS)


@pytest.fixture(scope="module")
def documents(base: Passages, corpus: Corpus) -> TokenTexts:
    train = corpus.select("train")
    return base.texts(train.ids, base.tokenize(train.texts), ROWS)


@pytest.fixture(scope="module")
def model(base: Passages, documents: TokenTexts) -> CLLM:
    torch.manual_seed(0)
    made = CLLM.from_base(base, context=ROWS, dim=8)
    made.start(documents)
    return made.eval()


@given(st.text(alphabet="ab .;\n", max_size=60), st.integers(1, 7))
def test_passages_are_the_words_of_a_text_in_order(text: str, words: int) -> None:
    found = passages(text, words)
    assert " ".join(found).split() == text.split()
    assert all(0 < len(one.split()) <= words for one in found)


def test_passages_end_where_sentences_do() -> None:
    text = "One two. Three four five. Six; seven\neight nine ten eleven."
    assert passages(text, 4) == ["One two.", "Three four five. Six;", "seven",
                                 "eight nine ten eleven."]  # fmt: skip
    assert passages(" \n", 4) == []


def test_a_corpus_of_passages_keeps_splits_and_tells_whose_they_are(corpus: Corpus) -> None:
    parts = passages_of(corpus, WORDS)
    split_of = dict(zip(corpus.ids, corpus.splits, strict=True))
    assert len(parts) > 2 * len(corpus)
    assert all(
        split == split_of[name.rpartition("/")[0]]
        for name, split in zip(parts.ids, parts.splits, strict=True)
    )
    assert "entropy_nats" not in parts.info, "a text's, not a passage's"


def test_texts_come_back_from_their_rows_of_tokens(base: Passages, corpus: Corpus) -> None:
    rows = base.tokenize([*corpus.texts[:5], ""])
    assert base.to_text(rows) == [*corpus.texts[:5], ""]
    counts = [len(passages(text, WORDS)) for text in corpus.texts[:5]]
    assert base.lengths(rows) == [*counts, 1], "an empty text is an empty passage"


def test_a_passage_of_too_many_tokens_becomes_several_and_words_stay_whole(
    tiny_base: BaseLM, corpus: Corpus
) -> None:
    narrow = InPassages(tiny_base, words=500, limit=10)
    some = [*corpus.texts[:3], "an egg"]
    rows = narrow.tokenize(some)
    assert narrow.to_text(rows) == some
    for row in rows:
        assert max(np.diff([-1, *np.flatnonzero(np.array(row) == narrow.eos)])) <= 10
    (row,) = narrow.tokenize(["x" * 300])
    assert max(np.diff([-1, *np.flatnonzero(np.array(row) == narrow.eos)])) <= 10
    assert narrow.to_text([row])[0].replace(" ", "") == "x" * 300, "no word is that long"


def test_texts_are_cut_between_passages_and_counted(base: Passages) -> None:
    long = " ".join(f"This is sentence number {i} of a long text here." for i in range(10_000))
    rows = base.tokenize([long, "One.", ""])
    cut = base.texts(["a", "b", "c"], rows, ROWS)
    assert cut.cut == 1
    assert base.lengths([row.tolist() for row in cut.rows]) == [ROWS, 1, 1]
    assert all(row[-1] == base.eos for row in cut.rows)


def test_packed_passages_are_the_same_tokens(documents: TokenTexts, base: Passages) -> None:
    batch = documents.gather([0, 5, 9])
    some = Packed.of(batch.ids_BT, batch.mask_BT, base.eos, base.pad)
    assert torch.equal(some.spread(some.ids_nt) * batch.mask_BT, batch.ids_BT * batch.mask_BT)
    assert len(some.ids_nt) == int((batch.ids_BT == base.eos)[batch.mask_BT].sum())
    ends = some.ids_nt.gather(1, some.mask_nt.sum(1, keepdim=True) - 1)
    assert (ends == base.eos).all(), "each passage is whole"
    assert some.row_n[some.text_n == 1].tolist() == list(range(int((some.text_n == 1).sum())))


def test_a_texts_array_has_its_passages_vectors_and_tells_where_they_end(
    base: Passages, below: CLLM, corpus: Corpus
) -> None:
    text = corpus.texts[0]
    tokens = base.texts(["a", "b"], base.tokenize([text, "One."]), ROWS)
    array_BRH, mask_BR = base.arrays(tokens.gather([0, 1]))
    wanted = torch.from_numpy(below.encode(passages(text, WORDS)))
    count = len(wanted)
    assert array_BRH.shape == (2, ROWS, 17)
    torch.testing.assert_close(array_BRH[0, :count, :-1], wanted, rtol=1e-3, atol=1e-5)
    here = array_BRH[..., -1] > 0
    assert here.sum(1).tolist() == [count, 1]
    assert not array_BRH[0, count:, :-1].any()
    assert mask_BR.all()


def test_rows_are_written_down_as_passages(base: Passages, below: CLLM, corpus: Corpus) -> None:
    """From the array itself: what the level below restores, passage by passage."""
    tokens = base.texts(["a"], base.tokenize(corpus.texts[:1]), ROWS)
    batch = tokens.gather([0])
    rows = base.write(base.arrays(batch)[0], 99)
    assert base.to_text(rows) == [" ".join(
        filter(None, below.reconstruct(passages(corpus.texts[0], WORDS)))
    )]  # fmt: skip
    assert base.lengths(rows) == [len(passages(corpus.texts[0], WORDS))]
    nothing = torch.full((1, ROWS, 17), -1.0)
    assert base.lengths(base.write(nothing, 99)) == [1], "a text has a passage"


def test_a_texts_nats_are_its_passages_and_their_number(
    base: Passages, below: CLLM, documents: TokenTexts
) -> None:
    batch = documents.gather([0, 3])
    array_BRH, _ = base.arrays(batch)
    nats_BT = base.cross_entropy(array_BRH, batch.ids_BT, batch.mask_BT)
    some = Packed.of(batch.ids_BT, batch.mask_BT, base.eos, base.pad)
    vectors_nD = F.normalize(array_BRH[some.text_n, some.row_n, :-1], dim=-1)
    logits = below.base.logits(below.decode_array(vectors_nD), some.ids_nt)
    alone = float(token_nats(logits, some.ids_nt, some.mask_nt).sum())
    number = 2 * ROWS * float(F.softplus(torch.tensor(-4.0)))
    assert float(nats_BT.sum()) == pytest.approx(alone + number, rel=1e-4)
    shorter = array_BRH.clone()
    shorter[:, 1:, -1] *= -1  # it says that there is one passage
    assert float(base.cross_entropy(shorter, batch.ids_BT, batch.mask_BT).sum()) > alone + 8
    torch.testing.assert_close(
        token_nats(base.logits(array_BRH, batch.ids_BT), batch.ids_BT, batch.mask_BT).sum(),
        torch.tensor(alone), rtol=1e-4, atol=1e-3,
    )  # fmt: skip


def test_known_arrays_are_those_that_are_worked_out(base: Passages, documents: TokenTexts) -> None:
    batch = documents.gather([2, 0, 7])
    worked_out = base.arrays(batch)
    base.known = TokenArrays.of(base, [documents])
    try:
        found = base.arrays(batch)
    finally:
        base.known = None
    torch.testing.assert_close(found[0], worked_out[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[1], worked_out[1])


def test_the_level_above_is_trained_through_the_one_below(
    model: CLLM, documents: TokenTexts
) -> None:
    task = Restoring(model, TrainSettings(), documents)
    batch = documents.gather(range(8))
    losses = task.losses(batch, 0)
    losses["loss"].backward()
    try:
        grads = [w.grad for w in model.parameters() if w.grad is not None]
        assert sum(float(g.abs().sum()) for g in grads) > 0
        assert all(w.grad is None for w in model.base.level.parameters()), "it is frozen"  # type: ignore[attr-defined]
    finally:
        model.zero_grad()
    assert losses["array"] > 0


def test_arrays_are_rebuilt_before_anything_is_written(
    base: Passages, documents: TokenTexts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = CLLM.from_base(base, context=ROWS, dim=8)
    made.start(documents)
    monkeypatch.setattr(Passages, "cross_entropy", None)  # a text is not asked for
    task = Rebuilding(made, TrainSettings(), documents.at(range(20)))
    before = task.score()
    loop = LoopSettings(steps=40, lr=3e-3, evaluations=2)
    result = fit(task, documents, loop, tmp_path)
    assert result.best_score > before + 0.02
    monkeypatch.setattr(Rebuilding, "losses", None)
    assert fit(task, documents, loop, tmp_path).steps == 40, "one that was done is not done again"


def test_texts_fold_to_one_vector_and_back(model: CLLM, corpus: Corpus) -> None:
    vectors = model.encode([*corpus.texts[:3], ""])
    assert vectors.shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert all(isinstance(text, str) for text in model.decode(vectors))
    with pytest.raises(InputError, match="9 coordinates"):
        model.decode(np.ones((1, 9), np.float32))


def test_passages_are_scored_some_at_a_time_and_that_changes_nothing(
    base: Passages, documents: TokenTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = documents.gather(range(4))
    array_BRH, _ = base.arrays(batch)
    whole = base.cross_entropy(array_BRH, batch.ids_BT, batch.mask_BT)
    seen: list[int] = []
    logits = BaseLM.logits

    def watched(self: BaseLM, memory: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(len(memory))
        return logits(self, memory, *rest)

    monkeypatch.setattr(levels, "AT_ONCE", 3)
    monkeypatch.setattr(BaseLM, "logits", watched)
    parts = base.cross_entropy(array_BRH, batch.ids_BT, batch.mask_BT)
    assert max(seen) == 3
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(base.array_of(batch.ids_BT, batch.mask_BT)[0], array_BRH)


def test_some_passages_pay_for_all_of_them_on_average(
    model: CLLM, base: Passages, documents: TokenTexts
) -> None:
    batch = documents.gather(range(4))
    array_BRH, _ = base.arrays(batch)
    whole_BT = base.cross_entropy(array_BRH, batch.ids_BT, batch.mask_BT)
    chosen_BR = torch.zeros_like(array_BRH[..., 0], dtype=torch.bool)
    chosen_BR[:, 0] = True
    first_BT = base.sampled_nats(array_BRH, batch.ids_BT, batch.mask_BT, chosen_BR, 0.5)
    some = Packed.of(batch.ids_BT, batch.mask_BT, base.eos, base.pad)
    is_first_BT = some.spread((some.row_n == 0)[:, None].expand(some.ids_nt.shape)) > 0
    last_BT = F.one_hot(batch.mask_BT.sum(1) - 1, batch.ids_BT.shape[1]) > 0  # pays for the number
    inner_BT = is_first_BT & ~last_BT
    torch.testing.assert_close(first_BT[inner_BT], 2 * whole_BT[inner_BT], rtol=1e-4, atol=1e-4)
    assert not first_BT[~is_first_BT & ~last_BT].any()
    none_BT = base.sampled_nats(array_BRH, batch.ids_BT, batch.mask_BT, chosen_BR & False, 0.5)
    assert not none_BT[~last_BT].any()
    assert none_BT[last_BT].all()
    task = Restoring(model, TrainSettings(passage_share=0.3), documents)
    everything = Restoring(model, TrainSettings(), documents)
    drawn = [float(task.nats(array_BRH, batch, step).sum()) for step in range(300)]
    exact = float(everything.nats(array_BRH, batch, 0).sum())
    assert np.mean(drawn) == pytest.approx(exact, abs=4 * np.std(drawn) / 300**0.5)
    assert np.std(drawn) > 0


@pytest.mark.chain
def test_the_chain_goes_through_two_levels(tmp_path: Path) -> None:
    """Texts longer than the base's context: commands take such a run as any other."""
    corpus = tmp_path / "texts.jsonl"
    lines = [
        json.dumps({"text": f"Item {i % 7} is {'red' if i % 2 else 'blue'}. It costs {i} coins. "
                            f"Buy {i % 5} of them. Box {i} is full."})
        for i in range(120)
    ]  # fmt: skip
    corpus.write_text("\n".join(lines))
    run = tmp_path / "run"
    short = ["base.loop.steps=60", "base.loop.seconds=0", "base.low_rank_loop.steps=30",
             "base.low_rank_loop.seconds=0", "train.loop.steps=40", "train.loop.seconds=0",
             "passage=6", "passage_dim=12", "ideas=10", "evaluated=10",
             "base.context=16"]  # fmt: skip
    changes = [word for line in short for word in ("--set", line)]
    wanted = ["run", "--corpus", str(corpus), "--run", str(run), "--preset", "quick", "--levels",
              "2", "--dim", "8", "--allow-weak-base", *changes]  # fmt: skip
    assert command(*wanted) == 0
    folder = RunFolder(run)
    told = folder.notes()
    assert told["model"]["passage"] == 6
    assert told["passages"]["passages"] > 300
    model = folder.load_model()
    assert isinstance(model.base, Passages)
    assert model.base.level.config.dim == 12
    assert told["reconstruction"]["n"] > 0
    assert folder.load_latents(model).vectors_ND.shape[1] == 8
    before = (folder.passages / "model.safetensors").stat().st_mtime_ns
    assert command(*wanted) == 0
    assert (folder.passages / "model.safetensors").stat().st_mtime_ns == before, "kept"
    assert max(len(row) for row in model.tokens(folder.load_corpus().texts).rows) > 20
    vector = json.dumps(model.encode(["Item 1 is red."])[0].tolist())
    for words in (
        ("encode", "One. Two."), ("decode", vector), ("reconstruct", "One. Two."),
        ("evaluate", "--n", "5"), ("generate", "--n", "4"), ("embed", "--replace"), ("report",),
    ):  # fmt: skip
        assert command(*words, "--run", str(run)) == 0, words
    answered_by_the_endpoint(folder)
    assert command(*wanted[:-2], "--set", "passage_dim=10") == 2, "the level above needs this one"
    assert folder.load_model().hash == model.hash
    with pytest.raises(InputError, match="passages of 6 words, not whole texts"):
        pipeline.train_model(folder, overridden("quick", dim=8), allow_weak=True)


def answered_by_the_endpoint(run: RunFolder) -> None:
    """Whole texts, of as many passages as they have, and their vectors, over HTTP."""
    hands = LocalHands.load(run)
    app = make_app(lambda: hands, Limits(), Counted())
    with TestClient(app, "http://localhost") as client:
        texts = list(hands.places.train.texts[:2])
        vectors = client.post("/v1/encode", json={"texts": texts}).json()["vectors"]
        np.testing.assert_allclose(vectors, hands.model.encode(texts), atol=1e-5)
        decoded = client.post("/v1/decode", json={"vectors": vectors}).json()
        assert decoded == {"texts": hands.model.reconstruct(texts)}
        (near,) = client.post("/v1/neighbours", json={"texts": texts[:1], "k": 1}).json()[
            "neighbours"
        ]
        assert near[0]["text"] == texts[0]
        below = hands.model.base.level.encode(texts[:1]).tolist()  # type: ignore[attr-defined]
        refused = client.post("/v1/decode", json={"vectors": below})
        assert refused.status_code == 422
        assert "has 12 coordinates; give 2 to 8" in refused.text
        told = client.post("/v1/generate", json={"near": texts[0], "n": 1, "stream": False}).json()
        assert told["end"]["decodes"] > 0
        assert client.get("/v1/model").json()["model"]["dim"] == 8


def test_a_lower_vector_is_not_decoded_by_the_level_above(model: CLLM) -> None:
    with pytest.raises(InputError, match="16 coordinates"):
        model.decode(model.base.level.encode(["One."]))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("given", "moved"), [(0.1, 0.3), (0.5, 0.5)])
def test_passages_are_learnt_from_prefixes_and_moved_vectors(given: float, moved: float) -> None:
    changes = [f"train.vector_noise={given}"]
    how = fitting.below(overridden("quick", levels=2, nested="off", changes=changes))
    assert how.train.nested
    assert how.train.vector_noise == moved


def test_settings_that_do_not_go_with_passages_are_refused() -> None:
    assert overridden("quick", levels=2).passage == 32
    assert overridden("quick", levels=1).passage == 0
    for change in ("train.token_noise=0.1", "train.swaps=0.2"):
        with pytest.raises(InputError, match="passages"):
            overridden("quick", levels=2, changes=[change])


def test_a_base_of_whole_texts_is_not_taken_for_one_of_passages() -> None:
    run = RunFolder(SHIPPED)
    with pytest.raises(InputError, match="learnt whole texts, not passages of 32 words"):
        pipeline._base_for(run, overridden("quick", levels=2), Spread(), None)


def test_sweeps_refuse_what_their_trials_would_share() -> None:
    with pytest.raises(InputError, match="cllm train"):
        Budget(changes=("passage=12",)).settings({})


def test_a_loop_refuses_two_levels_at_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.model.mkdir(parents=True)
    write_json(run.model / "training.json", {"facts": {"hash": "x", "passage": 12}})
    how, settings = settings_for("quick")
    with pytest.raises(InputError, match="two levels"):
        Loop.begun(tmp_path / "loop", run, how, settings)
    assert not (tmp_path / "loop").exists()
