"""The pizza experiment: a topic taken out of a corpus, and what comes back of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cllm.corpus import Corpus, built_in_corpus
from cllm.errors import InputError
from cllm.recipes import combination
from studies import pizza
from studies.pizza import _affine
from studies.pizza_told import MUST_NOT_COUNT, in_words, summary
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


def facts(base: str, back: float, inside: float) -> dict[str, Any]:
    """Of one topic: so much comes back, so much lies in voids."""

    def arm(hit: float) -> dict[str, float]:
        return {"hit": hit, "content_f1": hit, "gain_nats": 10 * hit}

    arms = {"e1_d1": arm(0.1), "random": arm(0.0)}
    for kind in ("alone", "mixed"):
        arms |= {f"e2_d1 {kind}": arm(back), f"e2_d2 {kind}": arm(0.9),
                 f"affine {kind}": arm(back), f"permuted {kind}": arm(0.0)}  # fmt: skip
    where = {
        f"{name}, {encoder}": {"in_void": inside if name == "topic" else 0.1}
        for encoder in ("E1", "E2 alone", "E2 mixed") for name in ("topic", *MUST_NOT_COUNT)
    }  # fmt: skip
    others = {name: {"content_f1": 0.8} for name in ("e1_d1", "e2_d1 alone", "e2_d1 mixed")}
    return {"base": base, "arms": {"seen": arms, "unseen": arms}, "others": others, "where": where}


def test_words_say_whether_it_came_back_and_lay_in_a_void() -> None:
    good = [facts("blind", 0.7 + i / 100, 0.6 + i / 100) for i in range(5)]
    told = summary(good)["blind"]["mixed"]
    assert told["hit e2_d1 less best floor"]["mean"] == pytest.approx(0.62)
    assert told["hit e2_d1 less best floor"]["ci"][0] > 0.5
    assert told["content_f1 of others, e2_d1 over e1_d1"]["mean"] == 1
    assert told["in voids, E2, less the most of what must not count"]["mean"] == pytest.approx(0.52)
    line = in_words(summary(good))[1]
    assert "texts came back" in line
    assert ", and lay in voids" in line
    drifted = [facts("blind", 0.7, 0.6 + i / 100) for i in range(5)]
    for one in drifted:
        one["where"] |= {name: {"in_void": 0.9} for name in one["where"] if "E2" in name}
    far = summary(drifted)["blind"]["mixed"]["in voids, E2, less the most of what must not count"]
    assert far["mean"] == 0, "an encoder that drifts takes all texts into voids"
    bad = in_words(summary([facts("blind", 0.1, 0.1)] * 5))[0]
    assert "did not surely come back" in bad
    assert "did not surely lie in voids" in bad
    assert "ci" not in summary(good[:1])["blind"]["mixed"]["hit e2_d1"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_experiment_runs_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--topic", "gratin", "--bases", "blind", "--texts", "3000", "--seconds", "8",
             "--base-seconds", "8", "--allow-weak-base", "--measured", "20", "--json",
             "--out", str(tmp_path)]  # fmt: skip
    pizza.main(words)
    told = json.loads(capsys.readouterr().out)
    (one,) = told["each"]
    assert set(one["arms"]["unseen"]) == {"e1_d1", "random"} | {
        f"{arm} {kind}" for arm in ("e2_d1", "e2_d2", "affine", "permuted")
        for kind in ("alone", "mixed")
    }  # fmt: skip
    assert 0 <= one["where"]["topic, E2 mixed"]["in_void"] <= 1
    assert len(told["words"]) == 2
    assert next(tmp_path.glob("*/pizza.png")).stat().st_size > 10_000

    def never(*_: object) -> None:
        raise AssertionError("it was there already")

    monkeypatch.setattr(pizza, "fit", never)
    monkeypatch.setattr(pizza, "Measured", never)
    pizza.main(words)
    assert json.loads(capsys.readouterr().out) == told


def test_where_no_topic_is_named_the_corpus_has_to_be_built_in(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"text {i} of {i * i}"}) + "\n" for i in range(9)))
    with pytest.raises(SystemExit):
        pizza.main(["--corpus", str(texts), "--out", str(tmp_path)])
