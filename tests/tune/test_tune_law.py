from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cllm.corpus import Corpus, build_corpus
from cllm.errors import InputError
from cllm.files import write_json
from cllm.reading import Row
from cllm.run import RunFolder
from cllm.settings import preset
from tune import families, law, law_fit
from tune.families import CELLS, part
from tune.statistics import (
    METHOD,
    QUICK,
    VOCABULARY,
    dimensions,
    entropies,
    ngram_nats,
    quick,
)

TEXT = law_fit.Form(("text_nats",))
FORMS = law_fit.proportional(QUICK)


def corpora(seed: int = 0, noise: float = 0.05) -> list[dict[str, Any]]:
    """Twelve made-up corpora in five families, where d is three times a text's nats."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(12):
        facts = {name: float(np.exp(rng.uniform(0, 4))) for name in law.WITH_REFERENCE}
        d = float(facts["text_nats"] * 3 * np.exp(noise * rng.standard_normal()))
        found.append({
            "name": f"c{number}", "family": f"f{number % 5}", "statistics": facts, "d": d,
            "d_ci": [d, d], "lengths": [2, 4, 8, 16, 256], "gain_L": [1.0, 2.0, 4.0, 6.0, 7.0],
            "plateau": [True], "method": METHOD,
        })  # fmt: skip
    return found


def test_the_law_finds_what_d_depends_on_and_beats_the_constant() -> None:
    told = law.told(corpora())
    assert (told["law"]["predictors"], told["law"]["slopes"]) == (("text_nats",), (1.0,))
    assert np.exp(told["law"]["offset"]) == pytest.approx(3, rel=0.1)
    tried = told["left_out"]
    assert tried["largest"] < 1.3 < tried["constant_largest"]
    assert {row["family"] for row in tried["rows"]} == {f"f{n}" for n in range(5)}
    assert told["left_out_free"]["largest"] < 1.5


def test_a_form_that_was_stated_is_tried_on_what_it_had_not_seen() -> None:
    some = corpora()
    for number, one in enumerate(some):
        facts = one["statistics"]
        one["d"] = 0.1 * facts["mean_dim"] ** 1.5 / facts["texts"] ** 0.25
        one["name"] = [*law.SEEN[:9], "new-1", "new-2", "new-3"][number]
    told = law.told(some)["stated"]
    assert told["law"]["slopes"] == law.STATED.given == (1.5, -0.25)
    assert np.exp(told["law"]["offset"]) == pytest.approx(0.1)
    assert [row["corpus"] for row in told["beforehand"]] == ["new-1", "new-2", "new-3"]
    assert law.stated(some).spread == pytest.approx(0, abs=1e-9)
    some[-1]["d"] *= 3  # which nothing that was seen foretold
    last = law.told(some)["stated"]["beforehand"][-1]
    assert last["d"] == pytest.approx(3 * last["predicted"])
    assert law.stated(some).spread == pytest.approx(np.log(3) / 3**0.5)  # of what it had not seen
    assert law.stated(some[:-1]).spread == np.inf, "two new ones tell too little"


def test_the_law_that_is_surer_foretells(tmp_path: Path) -> None:
    by_text = corpora()
    write_json(tmp_path / "law.json", {"corpora": by_text})
    assert law.the_law(tmp_path / "law.json").predictors == ("text_nats",)
    for number, one in enumerate(by_text):
        facts = one["statistics"]
        one["d"] = 0.1 * facts["mean_dim"] ** 1.5 / facts["texts"] ** 0.25
        one["name"] = [*law.SEEN[:9], "new-1", "new-2", "new-3"][number]
    write_json(tmp_path / "law.json", {"corpora": by_text})
    assert law.the_law(tmp_path / "law.json").predictors == law.STATED.predictors


def test_what_ships_was_measured_of_ten_corpora_of_five_families_and_foretells() -> None:
    corpora = law.records()
    fit = law.gaining(corpora)
    assert len(fit) >= 10
    assert len(law_fit.families_of(fit)) >= 5
    assert {one["name"] for one in corpora} <= {cell.name for cell in CELLS}
    assert not {*law.without_d()} & {one["name"] for one in fit}
    foretold = law.the_law()
    assert 2 < foretold.predict(fit[0]["statistics"]) < foretold.d_max == 512
    assert all(one["d"] >= 2 for one in fit)


def test_slopes_are_fitted_where_they_are_free() -> None:
    roots = [{**one, "d": one["d"] ** 0.5 * one["statistics"]["tokens"]} for one in corpora()]
    form = law_fit.best_form(roots, law_fit.free(("texts", "text_nats", "tokens")))
    assert form == law_fit.Form(("text_nats", "tokens"), free=True)
    found = law_fit.fit_law(roots, form)
    assert found.slopes == pytest.approx((0.5, 1), abs=0.05)
    assert np.exp(found.offset) == pytest.approx(3**0.5, rel=0.1)


def test_a_family_is_foretold_without_having_been_seen() -> None:
    """One whose d is another's by far is foretold as the others are."""
    some = corpora(noise=0.0)
    odd = [{**one, "d": one["d"] * 50} if one["family"] == "f0" else one for one in some]
    rows = [row for row in law_fit.left_out(odd, FORMS)["rows"] if row["family"] == "f0"]
    assert all(row["predicted"] < 0.1 * row["d"] for row in rows)


