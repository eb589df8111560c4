"""Noise embeddings: exact look-ups, codes that give texts back, and words found in characters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cllm.corpus import built_in_corpus
from studies import noise, noise_bits
from studies.noise_bits import Pairs, repair
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
    crowded = np.unique(RNG(0).integers(0, 10**7, 3000))  # all begin with the same two digits
    tens = 10 ** np.arange(DIGITS - 1, -1, -1)
    keys = Keys.of((crowded[:, None] // tens % 10).astype(np.int8))
    assert keys.leading > 4
    assert (keys.nearest(keys.digits_VP) == np.arange(len(crowded))).all()
    assert _placed(np.zeros(9, np.int64), 2) is None, "no more than two buckets of four"
    assert _placed(np.zeros(8, np.int64), 2) is not None


def test_noise_is_added_as_numbers_are() -> None:
    assert (moved(digits("19"), digits("02")) == digits("21")).all()
    assert (moved(digits("21"), -digits("02")) == digits("19")).all()
    assert (moved(digits("9"), digits("9")) == 9).all(), "and stays below 1"


def test_noise_lands_on_its_target() -> None:
    keys = Keys.drawn(500, RNG(0))
    from_NP, target_N = keys.digits_VP[::-1], np.arange(500)
    noise_NP, used_N = noise_to(keys, from_NP, target_N)
    assert (keys.nearest(moved(from_NP, noise_NP)) == target_N).all()
    assert 0 < used_N.mean() < 5, "no more digits than tell keys apart"
    assert (noise_NP[np.arange(DIGITS)[None] >= used_N[:, None]] == 0).all()
    assert (noise_NP < 0).any(), "noise is taken away, too"
    already, none = noise_to(keys, keys.digits_VP, target_N)
    assert not already.any()
    assert not none.any()


TEXTS = built_in_corpus("plain", 60, 0).texts


Learnt = tuple[Vocabulary, Chain]


@pytest.fixture(scope="module")
def learnt() -> Learnt:
    vocabulary = Vocabulary.of(TEXTS[:40])
    keys = Keys.drawn(len(vocabulary.pieces), RNG(1))
    return vocabulary, Chain.learnt([vocabulary.read(text) for text in TEXTS[:40]], keys)


def test_texts_seen_and_new_come_back_whole(learnt: Learnt) -> None:
    vocabulary, chain = learnt
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
@given(ids=st.lists(st.integers(1, 40), max_size=30))
def test_any_tokens_come_back(learnt: Learnt, ids: list[int]) -> None:
    _, chain = learnt
    assert chain.decode(chain.encode(ids)) == ids
    assert chain.bits(chain.encode(ids)) > 0


def test_what_is_usual_costs_fewer_bits(learnt: Learnt) -> None:
    vocabulary, chain = learnt
    ids = vocabulary.read(TEXTS[0])
    pairs = Pairs([vocabulary.read(text) for text in TEXTS[:40]], len(vocabulary.pieces))
    mixed = RNG(0).permutation(ids).tolist()
    assert chain.bits(chain.encode(ids)) < 0.9 * chain.bits(chain.encode(mixed))
    assert pairs.bits(ids) < 0.6 * pairs.bits(mixed)
    shares = [2 ** -(pairs.bits([token]) - pairs.bits([])) for token in (3, 4)]
    assert all(share > 0 for share in shares)


def test_counted_pairs_are_shares_of_one() -> None:
    pairs = Pairs([[1, 2, 1], [2]], 4)
    after = pairs.after[1]
    total = sum((after[t] + len(after) * pairs.single_V[t]) / (len(after) + after.total())
                for t in range(4))  # fmt: skip
    assert total == pytest.approx(1)


def test_what_is_wrong_costs_bits_to_correct() -> None:
    assert repair([1, 2, 3], [1, 2, 3], 16) == 1
    assert repair([1, 2, 3], [1, 5, 3], 16) == 1 + 8 + 24 + 4
    assert repair([1, 2, 3], [1, 3], 16) == 1 + 8 + 24 + 4
    assert repair([1, 3], [1, 2, 3], 16) == 1 + 8 + 24
    assert repair([9, 1, 9], [1, 5], 16) > repair([9, 1], [1], 16)


def test_examples_give_back_their_own_and_map_new_ones_by_what_is_nearest(learnt: Learnt) -> None:
    vocabulary, chain = learnt
    pairs = [text.split(". ", 1) for text in TEXTS[:40]]
    contexts, targets = zip(*((vocabulary.read(a), vocabulary.read(b)) for a, b in pairs),
                            strict=True)  # fmt: skip
    examples = Examples.learnt(contexts, targets, chain.keys)
    own = np.arange(40)
    assert examples.written(contexts, own) == list(targets)
    mixed = [RNG(0).permutation(ids).tolist() for ids in contexts]
    for by in ("mean", "mean and variance"):
        rows = examples.nearest(mixed, by)
        assert [sorted(contexts[row]) for row in rows] == [sorted(ids) for ids in contexts]
    assert (examples.nearest(contexts, "noise") != own).any()
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
     (GraphToken("presence", (ID["o"], ID["m"], ID["a"])), None, "thecatsatonam at"),
     (GraphToken("presence", (ID["o"], ID["t"], ID["h"])), None, "thecatsatonamat"),
     (GraphToken("presence", (ID["e"], ID["t"], ID["s"])), None, "thecat satonamat"),
     (GraphToken("match", (ID["s"], ID["a"], ID["t"])), None, "thecat sat onamat"),
     (GraphToken("match", (ID["t"], ID["o"])), None, "thecatsatonamat"),
     (GraphToken("count", (ID["a"],), limit=2), None, "thecatsa tonama t"),
     (GraphToken("count", (ID["a"],), limit=3), None, "thecatsatonamat"),
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
    assert cutter.known(seen) == 1 > cutter.known(new) > 0.9
    assert (cutter.cuts(seen) == cutter.cut_E[cutter.nearest(seen)]).all(), "noise lands"
    assert (cutter.middle_E[cutter.nearest(seen)] == seen.ids_N).all()
    graphs = Graphs.dictionary(seen, alphabet, RNG(0))
    assert {token.does for token in graphs.tokens} == {
        "match", "substitute", "presence", "count", "continue"
    }  # fmt: skip
    assert graphs.sequence == []
    with_gaps_N = cutter.cuts(seen) & (RNG(1).random(len(seen.ids_N)) < 0.7)
    found = graphs.searched(seen, with_gaps_N)
    assert f1(f1_counts(found.run(seen, with_gaps_N), seen)) > f1(f1_counts(with_gaps_N, seen))
    assert len(found.sequence) == len(found.noise_SP) > 2
    assert f1(f1_counts(found.run(new, cutter.cuts(new)), new)) > alone
    assert all(token.named(alphabet) for token in graphs.tokens)


@pytest.mark.chain
def test_the_study_measures_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "SIZES", (100, 1000))
    monkeypatch.setattr(noise_bits, "COORDINATE_BITS", (3, 6))
    words = ["--texts", "600", "--measured", "8", "--json", "--out", str(tmp_path)]
    noise.main(words)
    found = json.loads(capsys.readouterr().out)
    stored, cut = found["stored"], found["words"]
    assert stored["seen"]["recovered"] == stored["unseen"]["recovered"] == 1
    assert found["mapped"]["seen, own noise"]["exact"] == 1
    assert stored["cllm"]["vector"]["bits_a_token"] < stored["cllm"]["corrected"]["bits_a_token"]
    packed = stored["deflate, training texts as its dictionary"]["bits_a_token"]
    assert stored["pairs of tokens counted"]["bits_a_token"] < packed
    assert packed < stored["deflate"]["bits_a_token"]
    assert found["looked_up"]["1000"]["buckets over scan"] > 1
    assert cut["noise − every place"]["ci"][0] > 0
    assert cut["f1"]["no cut (majority)"]["mean"] == 0
    assert len(found["words_told"]) == 6, "of the speed at 100,000 keys nothing was measured"

    def never(*_: object) -> None:
        raise AssertionError("it was measured before")

    for part in ("stored", "looked_up", "mapped", "words"):
        monkeypatch.setattr(noise, part, never)
    noise.main(words)
    assert json.loads(capsys.readouterr().out) == found
