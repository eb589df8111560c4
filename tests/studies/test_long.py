"""Studies of long texts and of two subjects: levels, folding, crossing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import killed_and_on, level_of, stopping

from cllm.base import BaseLM
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.ideas import Idea
from cllm.judge import Verdict
from cllm.levels import Packed, Passages
from cllm.passages import passages
from cllm.recipes import Grammar, combination
from studies import crossing, crossing_told, folding
from studies import levels as study

WORDS, ROWS = 12, 6


@pytest.fixture(scope="module")
def base(tiny_base: BaseLM, corpus: Corpus) -> Passages:
    return Passages(level_of(tiny_base, corpus, WORDS), WORDS, ROWS)


def tokens_of(base: Passages, corpus: Corpus, split: str) -> Any:
    some = corpus.select(split)
    return base.texts(some.ids, base.tokenize(some.texts), ROWS)


def test_folding_reads_no_more_than_a_way_allows(base: Passages, corpus: Corpus) -> None:
    texts = folding.several(tokens_of(base, corpus, "train"), base).at(range(4))
    batch = next(iter(texts.in_order(4)))[1]
    context, reader = folding.Context.of(base, batch), folding.Reader(base)
    whole = Packed.of(batch.ids_BT, batch.mask_BT, base.eos, base.pad)
    before_B = torch.bincount(whole.text_n) - 1
    full = int(context.some.mask_nt.sum())
    read = {name: reader.nats(context, way)[1] for name, way in folding.WAYS.items()}
    assert read["full"] == full + 4, "every token, and one position that is nothing"
    assert read["nothing"] == 4
    assert read["vectors alone"] == int(before_B.sum()) + 2 * 4, "and what is attended to"
    lengths_B = [int(context.some.mask_nt[context.some.text_n == b].sum()) for b in range(4)]
    for k in (2, 4, 8):
        assert read[f"cut {k}x"] <= full / k + 4
        room = [max(length // k, count + 1)
                for length, count in zip(lengths_B, before_B.tolist(), strict=True)]  # fmt: skip
        assert read[f"folded {k}x"] == sum(room) + 4, "the same room"
    for k in (2, 4, 8):
        assert read[f"cut {k}x"] == 4 + sum(length // k for length in lengths_B), "to the token"
    assert read["folded 2x"] > read["vectors alone"], "some are unfolded"


def test_folding_takes_the_most_related_passages_as_far_as_there_is_room() -> None:
    lengths = [10, 6, 8]
    assert folding.unfolded(lengths, [2, 0, 1], np.inf) == [0, 0, 0]
    assert folding.unfolded(lengths, [2, 0, 1], 24 / 25) == lengths
    assert folding.unfolded(lengths, [1, 2, 0], 2) == [0, 6, 3], "12 in all, vectors, their mix"
    assert folding.unfolded(lengths, [0, 1, 2], 8) == [0, 0, 0], "vectors alone take the room"
    assert folding.last_of(lengths, 1) == lengths
    assert folding.last_of(lengths, 2) == [0, 4, 8]
    assert folding.last_of(lengths, np.inf) == [0, 0, 0]


def test_folding_reads_a_cut_passage_as_if_nothing_had_stood_before(
    base: Passages, corpus: Corpus
) -> None:
    texts = folding.several(tokens_of(base, corpus, "train"), base).at(range(1))
    context = folding.Context.of(base, next(iter(texts.in_order(1)))[1])
    length = int(context.some.mask_nt[0].sum())
    torch.testing.assert_close(context.end_of(0, length), context.full_ntH[0, :length])
    end_tH = context.end_of(0, 3)
    assert end_tH.shape == (3, context.full_ntH.shape[-1])
    assert not torch.allclose(end_tH, context.full_ntH[0, length - 3 : length])


def test_folding_unfolds_what_is_most_attended_to(base: Passages, corpus: Corpus) -> None:
    texts = folding.several(tokens_of(base, corpus, "train"), base).at(range(1))
    batch = next(iter(texts.in_order(1)))[1]
    context, reader = folding.Context.of(base, batch), folding.Reader(base)
    share_n = reader.related(context.vectors_nD).detach()
    assert float(share_n.sum()) == pytest.approx(1)
    best = int(share_n.argmax())
    length = int(context.some.mask_nt[best].sum())
    one = len(context.vectors_nD) + length - 1
    way = folding.Way(fold=True, times=float(context.some.mask_nt.sum()) / (one + 1))
    memory_MH = reader.memory(context, way)[0][0]
    opened_MH = memory_MH[2 + best : 2 + best + length]
    torch.testing.assert_close(opened_MH, context.restored_nMH[best, :length])
    assert len(memory_MH) == 2 + one


@pytest.mark.chain
def test_folding_is_measured_for_each_seed_and_goes_on_where_it_stopped(
    base: Passages, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--steps", "9", "--batch", "4", "--measured", "6", "--out", str(tmp_path)]
    options = folding.parser().parse_args(words)
    texts = {split: tokens_of(base, corpus, split) for split in ("train", "validation", "test")}
    first = folding.measured(base, texts, 0, options)
    monkeypatch.setattr(folding, "fit", stopping(folding.fit, after=1))
    assert folding.measured(base, texts, 0, options) == first, "kept"
    told = folding.summary([first, folding.measured(base, texts, 1, options)])["ways"]
    assert told["full"]["lost"] == 0
    mean = np.mean([np.mean(one["ways"]["cut 4x"]["nats"]) for one in
                    (first, folding.measured(base, texts, 1, options))])  # fmt: skip
    assert told["cut 4x"]["nats_a_token"] == pytest.approx(mean)
    assert told["cut 4x"]["lost"] == pytest.approx(mean - told["full"]["nats_a_token"])
    assert told["full"]["positions"] > told["folded 2x"]["positions"]


def test_folding_wants_two_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        folding.main(["--run", "cllm/assets/recipes", "--out", str(tmp_path)])
    assert "cllm run --levels 2" in capsys.readouterr().err


def test_levels_menus_are_long_texts_of_one_ingredient() -> None:
    made = study.menus(60, 0)
    assert made.texts == study.menus(60, 0).texts
    for text in made.texts[:20]:
        recipes = ["title:" + part for part in text.split("title:")[1:]]
        assert 2 <= len(recipes) <= study.MOST_RECIPES
        assert len({pair[1] for one in recipes if (pair := combination(one.strip()))}) == 1


def test_levels_need_texts_of_several_passages(corpus: Corpus) -> None:
    options = study.parser().parse_args(["--passage", "500"])
    with pytest.raises(InputError, match="only 0 texts have two passages"):
        study.long_ones(corpus, options)
    options = study.parser().parse_args(["--passage", "8", "--texts", "300"])
    assert all(len(passages(text, 8)) > 1 for text in study.long_ones(corpus, options).texts)


def test_levels_tell_whether_passages_keep_their_order() -> None:
    real = ["a b c", "d e f", "g h i"]
    assert study.order_kept(real, real) == pytest.approx(1)
    assert study.order_kept(real, real[::-1]) == pytest.approx(-1)
    assert study.order_kept(real, ["a b x", "d y z"]) == pytest.approx(1)
    assert study.order_kept(real, ["a b c"]) == study.order_kept(real, ["q", "r"]) == 0


def test_levels_are_compared_text_by_text_with_the_cheaper_of_two_lms() -> None:
    def arm(f1: float, given: float, without: float, **more: Any) -> list[dict[str, Any]]:
        told = {"content_f1": [f1, f1 + 0.1], "words_f1": [f1] * 2, "order": [1.0, 1.0],
                "given": [given] * 2, "trained": {}, "texts": ["leek soup"] * 2,
                "cut": ["leek soup", "leek"]}  # fmt: skip
        return [told | {"without": [without] * 2, "examples": [], "recipes": None, "beyond": []}
                | more]  # fmt: skip

    void = {"void": {"novel": 1, "sampled": 2}}
    told = study.summary({
        study.TWO: arm(0.5, 60, 100, **void), study.ALONE: arm(0.7, 50, 90),
        study.CUT: arm(0.2, 10, 40, **void),
    })  # fmt: skip
    gains = {name: of["gain_nats"]["mean"] for name, of in told["arms"].items()}
    assert gains == {study.TWO: 30, study.ALONE: 40, study.CUT: 30}, "a cut text's is its own"
    capped = study.summary({
        study.TWO: arm(0.5, 60, 100, recipes=[2, 3]), study.ALONE: arm(0.7, 50, 90),
        study.CUT: arm(0.2, 10, 40, beyond=[False, True]),
    })  # fmt: skip
    one = Grammar("plain").entropy_nats
    assert capped["arms"][study.TWO]["gain_nats"]["mean"] == pytest.approx(2.5 * one - 60), (
        "a menu costs no more than its recipes"
    )
    long = capped["two levels less cut, texts beyond a context"]
    assert (long["texts"], long["content_f1"]["mean"]) == (1, pytest.approx(0.3))
    less = told["two levels less"]
    held = less["what a context holds"]["words_f1"]["mean"]
    assert held == pytest.approx(0.5 - (1 + 2 / 3) / 2), "of one text a word of two"
    assert less[study.ALONE]["content_f1"]["mean"] == pytest.approx(-0.2)
    assert less[study.CUT]["content_f1"]["mean"] == pytest.approx(0.3)
    assert any(line.startswith("| two levels − cut | 0.3 [") for line in study.table(told))


def test_levels_count_menus_that_are_right_by_the_grammar(corpus: Corpus) -> None:
    one, other, stranger = menu_of(corpus)
    verdict = Verdict("novel", True, False, 1.0, 1.0, (), ())
    copied = Verdict("duplicate", True, True, 1.0, 0.0, (), ())
    ideas = [
        Idea("0", "void", f"{one} {other}", verdict, hit=True),
        Idea("1", "void", f"{one} title: soup. ingredients: 2 leeks.", verdict, hit=True),
        Idea("2", "void", f"{other} {one}", copied, hit=True),
        Idea("3", "void", f"{other} {one} {other}", verdict, hit=False),
        Idea("4", "base", f"{one} {other}", verdict),
        Idea("5", "void", f"{one} {other}", verdict, hit=True),  # again
        Idea("6", "void", "no recipe at all", verdict, hit=True),
        Idea("7", "void", f"{one} {stranger}", verdict, hit=True),
        Idea("8", "void", one, verdict, hit=True),
    ]
    assert study.right_menus(ideas) == {"right": 3, "right and new": 1}


def menu_of(corpus: Corpus) -> tuple[str, str, str]:
    """Two recipes of one main ingredient, and one of another."""
    mains = [(pair[1], text) for text in corpus.texts if (pair := combination(text))]
    first, one = mains[0]
    other = next(text for main, text in mains[1:] if main == first)
    return one, other, next(text for main, text in mains if main != first)


def test_crossing_compares_arms_by_what_is_accepted_a_decode() -> None:
    def taken(
        accepted: int, patches: int, texts: int = 50, decodes: int = 100
    ) -> crossing_told.Taken:
        arm = crossing.Arm([f"text {row}" for row in range(texts)],
                           [f"patch {row % patches}" for row in range(texts)], decodes)  # fmt: skip
        passes_n = np.array([row % patches for row in range(texts)]) < accepted * patches / texts
        yes_n = np.ones(texts, bool)
        every = np.arange(texts)
        return crossing_told.Taken(arm, {"a": passes_n, "b": yes_n}, passes_n - 0.5, yes_n,
                              every % 4 != 0, every % 2 == 0)  # fmt: skip

    many, few = taken(30, patches=50), taken(30, patches=5)
    none = taken(0, patches=50, texts=10)
    told = crossing.less(many, none, "accepted")
    assert told["mean"] == pytest.approx(0.3)
    assert 0.15 < told["ci"][0] < 0.3 < told["ci"][1] < 0.4
    wide = np.ptp(crossing.less(few, none, "accepted")["ci"])
    assert wide > 1.5 * np.ptp(told["ci"]), "texts of one patch tell less than those of many"
    assert many.counts()["accepted"] == 30
    assert many.counts()["accepted, words of both"] == 15
    assert many.counts()["accepted, words of both, valid"] == 7
    empty = crossing_told.Taken(crossing.Arm([], [], 0), {}, np.zeros(0), *[np.zeros(0, bool)] * 3)
    assert crossing.less(empty, none, "accepted") is None, "nothing was tried"
    all_good = taken(50, patches=50, decodes=1000)
    low, high = np.quantile(all_good.draws("accepted", np.random.default_rng(0)), (0.025, 0.975))
    assert 0.03 < low < 0.045 < 0.055 < high < 0.07, "which decodes leave a text is chance, too"
    low, high = crossing.less(taken(0, patches=1, texts=1), none, "accepted")["ci"]
    assert low < 0 < high, "few decodes without a text are no proof"


def test_crossing_mixes_subjects_as_files_may_be_ordered() -> None:
    corpus = crossing.of_two(crossing.parser().parse_args(["--texts", "200"]))
    first = corpus.subjects[: len(corpus) // 4]
    assert 0.3 < np.mean([one == "dry" for one in first]) < 0.7


def test_crossing_tells_whose_words_a_text_has() -> None:
    options = crossing.parser().parse_args(["--texts", "1000"])
    corpus = crossing.of_two(options)
    assert sorted(set(corpus.subjects)) == ["dry", "wet"]
    words = crossing_told.Words.of(corpus)
    test = corpus.select("test")
    dry = np.array([one == "dry" for one in test.subjects])
    of_dry, of_wet = words.said(test.texts).T
    assert of_dry[dry].mean() > 2 * of_dry[~dry].mean()
    assert of_wet[~dry].mean() > 2 * of_wet[dry].mean()
    assert words.of_both(test.texts).mean() < 0.2
    joined = [f"{a} {b}" for a, b in zip(np.array(test.texts)[dry], np.array(test.texts)[~dry],
                                         strict=False)]  # fmt: skip
    assert words.of_both(joined).mean() > 0.8
    assert not words.of_both(["zzz qqq", ""]).any(), "words of neither are not of both"
    assert len(words.of_both([])) == 0


def test_crossing_writes_from_places_that_have_such_groups_around_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    around = {0: "between", 1: "within", 2: "between"}
    heard: list[Any] = []

    class Somewhere:
        field = None

        def settled(self, where: Any, points_nD: Any) -> list[Any]:
            return [point if around[int(point)] == where.groups else None for point in points_nD]

    class Nothing:
        texts, decodes = (), 7

        def patches(self, _: object) -> list[str]:
            return []

    def write(*asked: Any) -> Nothing:
        *_, how, within, seconds = asked
        heard.append((how.settled, within(np.arange(3)).tolist(), seconds))
        return Nothing()

    monkeypatch.setattr(crossing, "write_from_voids", write)
    options = crossing.parser().parse_args(["--arm-seconds", "9"])
    arms = [crossing.from_voids(*how, None, Somewhere(), options)  # type: ignore[arg-type]
            for how in crossing.VOIDS.values()]  # fmt: skip
    assert [arm.decodes for arm in arms] == [7, 7, 7]
    assert dict(zip(crossing.VOIDS, heard, strict=True)) == {
        "between": (True, [True, False, True], 9),
        "between, as drawn": (False, [True, False, True], 9),
        "within": (True, [False, True, False], 9),
    }


def test_crossing_wants_two_files_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        crossing.main(["--first", "one.jsonl"])
    assert "--first and --second" in capsys.readouterr().err


@pytest.mark.slow
def test_crossing_writes_all_arms_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = crossing.of_two(crossing.parser().parse_args(["--texts", "300"]))
    files = {name: tmp_path / f"{name}.jsonl" for name in ("wet", "dry")}
    for name, file in files.items():  # as many of each are taken as the smaller one has
        texts = plain.only([one == name for one in plain.subjects]).texts
        rows = [json.dumps({"text": text}) for text in texts[: 280 if name == "wet" else 240]]
        file.write_text("\n".join(rows))
    words = ["--first", str(files["wet"]), "--second", str(files["dry"]), "--seconds", "6",
             "--base-seconds", "6", "--critic-steps", "4", "--dim", "16", "--decodes", "20",
             "--arm-seconds", "20", "--out", str(tmp_path / "out")]  # fmt: skip
    # base, CLLM and one critic were kept
    killed_and_on(monkeypatch, crossing, "learnt", 1, 1, lambda: crossing.main(words))
    told = json.loads(capsys.readouterr().out)
    assert told["subjects"] == ["dry", "wet"]
    assert set(told["arms"]) == set(crossing.ARMS)
    assert told["held out"]["decodes"] == told["held out"]["texts"] > 0
    for arm in told["arms"].values():
        assert arm["accepted"] <= arm["texts"] <= arm["decodes"]
    assert set(told["accepted, words of both, a decode, between less"]) == {
        "between, as drawn", "within", "great circle", "base alone",
    }  # fmt: skip
    assert told["arms"]["great circle"]["texts"] > 0
    assert (told["decodes"], told["arm_seconds"]) == (20, 20)
    assert len(told["best"]) <= crossing.PICKED


@pytest.mark.slow
def test_levels_are_trained_and_measured_arm_by_arm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--texts", "100", "--seconds", "6", "--base-seconds", "6", "--dim", "16",
             "--measured", "5", "--decodes", "10", "--json", "--out", str(tmp_path)]  # fmt: skip
    killed_and_on(monkeypatch, study, "trained", 1, 2, lambda: study.main(words))
    told = json.loads(capsys.readouterr().out)
    assert set(told["arms"]) == set(study.ARMS)
    assert told["arms"][study.TWO]["void"][0]["right"] >= 0
    assert told["dim_alone"] * told["passages"] == pytest.approx(16, rel=0.5)
    monkeypatch.setattr(study, "trained", stopping(study.trained, after=0))
    study.main(words)
    assert json.loads(capsys.readouterr().out) == told


@pytest.mark.slow
def test_levels_of_a_file_are_judged_by_a_critic(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in study.menus(120, 0).texts))
    options = study.parser().parse_args([
        "--corpus", str(file), "--texts", "100", "--seconds", "6", "--base-seconds", "6",
        "--dim", "16", "--measured", "5", "--decodes", "10", "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    corpus = study.long_ones(study.read_corpus(file, "text", 100, 0), options)
    told = study.measured(study.TWO, 0, corpus, options)
    assert (tmp_path / "out/two-levels-0/base/critic").is_dir()
    assert told["recipes"] is None
    assert "right" not in told["void"]
    assert len(told["words_f1"]) == 5