def test_nothing_of_a_family_reaches_what_is_foretold_of_it() -> None:
    """Neither its sizes nor its statistics: not by the fit, nor by the choice of predictors."""
    some = corpora()
    other = [
        {**one, "d": one["d"] ** 3, "statistics": dict.fromkeys(QUICK, 7.0)}
        if one["family"] == "f0" else one
        for one in some
    ]  # fmt: skip
    laws = [
        law_fit.fit_law(left, law_fit.best_form(left, FORMS))
        for left in ([one for one in all_ if one["family"] != "f0"] for all_ in (some, other))
    ]
    assert laws[0] == laws[1]
    for corpora_, statistics in ((some, None), (other, dict.fromkeys(QUICK, 7.0))):
        rows = law_fit.left_out(corpora_, FORMS)["rows"]
        for row, one in zip(rows, sorted(corpora_, key=family), strict=True):
            if one["family"] == "f0":
                assert row["predicted"] == laws[0].predict(statistics or one["statistics"])
                assert tuple(row["predictors"]) == laws[0].predictors


def family(one: dict[str, Any]) -> str:
    return str(one["family"])


def test_corpora_whose_curve_does_not_bend_count_and_are_marked() -> None:
    some = [{**one, "lengths": [2, 4, 8, 16, 512]} for one in corpora()]
    straight = {**some[0], "name": "long", "d": 500}
    nothing = {**some[0], "name": "nothing", "d": None, "d_ci": None}
    alone, told = law.told(some), law.told([*some, straight, nothing])
    assert told["law"]["offset"] != alone["law"]["offset"]
    assert (told["fitted"], told["without_gain"]) == (13, ["nothing"])
    assert [row["bends"] for row in told["corpora"]] == [True] * 12 + [False] * 2
    (row,) = [row for row in told["left_out"]["rows"] if not row["bends"]]
    assert row["corpus"] == "long"
    assert told["left_out"]["largest"] == pytest.approx(500 / row["predicted"])
    assert told["left_out"]["bent"]["largest"] < told["left_out"]["largest"]
    d0s = [one["d0"] for one in alone["corpora"]]
    rows = alone["d0"]["left_out"]["rows"]
    assert [row["predicted"] for row in rows] == pytest.approx([d0s[0]] * 12), "all curves are one"


def test_no_d_is_foretold_beyond_the_largest_size() -> None:
    found = law_fit.fit_law(corpora(), TEXT, spread=0.2)
    facts = {"text_nats": 1e9}
    assert found.predict(facts) == 256
    assert found.interval(facts) == (256, 256), "even its lower end is far above"
    low, high = found.interval({"text_nats": 200 / 3})
    assert low < 200 < high == 256


def test_statistics_of_an_older_method_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "law.json"
    first, second, *_ = corpora()
    write_json(file, {"corpora": [first, {**second, "method": 1}]})
    with pytest.raises(InputError, match="has c1 by an older method"):
        law.records(file)
    monkeypatch.setattr("tune.law_measure.measured", lambda _: [{**second, "d": 5.0}])
    law.main(["--measure", "--save", str(file)])
    assert [one["d"] for one in law.records(file)] == [first["d"], 5.0]


def test_the_command_fits_draws_and_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "law.json", {"corpora": corpora()})
    law.main(["--save", str(tmp_path / "law.json"), "--figure", str(tmp_path / "law.svg")])
    assert json.loads(capsys.readouterr().out)["families"] == [f"f{n}" for n in range(5)]
    assert (tmp_path / "law.svg").read_text("utf-8").startswith("<svg")


def test_what_is_measured_joins_what_was_and_needs_no_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = corpora()
    for one in (first, second, {**first, "d": 7.0}):
        monkeypatch.setattr("tune.law_measure.measured", lambda _, one=one: [one])
        law.main(["--measure", "--save", str(tmp_path / "law.json")])
    *_, last = capsys.readouterr().out.splitlines()
    assert [row["name"] for row in json.loads(last)["corpora"]] == ["c1", "c0"]
    assert [one["d"] for one in law.records(tmp_path / "law.json")] == [second["d"], 7.0]


def test_where_nothing_foretells_noise_is_not_followed_far() -> None:
    rng = np.random.default_rng(1)
    some = [{**one, "d": float(np.exp(rng.normal(3, 0.5)))} for one in corpora()]
    assert all(len(form.predictors) <= law_fit.MOST for form in law_fit.free(QUICK))
    flat = law_fit.left_out(some, FORMS)
    assert flat["spread"] == flat["constant_spread"], "proportion gives way to the constant"
    law_of_noise, tried = law_fit.law_and_trial(some, law_fit.free(QUICK))
    assert tried["mean"] < 1.6 * tried["constant_mean"]
    assert tried["spread"] > tried["constant_spread"]
    assert law_of_noise.predictors == (), "what does worse than a constant is not told"
    assert law_of_noise.spread == tried["constant_spread"]


