"""Noise embeddings: exact look-ups, codes that give texts back, and words found in characters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cllm.corpus import built_in_corpus
from studies import noise
from studies.noise_keys import DIGITS, Keys, _placed, costs, moved, noise_to
from studies.noise_texts import Chain, Examples, Vocabulary, nearest_of
from studies.noise_words import (
    JOIN,
    STOP,
    Cutter,
    Graphs,
    GraphToken,
    Letters,
    f1,
    f1_counts,
)

RNG = np.random.default_rng


def digits(*numbers: str) -> np.ndarray:
    return np.array([[int(digit) for digit in one.ljust(DIGITS, "0")] for one in numbers], np.int8)


def test_digits_count_from_the_left_and_near_ones_less() -> None:
    from_, to = digits("5"), digits("5", "6", "9", "51", "59")
    found = costs(from_, to)
    assert found[0] == 0
    assert (np.diff(found[[0, 3, 4, 1, 2]]) > 0).all(), "a digit outweighs all behind it"
    np.testing.assert_allclose(found, [0, 1.1, 1.4, 0.33, 0.57])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 99))
def test_buckets_find_what_a_scan_finds(count: int, seed: int) -> None:
    rng = RNG(seed)
    keys = Keys.drawn(count, rng)
    assert len(np.unique(keys.digits_VP, axis=0)) == count
    assert (np.sort(keys.buckets_BS[keys.buckets_BS >= 0]) == np.arange(count)).all()
    values_NP = rng.integers(0, 10, (50, DIGITS)).astype(np.int8)
    near_NP = keys.digits_VP[rng.integers(count, size=20)]
    for some in (values_NP, near_NP):
        found, scanned = keys.nearest(some), keys.scanned(some)
        np.testing.assert_allclose(
            costs(keys.digits_VP[found], some), costs(keys.digits_VP[scanned], some)
        )
    assert (keys.nearest(keys.digits_VP) == np.arange(count)).all()


def test_keys_that_crowd_are_found_too() -> None:
    rng = RNG(0)
    crowded = np.unique(rng.integers(0, 10**5, 3000))  # all begin with the same four digits
    tens = 10 ** np.arange(DIGITS - 1, -1, -1)
    keys = Keys.of((crowded[:, None] // tens % 10).astype(np.int8))
    assert (keys.nearest(keys.digits_VP) == np.arange(len(crowded))).all()
    assert _placed(np.zeros(9, np.int64), 2) is None, "no more than two buckets of four"
    assert _placed(np.zeros(8, np.int64), 2) is not None


def test_noise_lands_on_its_target() -> None:
    keys = Keys.drawn(500, RNG(0))
    from_NP, target_N = keys.digits_VP[::-1], np.arange(500)
    noise_NP, used_N = noise_to(keys, from_NP, target_N)
    assert (keys.nearest(moved(from_NP, noise_NP)) == target_N).all()
    assert 0 < used_N.mean() < 5, "no more digits than tell keys apart"
    assert (noise_NP[np.arange(DIGITS)[None] >= used_N[:, None]] == 0).all()
    already, none = noise_to(keys, keys.digits_VP, target_N)
    assert not already.any()
    assert not none.any()


TEXTS = built_in_corpus("plain", 60, 0).texts


def learnt() -> tuple[Vocabulary, Chain]:
    vocabulary = Vocabulary.of(TEXTS[:40])
    keys = Keys.drawn(len(vocabulary.pieces), RNG(1))
    return vocabulary, Chain.learnt([vocabulary.read(text) for text in TEXTS[:40]], keys)


def test_texts_seen_and_new_come_back_whole() -> None:
    vocabulary, chain = learnt()
    for text in TEXTS:
        code = chain.encode(vocabulary.read(text))
        assert vocabulary.text(chain.decode(code)) == text
    usual = chain.encode(vocabulary.read(TEXTS[0]))
    assert (usual.used_T == 0).mean() > 0.3, "the usual next token needs no noise"
    assert usual.own_T.any(), "and some are nearer to what followed before"
    letters = set("".join(TEXTS[:40]))
    strange = "".join(RNG(0).permutation(sorted(letters)))
    assert vocabulary.text(chain.decode(chain.encode(vocabulary.read(strange)))) == strange


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30))
def test_any_tokens_come_back(ids: list[int]) -> None:
    _, chain = learnt_once
    assert chain.decode(chain.encode(ids)) == ids
    assert chain.bits(chain.encode(ids)) > 0


learnt_once = learnt()


def test_what_is_usual_costs_fewer_bits() -> None:
    vocabulary, chain = learnt_once
    ids = vocabulary.read(TEXTS[0])
    usual = chain.bits(chain.encode(ids))
    assert usual < 0.9 * chain.bits(chain.encode(RNG(0).permutation(ids).tolist()))


def test_examples_give_back_their_own_and_map_new_ones_by_the_nearest_mean() -> None:
    vocabulary, chain = learnt_once
    pairs = [text.split(". ", 1) for text in TEXTS[:40]]
    contexts, targets = zip(*((vocabulary.read(a), vocabulary.read(b)) for a, b in pairs),
                            strict=True)  # fmt: skip
    examples = Examples.learnt(contexts, targets, chain.keys)
    own = np.argsort(examples.order_E)
    assert examples.written(contexts, own) == list(targets)
    assert (np.diff(examples.means_E) >= 0).all()
    mixed = [RNG(0).permutation(ids).tolist() for ids in contexts[:3]]
    assert (examples.nearest(mixed) == examples.nearest(contexts[:3])).all(), "means have no order"
    other = examples.written(contexts[:1], own[1:2])[0]
    assert other != targets[0]
    assert other != targets[1], "another context's noise lands elsewhere"


def test_the_nearest_number_is_found() -> None:
    known = np.array([1.0, 2.0, 4.0])
    assert nearest_of(known, np.array([0.0, 1.4, 1.6, 3.1, 9.0])).tolist() == [0, 0, 1, 2, 2]
    assert nearest_of(known[:1], np.array([5.0])).tolist() == [0]


ALPHABET = "abcdefghijklmnopqrstuvwxyz"
ID = {letter: place for place, letter in enumerate(ALPHABET, JOIN + 1)}
HERE = Letters.of(["the cat sat", "on a mat"], ALPHABET)


def told(cut_N: np.ndarray) -> str:
    pairs = zip(HERE.ids_N, cut_N, strict=True)
    return "".join(ALPHABET[i - JOIN - 1] + (" " if cut else "") for i, cut in pairs)


def test_spaces_are_cuts_and_no_text_runs_into_the_next() -> None:
    assert told(HERE.cut_N) == "the cat saton a mat"
    windows = HERE.windows(1, 1)
    assert windows[0].tolist() == [0, ID["t"], ID["h"]]
    assert windows[8].tolist() == [ID["a"], ID["t"], 0]
    assert windows[9].tolist() == [0, ID["o"], ID["n"]]
    assert f1(f1_counts(HERE.cut_N, HERE)) == 1
    assert f1_counts(np.ones(len(HERE.ids_N), bool), HERE).tolist() == [[2, 8, 2], [2, 5, 2]]


@pytest.mark.parametrize(
    ("token", "before", "after"),
    [(GraphToken("substitute", (ID["e"], ID["c"])), None, "the catsatonamat"),
     (GraphToken("substitute", (ID["t"], ID["h"]), cut=False), "all",
      "th e c a t s a t o n a m a t "),
     (GraphToken("presence", (ID["t"],)), None, "t hecat sat onamat "),
     (GraphToken("match", (ID["s"], ID["a"], ID["t"])), None, "thecat sat onamat"),
     (GraphToken("match", (ID["t"], ID["o"])), None, "thecatsatonamat"),
     (GraphToken("count", limit=2), "all", "thecatsatonamat"),
     (GraphToken("continue", limit=3), None, "thec a t s a tonam a t")],
)  # fmt: skip
def test_graph_tokens_do_what_they_say(token: GraphToken, before: str | None, after: str) -> None:
    cut_N = np.full(len(HERE.ids_N), before == "all")
    usual = np.ones((40, 40), bool)
    usual[:, STOP] = False  # a text's end
    found = token.run(HERE, cut_N, usual)
    assert told(found).replace(" ", "·") == after.replace(" ", "·")
    assert not (cut_N != (before == "all")).any(), "what it was given is left as it was"


def test_windows_and_graph_tokens_find_words() -> None:
    corpus = built_in_corpus("plain", 400, 0)
    train, test = (corpus.select(split).texts for split in ("train", "test"))
    alphabet = "".join(sorted({c for text in train for c in text if c.strip()}))
    seen, new = Letters.of(train[:300], alphabet), Letters.of(test, alphabet)
    cutter = Cutter.learnt(seen, Keys.drawn(len(alphabet) + JOIN + 1, RNG(0)), 2, 2)
    alone = f1(f1_counts(cutter.cuts(new), new))
    assert f1(f1_counts(cutter.cuts(seen), seen)) > alone > 0.6
    graphs = Graphs.dictionary(seen, alphabet, RNG(0))
    assert {token.does for token in graphs.tokens} == {
        "match", "substitute", "presence", "count", "continue"
    }  # fmt: skip
    assert graphs.sequence == []
    found = graphs.searched(
        seen, cutter.cuts(seen) & (RNG(1).random(len(seen.ids_N)) < 0.7), RNG(0)
    )
    assert len(found.sequence) == len(found.noise_SP) > 2
    assert f1(f1_counts(found.run(new, cutter.cuts(new)), new)) > alone
    assert all(token.named(alphabet) for token in graphs.tokens)


@pytest.mark.chain
def test_the_study_measures_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "SIZES", (100, 1000))
    monkeypatch.setattr(noise, "COORDINATE_BITS", (3, 6))
    words = ["--texts", "600", "--measured", "8", "--out", str(tmp_path)]
    noise.main(words)
    found = json.loads(capsys.readouterr().out)
    assert found["stored"]["seen"]["recovered"] == found["stored"]["unseen"]["recovered"] == 1
    assert found["mapped"]["seen"]["exact"] == 1
    assert 0 < found["stored"]["cllm"]["bits_a_token"] < found["stored"]["unseen"]["bits_a_token"]
    assert found["looked_up"]["1000"]["over_scan"] > 0
    assert found["words"]["noise − every place"]["ci"][0] > 0

    def never(*_: object) -> None:
        raise AssertionError("it was measured before")

    for part in ("stored", "looked_up", "mapped", "words"):
        monkeypatch.setattr(noise, part, never)
    noise.main(words)
    assert json.loads(capsys.readouterr().out) == found
