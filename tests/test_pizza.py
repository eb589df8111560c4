"""The pizza experiment: a topic taken out of a corpus, and what comes back of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import killed_and_on, ringed, ringed_field

from cllm.corpus import Corpus, built_in_corpus
from cllm.errors import InputError
from cllm.losses import nats_given
from cllm.recipes import combination
from cllm.run import SHIPPED, RunFolder
from cllm.sphere import unit
from cllm.voids import VoidSettings, find_voids
from studies import pizza
from studies.pizza_measured import _affine, best_vectors, lying
from studies.pizza_told import KINDS, SET_OF, in_words, summary, table, where_it_fails
from studies.topics import Classifier, Topic, most_shared, of_another_domain, shuffled, unnamed


@pytest.fixture(scope="module")
def recipes() -> Corpus:
    return built_in_corpus("plain", 4000, 0)


@pytest.fixture(scope="module")
def topic(recipes: Corpus) -> Topic:
    return Topic.of(recipes, "gratin")


def test_no_text_of_the_topic_is_left_in_the_rest(recipes: Corpus, topic: Topic) -> None:
    parts = [topic.seen, topic.scored, topic.unseen]
    own = [text for part in parts for text in part]
    assert len(own) == len(set(own)) == len(recipes) - len(topic.rest)
    assert all(combination(text)[0] == "gratin" for text in own)
    assert not any("gratin" in text for text in topic.rest.texts)
    assert len(topic.seen) > len(topic.unseen) > len(topic.scored) > 0


def test_titles_name_topics_of_other_corpora(recipes: Corpus) -> None:
    plain = replace(recipes, info={})
    assert len(Topic.of(plain, "Gratin").rest) == len(Topic.of(recipes, "gratin").rest)
    assert not any("soup" in title for title in Topic.of(plain, "soup").rest.titles)
    untitled = replace(plain, titles=("",) * len(plain))
    assert len(Topic.of(untitled, "gratin").rest) == len(Topic.of(plain, "gratin").rest)


@pytest.mark.parametrize(
    ("name", "words"),
    [("sushi", "0 texts are on 'sushi'"), ("minutes", "too few for 50"), ("!", "holds no word")],
)
def test_a_topic_needs_texts_on_both_sides(recipes: Corpus, name: str, words: str) -> None:
    untitled = replace(recipes, info={}, titles=("",) * len(recipes))
    with pytest.raises(InputError, match=words):
        Topic.of(untitled, name)


@pytest.mark.parametrize("count", [49, 50])
def test_fifty_texts_are_enough_and_fewer_are_not(recipes: Corpus, count: int) -> None:
    titles = [f"a pie {i}" if i < count else "another" for i in range(len(recipes))]
    plain = replace(recipes, info={}, titles=tuple(titles), texts=tuple(
        f"text {i} of some kind" for i in range(len(recipes))
    ), groups=recipes.ids)  # fmt: skip
    if count < 50:
        with pytest.raises(InputError, match="49 texts are on 'pie'; 50 or more"):
            Topic.of(plain, "pie")
        return
    assert len(Topic.of(plain, "pie").rest) == len(recipes) - 50


def test_nothing_near_the_topic_is_left_in_the_rest(recipes: Corpus) -> None:
    row = next(i for i, text in enumerate(recipes.texts) if text.startswith("title: gratin"))
    near = next(i for i, text in enumerate(recipes.texts) if text.startswith("title: curry"))
    groups = list(recipes.groups)
    groups[near] = groups[row]
    titles = ["", *recipes.titles[1:]]
    titles[near] = "Mini gratins"
    changed = replace(recipes, groups=tuple(groups), titles=tuple(titles))
    assert recipes.texts[near] not in Topic.of(changed, "gratin").rest.texts
    texts = replace(changed, info={}, texts=("a gratin of ham", *recipes.texts[1:]))
    found = Topic.of(texts, "gratin")
    assert not {"a gratin of ham", recipes.texts[near]} & set(found.rest.texts)
    kept = found.without_unseen(texts).texts
    assert not set(kept) & set(found.unseen)
    groups = dict(zip(texts.texts, texts.groups, strict=True))
    groups[recipes.texts[near]] = groups[found.unseen[0]]
    nearer = replace(texts, groups=tuple(groups[text] for text in texts.texts))
    assert recipes.texts[near] not in found.without_unseen(nearer).texts
    assert set(found.seen) < set(kept)


def test_the_classifier_tells_a_topic_without_its_name(topic: Topic) -> None:
    hits = Classifier(topic)
    assert hits(topic.unseen).mean() > 0.8
    assert hits(topic.rest.select("test").texts).mean() < 0.05
    unnamed_texts = [text.replace("gratin", "thing") for text in topic.unseen]
    assert (hits(unnamed_texts) == hits(topic.unseen)).all()
    named = [text.replace(text.split()[1], "gratin") for text in topic.rest.select("test").texts]
    assert hits(named).mean() < 0.05, "the name alone is no hit"
    assert unnamed("Two gratins, a gratin and pieces.", "gratin") == "two a and pieces"
    assert unnamed("stir the stir fry of pies", "pie") == "stir the stir fry of"


def test_topics_are_those_whose_words_are_known_elsewhere(recipes: Corpus) -> None:
    best = most_shared(recipes, 5)
    assert len(set(best)) == 5
    least = min(Topic.of(recipes, dish).words_elsewhere for dish in best)
    assert least > Topic.of(recipes, "pizza").words_elsewhere


def test_texts_that_must_not_count(topic: Topic) -> None:
    text = topic.unseen[0]
    (mixed,) = shuffled([text], np.random.default_rng(0))
    assert mixed != text
    assert sorted(mixed.split()) == sorted(text.split())
    other = of_another_domain(50, 40)
    assert len(set(other)) == 50
    assert all(20 <= len(one.split()) <= 40 for one in other)


def test_an_affine_map_brings_turned_vectors_back() -> None:
    rng = np.random.default_rng(0)
    to_ND = rng.standard_normal((300, 6))
    to_ND /= np.linalg.norm(to_ND, axis=1, keepdims=True)
    turn_DD = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    from_ND = (to_ND @ turn_DD).astype(np.float32)
    np.testing.assert_allclose(_affine(from_ND[:200], to_ND[:200], from_ND[200:]), to_ND[200:],
                               atol=1e-3)  # fmt: skip


def facts(
    topic: str, back: float, inside: float, base: str = "blind", seed: int = 0, **more: float
) -> dict[str, Any]:
    """Of one topic: such a share of its texts comes back, and such a one lies in voids."""
    rng = np.random.default_rng(seed)

    def each(share: float, n: int) -> list[float]:
        return (rng.permutation(n) < round(share * n)).astype(float).tolist()

    def arm(hit: float) -> dict[str, Any]:
        return {"hit": each(hit, 100), "content_f1": each(hit, 100), "gain_nats": each(hit, 100),
                "bleu": hit, "example": ["a", "b"]}  # fmt: skip

    arms = {"e1_d1": arm(0.1), "random": arm(0.0)}
    for kind in KINDS:
        arms |= {f"e2_d1 {kind}": arm(back), f"e2_d2 {kind}": arm(more.get("ceiling", 0.9)),
                 f"affine {kind}": arm(more.get("affine", back)),
                 f"permuted {kind}": arm(0.0)}  # fmt: skip
    where: dict[str, Any] = {
        f"{name}, {encoder}": {
            what: each(share, 100) for what, share in
            (("in_void", inside if name == "topic" else 0.1), ("in_found", 0.0))
        }
        for encoder in ("E1", "E2 alone", "E2 mixed") for name in SET_OF
    }  # fmt: skip
    where["voids"] = more.get("voids", 3)
    others = {name: arm(0.8) for name in ("e1_d1", "e2_d1 alone", "e2_d1 mixed", "base_alone")}
    return {"base": base, "topic": topic, "arms": {"seen": arms, "unseen": arms}, "others": others,
            "where": where, "best": arm(more.get("best", 0.9)),
            "best_others": arm(0.7),
            "base_alone": arm(more.get("base", 0.95))}  # fmt: skip


DISHES = ("pie", "stew", "tart", "soup", "cake")


def test_words_say_whether_it_came_back_and_lay_in_a_void() -> None:
    good = [facts(dish, 0.7 + i / 100, 0.6 + i / 100) for i, dish in enumerate(DISHES)]
    told = summary(good)["blind"]["mixed"]
    assert told["hit e2_d1 less best floor"]["mean"] == pytest.approx(0.62)
    assert told["hit e2_d1 less best floor"]["ci"][0] > 0.4
    assert told["content_f1 of others, e2_d1 over e1_d1"]["mean"] == pytest.approx(1)
    assert told["in voids, E2, less the most of what must not count"]["mean"] == pytest.approx(0.52)
    assert told["in voids that were found, topic, E1"] == {"mean": 0, "ci": [0, 0], "topics": 5}
    line = in_words(summary(good))[1]
    assert "texts came back, and lay in voids by E1, and in voids by E2." in line
    some = in_words(summary([facts(dish, 0.3, 0.1) for dish in DISHES]))[0]
    assert "texts came back in 30% of cases, and did not surely lie in voids." in some
    bad = in_words(summary([facts(dish, 0.1, 0.1) for dish in DISHES]))[0]
    assert "did not surely come back" in bad
    assert "did not surely lie in voids" in bad
    none = in_words(summary([facts(dish, 0.7, 0.0, voids=0) for dish in DISHES]))[0]
    assert "no void was found that they could lie in" in none


def test_each_encoder_is_judged_by_itself() -> None:
    drifted = [facts(dish, 0.7, 0.6) for dish in DISHES]
    for one in drifted:
        one["where"] |= {name: {"in_void": [1.0] * 100, "in_found": [0.0] * 100}
                         for name in one["where"] if "E2" in name}  # fmt: skip
    told = summary(drifted)
    far = told["blind"]["mixed"]["in voids, E2, less the most of what must not count"]
    assert far["mean"] == 0, "an encoder that drifts takes all texts into voids"
    assert "lay in voids by E1." in in_words(told)[0]
    for one in drifted:
        one["where"] = facts("pie", 0.7, 0.1)["where"] | {
            name: value for name, value in facts("pie", 0.7, 0.6)["where"].items() if "E2" in name
        }
    assert "lay in voids by E2." in in_words(summary(drifted))[0]


def test_one_topic_has_an_interval_over_its_texts() -> None:
    told = summary([facts("pizza", 0.9, 0.6)])["blind"]["alone"]
    low, high = told["hit e2_d1"]["ci"]
    assert 0.8 < low < 0.9 < high < 1
    assert "texts came back, and lay in voids" in in_words(summary([facts("pizza", 0.9, 0.6)]))[0]
    assert any(line.startswith("| hit e2_d1 | 0.90 [") for line in table(
        summary([facts("pizza", 0.9, 0.6)])))  # fmt: skip


def test_what_the_base_buys_is_a_paired_difference() -> None:
    both = [facts(dish, back, 0.2, base, seed) for seed, dish in enumerate(DISHES)
            for base, back in (("blind", 0.3), ("seen", 0.5))]  # fmt: skip
    told = summary(both)["seen − blind"]["alone"]
    assert told["hit e2_d1"]["mean"] == pytest.approx(0.2)
    assert told["hit e1_d1"] == {"mean": 0, "ci": [0, 0], "topics": 5}
    assert "A base that saw the topic, less one that did not" in in_words(summary(both))[-1]


@pytest.mark.parametrize(
    ("more", "words"),
    [({"ceiling": 0.12, "back": 0.1}, "it learnt nothing"),
     ({"back": 0.9}, "next to nothing is lost"),
     ({"affine": 0.7}, "an affine map finds 50%"), ({"best": 0.8}, "75% and more is the encoder's"),
     ({"best": 0.5}, " 0% and more is the encoder's"), ({"best": 0.95}, "100% and more"),
     ({"best": 0.5}, "writes these at 0.95 from whole arrays"),
     ({"best": 0.5}, "texts that it knows: 0.70")],
)  # fmt: skip
def test_where_it_fails_is_told(more: dict[str, float], words: str) -> None:
    told = summary([facts("pizza", more.pop("back", 0.5), 0.1, **more)])
    assert words in where_it_fails(told["blind"]["mixed"])


def test_places_in_voids_are_told_one_by_one() -> None:
    field, top_D = ringed_field(), np.array([0, 0, 1], np.float32)
    search = find_voids(ringed(1, 1500), VoidSettings.quick(), np.random.default_rng(0))
    standing = [max(search.voids, key=lambda void: void.radius)]
    told = lying(field, standing, np.stack([top_D, -top_D]))
    assert told["in_void"] == told["in_found"] == told["above_threshold"] == [True, False]
    assert told["enclosed"] == [True, True]
    assert told["score"][0] > told["score"][1]
    assert lying(field, [], top_D[None])["in_found"] == [False], "a void, and none that was found"


def test_the_second_model_gets_as_much_of_the_topic_as_of_the_rest(
    recipes: Corpus, topic: Topic, tmp_path: Path
) -> None:
    options = pizza.parser().parse_args(["--out", str(tmp_path)])
    experiment = pizza.Experiment(recipes, topic, "blind", options)
    for kind, share in (("alone", 1.0), ("mixed", 0.5)):
        texts = experiment._texts(kind)
        assert len(set(texts.ids)) == len(texts.ids)
        for split, own in (("train", topic.seen), ("validation", topic.scored)):
            some = texts.select(split).texts
            assert np.mean([text in set(own) for text in some]) == pytest.approx(share, abs=0.02)
        assert not set(texts.texts) & set(topic.unseen)


def test_a_search_by_gradient_betters_vectors() -> None:
    model = RunFolder(SHIPPED).load_model()
    tokens = model.tokens(list(built_in_corpus("plain", 200, 9).texts[:4]))
    start_nD = unit(np.random.default_rng(0).standard_normal((4, model.config.dim)))
    best_nD = best_vectors(model, tokens, start_nD.astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(best_nD, axis=1), 1, atol=1e-5)
    before, after = (nats_given(model, tokens, vectors) for vectors in (start_nD, best_nD))
    assert (after < before - 10).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_experiment_runs_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--topic", "gratin", "--texts", "3000", "--seconds", "8",
             "--base-seconds", "8", "--allow-weak-base", "--measured", "20", "--json",
             "--out", str(tmp_path)]  # fmt: skip
    # one of four second models was kept
    killed_and_on(monkeypatch, pizza, "fit", 1, 3, lambda: pizza.main(words))
    told = json.loads(capsys.readouterr().out)
    one, seen = told["each"]
    assert (one["base"], seen["base"]) == ("blind", "seen")
    assert set(one["arms"]["unseen"]) == {"e1_d1", "random"} | {
        f"{arm} {kind}" for arm in ("e2_d1", "e2_d2", "affine", "permuted")
        for kind in ("alone", "mixed")
    }  # fmt: skip
    kept = json.loads((tmp_path / one["picture"]).with_name("told.json").read_text())
    gains = [
        np.mean(arm["gain_nats"][: len(kept["best"]["hit"])])
        for name, arm in kept["arms"]["unseen"].items()
        if name.startswith(("e1_d1", "e2_d1"))
    ]
    assert one["best"]["gain_nats"] > max(gains), "no better vectors were found"
    assert len(kept["base_alone"]["hit"]) == 20
    assert len(told["words"]) == 6
    assert (tmp_path / one["picture"]).stat().st_size > 10_000
    assert one["picture"] != seen["picture"]

    def never(*_: object) -> None:
        raise AssertionError("it was there already")

    monkeypatch.setattr(pizza, "fit", never)
    monkeypatch.setattr(pizza, "Measured", never)
    pizza.main(words)
    assert json.loads(capsys.readouterr().out) == told


@pytest.mark.parametrize("further", ["0", "-1", "nan", "11"])
def test_how_long_the_second_model_is_trained_is_checked_first(
    further: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        pizza.main(["--topic", "gratin", "--texts", "3000", "--further", further,
                    "--out", str(tmp_path)])  # fmt: skip
    assert "--further" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_where_no_topic_is_named_the_corpus_has_to_be_built_in(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"text {i} of {i * i}"}) + "\n" for i in range(9)))
    with pytest.raises(SystemExit):
        pizza.main(["--corpus", str(texts), "--out", str(tmp_path)])