def test_predictions_say_how_sure_they_are_and_where_they_extrapolate() -> None:
    some = corpora()
    found = law_fit.fit_law(some, TEXT, spread=0.2)
    facts = some[0]["statistics"]
    low, high = found.interval(facts)
    assert low < found.predict(facts) < high
    assert not found.beyond(facts)
    (line,) = found.beyond(facts | {"text_nats": 1e6})
    assert "text_nats 1e+06 is outside of" in line


def test_too_few_families_and_no_measurements_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few to leave one out"):
        law_fit.left_out(corpora()[:2], FORMS)
    with pytest.raises(InputError, match=r"tune\.law --measure"):
        law.records(tmp_path / "none.json")
    write_json(tmp_path / "law.json", {"corpora": corpora()})
    assert len(law.records(tmp_path / "law.json")) == 12


def test_statistics_of_texts_alone(corpus: Corpus) -> None:
    facts = quick(corpus)
    assert set(facts) == set(QUICK)
    assert facts["texts"] == len(corpus.select("train"))
    assert facts["text_nats"] > corpus.info["entropy_nats"], "no model is below the exact entropy"
    assert facts["token_nats"] == pytest.approx(
        facts["text_nats"] / (facts["tokens"] + 1), rel=0.01
    ), "a text's end costs, too"
    noise = np.random.default_rng(0)
    random = [" ".join(noise.choice(list("abcdefghij"), 40)) for _ in range(200)]
    told = quick(build_corpus([Row(text=text) for text in random], near_duplicate=1.0))
    assert told["repeated"] < facts["repeated"], "recipes repeat themselves, noise does not"
    with pytest.raises(InputError, match="say nothing of a corpus"):
        quick(build_corpus([Row(text=text) for text in random[:8]], near_duplicate=1.0))


def test_an_n_gram_model_is_worked_out_as_by_hand() -> None:
    rows, asked = [[1, 2], [1, 3], [1, 2]], [[1, 2], [9]]
    single = [math.log((9 + VOCABULARY + 1) / (count + 1)) for count in (3, 2, 3)]  # 1, 2, the end
    assert ngram_nats(rows, asked, 1)[0] == pytest.approx(sum(single))
    counts = {(0, 1): 3, (1, 2): 2, (1, 3): 1, (2, 9): 2, (3, 9): 1}  # pairs; 0 begins, 9 ends
    once, twice = list(counts.values()).count(1), list(counts.values()).count(2)
    off = once / (once + 2 * twice)
    lower = [math.exp(-nats) for nats in single]
    share = [(3 - off + off * lower[0]) / 3, (2 - off + 2 * off * lower[1]) / 3,
             (2 - off + off * lower[2]) / 2]  # fmt: skip
    assert ngram_nats(rows, asked, 2)[0] == pytest.approx(-sum(map(math.log, share)))
    assert np.isfinite(ngram_nats(rows, asked, 4)).all()


def test_statistics_by_a_base(tiny_cllm: Any, corpus: Corpus) -> None:
    assert dimensions(tiny_cllm.base, corpus)["matrix_dim"] > 1
    facts = entropies(tiny_cllm.base, None, corpus)
    assert facts["base_token_nats"] < quick(corpus)["token_nats"]


def test_corpora_measured_later_are_over_the_base_that_ships(
    tiny_run: RunFolder, recipes: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, trained = [recipes], []
    monkeypatch.setattr(families, "union", lambda *_: texts[0])
    monkeypatch.setattr(families, "SHIPPED_BASE", tmp_path / "shipped")
    families.ship_base(tiny_run)
    monkeypatch.setattr(families.pipeline, "make_base", lambda run, _: trained.append(run))
    run = families.shared_base(tmp_path / "law", tmp_path, preset("quick"))
    assert run.notes()["base"]["hash"] == tiny_run.load_base().hash
    assert not trained
    texts[0] = part(recipes, 100)
    with pytest.raises(InputError, match="was made of other texts"):
        families.shared_base(tmp_path / "law", tmp_path, preset("quick"))
    families.shared_base(tmp_path / "anew", tmp_path, preset("quick"))
    assert len(trained) == 1, "the shipped one was not made of these"


def test_texts_of_all_families_are_no_test_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "DRAWN", 300)
    both = families.union(("plain", "rich"), Path(), 100)
    assert not len(both.select("test"))
    assert len(both.select("train")) == 200
    assert {name.split()[0] for name in both.ids} == {"plain", "rich"}


def test_a_part_of_a_corpus_keeps_all_held_out_texts(corpus: Corpus) -> None:
    small = part(corpus, 50)
    assert len(small.select("train")) == 50
    assert small.select("validation").ids == corpus.select("validation").ids
    assert set(small.select("train").ids) <= set(corpus.select("train").ids)
    assert len({cell.family for cell in CELLS}) >= 5
    assert len(CELLS) >= 10
