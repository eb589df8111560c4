"""Duplicates go, near texts stay together, and the split is the same everywhere."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import command

from cllm.corpus import SPLITS, Corpus, build_corpus, built_in_corpus, spaced
from cllm.errors import InputError
from cllm.files import write_parquet
from cllm.near_duplicates import find_near
from cllm.reading import Row, read_rows

ALPHABET = [f"w{i}" for i in range(500)]


def random_texts(n: int, seed: int = 0, words: int = 20) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(ALPHABET, k=words)) for _ in range(n)]


def rows(*texts: str) -> list[Row]:
    return [Row(text) for text in texts]


def spoilt(text: str, every: int) -> str:
    """The text with each `every`-th word changed."""
    words = text.split()
    return " ".join("x" + word if i % every == 0 else word for i, word in enumerate(words, 1))


def shingle_jaccard(left: str, right: str) -> float:
    triples = [
        set(zip(t.split(), t.split()[1:], t.split()[2:], strict=False)) for t in (left, right)
    ]
    return len(triples[0] & triples[1]) / len(triples[0] | triples[1])


def test_exact_duplicates_go_and_the_first_stays() -> None:
    corpus = build_corpus([Row("a b", id="1"), Row("c d", id="2"), Row("a b", id="3"), Row("e f")])
    assert corpus.texts == ("a b", "c d", "e f")
    assert corpus.ids[:2] == ("1", "2")
    assert corpus.info["exact_duplicates"] == 1
    assert corpus.info["rows"] == 4


def test_near_duplicates_go_from_the_threshold_on() -> None:
    texts = random_texts(4, words=60)
    near, less_near = spoilt(texts[0], 50), spoilt(texts[1], 15)
    assert shingle_jaccard(texts[0], near) > 0.85
    assert 0.6 < shingle_jaccard(texts[1], less_near) < 0.75
    corpus = build_corpus(rows(*texts, near, less_near))
    assert corpus.texts == (*texts, less_near)
    assert corpus.info["near_duplicates"] == 1
    assert corpus.groups[4] == corpus.groups[1] == min(corpus.ids[1], corpus.ids[4])
    assert corpus.splits[4] == corpus.splits[1]
    assert len(set(corpus.groups)) == 4
    assert near in build_corpus(rows(*texts, near, less_near), near_duplicate=1.0).texts
    assert less_near not in build_corpus(rows(*texts, near, less_near), near_duplicate=0.6).texts


def test_wording_alone_makes_no_difference() -> None:
    corpus = build_corpus(rows("Leek soup, hot!", "leek soup hot", "plum pie", "fig", "!!!", "???"))
    assert corpus.texts == ("Leek soup, hot!", "plum pie", "fig", "!!!", "???")


def test_groups_are_linked_through_middle_texts_and_never_split() -> None:
    chain = random_texts(1, words=60)
    for _ in range(6):
        chain.append(spoilt(chain[-1], 17 + len(chain)))
    others = random_texts(200, seed=1)
    corpus = build_corpus(rows(*chain, *others), near_duplicate=0.95, group_at=0.6)
    ends = [corpus.texts.index(text) for text in (chain[0], chain[-1])]
    assert shingle_jaccard(chain[0], chain[-1]) < 0.4
    assert len({corpus.groups[i] for i in ends}) == 1
    splits = dict(zip(corpus.groups, corpus.splits, strict=True))
    assert [splits[group] for group in corpus.groups] == list(corpus.splits)


def test_split_is_the_same_everywhere() -> None:
    """Frozen values: a change here moves texts between splits and voids trained models."""
    corpus = build_corpus(rows(*random_texts(60)), split=(0.6, 0.2, 0.2))
    assert (
        "".join(split[1] for split in corpus.splits)  # r: train, a: validation, e: test
        == "rrerraerrerraarrrerraarraeerereeearerrrrrrraerrraraararrrrrr"
    )
    assert corpus.hash == "5e8e710a77a58c27"


def test_split_depends_on_no_order_and_follows_shares_and_seed() -> None:
    texts = random_texts(2000)
    corpus = build_corpus(rows(*texts))
    turned = build_corpus(rows(*reversed(texts)))
    assert dict(zip(corpus.ids, corpus.splits, strict=True)) == dict(
        zip(turned.ids, turned.splits, strict=True)
    )
    shares = [len(corpus.select(split)) / 2000 for split in SPLITS]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.02)
    assert build_corpus(rows(*texts), seed=1).splits != corpus.splits


@given(st.integers(3, 12), st.integers(0, 1000))
def test_tiny_corpora_have_every_split(n: int, seed: int) -> None:
    texts = rows(*random_texts(n, seed))
    corpus = build_corpus(texts, seed=seed)
    assert set(corpus.splits) == set(SPLITS)
    assert corpus == build_corpus(texts, seed=seed)


def test_texts_all_near_each_other_still_give_every_split() -> None:
    text = random_texts(1, words=60)[0]
    close = [text, *(text.replace(text.split()[i], "new") for i in (10, 30, 50))]
    corpus = build_corpus(rows(*close), near_duplicate=0.99)
    assert len(corpus) == 4
    assert corpus.info["groups"] == 1
    assert set(corpus.splits) == set(SPLITS)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "the corpus is empty"),
        (["fig"], "holds one text"),
        (["fig"] * 7, "all 7 texts of the corpus are equal"),
        (["fig", "plum", "fig"], "only 2 of 3 texts differ"),
        (["a leek pie", "A leek pie!", "a leek pie."], r"only 1 of 3 .*near_duplicate = 1"),
    ],
)
def test_too_few_texts(texts: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        build_corpus(rows(*texts))
    assert "at least one different text each" in str(caught.value)


def test_repeated_ids_and_bad_settings() -> None:
    with pytest.raises(InputError, match=r"id '7' stands 2 times"):
        build_corpus([Row("a", id="7"), Row("b", id="7"), Row("c"), Row("d")])
    for wrong in ((0.5, 0.5, 0.5), (1.0, 0.0, 0.0)):
        with pytest.raises(InputError, match="sum to 1"):
            build_corpus(rows("a", "b", "c"), split=wrong)
    with pytest.raises(InputError, match="near_duplicate is 0"):
        build_corpus(rows("a", "b", "c"), near_duplicate=0)


def test_titles(tmp_path: Path) -> None:
    corpus = build_corpus([Row("title: Leek pie. ingredients: fig"), Row("b", "B"), Row("c")])
    assert corpus.titles == ("Leek pie", "B", "")


def test_counts_of_the_reading_go_into_info(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"fig\nplum\n\xff\nleek\n")
    info = build_corpus(read_rows(path)).info
    assert (info["source"], info["rows"], info["bad_rows"]) == ("mine.txt", 4, 1)
    assert len(info["sha256"]) == 64


def test_save_and_load(tmp_path: Path) -> None:
    corpus = build_corpus([Row("crème", "C", "1"), Row("fig"), Row("leek")])
    path = tmp_path / "corpus.parquet"
    corpus.save(path)
    loaded = Corpus.load(path)
    assert loaded == corpus
    assert loaded.hash == corpus.hash
    assert loaded.select("test").splits == ("test",)
    assert loaded.select("test").info == corpus.info
    with pytest.raises(ValueError, match="no split 'dev'"):
        corpus.select("dev")


def test_hash_sees_every_change() -> None:
    base = {"ids": ("1", "2"), "texts": ("a", "b"), "titles": ("", ""), "groups": ("1", "2")}
    splits = ("train", "test")
    hashes = {
        Corpus(**base, splits=splits).hash,
        Corpus(**base, splits=splits[::-1]).hash,
        Corpus(**base | {"ids": ("1", "3")}, splits=splits).hash,
        Corpus(**base | {"texts": ("a", "c")}, splits=splits).hash,
    }
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": None}, "no column split"),
        ({"split": ["train", "dev", "test"]}, "unknown split 'dev'"),
        ({"text": ["a", None, "c"]}, "column text holds no text in row 1"),
        ({"text": [1, 2, 3]}, "column text holds no text in row 0"),
        ({"id": ["1", "1", "2"]}, "id '1' stands 2 times"),
    ],
)
def test_inconsistent_file(tmp_path: Path, change: dict[str, list[str] | None], words: str) -> None:
    columns = {name: ["1", "2", "3"] for name in ("id", "text", "title", "group")}
    columns |= {"split": list(SPLITS)} | change
    path = tmp_path / "corpus.parquet"
    write_parquet(path, pa.table({name: each for name, each in columns.items() if each}))
    with pytest.raises(InputError, match=words):
        Corpus.load(path)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="cllm corpus build"):
        Corpus.load(path)


@pytest.mark.parametrize("richness", ["plain", "rich"])
def test_built_in_corpus(richness: str) -> None:
    corpus = built_in_corpus(richness, 300, seed=3)
    assert len(corpus) == 300
    assert corpus.groups == corpus.ids
    assert corpus.info["richness"] == richness
    assert corpus.info["seed"] == 3
    assert 10 < corpus.info["entropy_nats"] < 200
    assert all(len(pair) == 2 for pair in corpus.info["withheld"])
    assert all(
        text.startswith(f"title: {title}.")
        for text, title in zip(corpus.texts, corpus.titles, strict=True)
    )
    assert corpus == built_in_corpus(richness, 300, seed=3)
    assert corpus.hash != built_in_corpus(richness, 300, seed=4).hash
    with pytest.raises(InputError, match="no richness 'poor'"):
        built_in_corpus("poor", 10, seed=0)


def test_near_search_is_fast_enough_for_real_corpora() -> None:
    """30,000 texts of 53 words in under a minute; a tenth of it here, with room to spare."""
    texts = random_texts(3000, words=53)
    start = time.process_time()
    assert len(find_near(texts, 0.8, 0.6).kept) == 3000
    assert time.process_time() - start < 6


def test_a_sample_does_not_depend_on_the_order() -> None:
    corpus = built_in_corpus("plain", 60, 0)
    turned = Corpus(*(column[::-1] for column in corpus._columns))
    assert set(corpus.sample(20).ids) == set(turned.sample(20).ids)
    assert len(corpus.sample(20)) == 20
    assert corpus.sample(20).ids == tuple(i for i in corpus.ids if i in set(corpus.sample(20).ids))
    assert corpus.sample(100) is corpus


def test_a_corpus_withholds_the_fold_it_is_asked_for() -> None:
    corpus = built_in_corpus("plain", 200, 0, fold=1)
    assert corpus.info["fold"] == 1
    assert not corpus.withheld_in(corpus.texts)
    other = built_in_corpus("plain", 200, 0)
    assert not set(map(tuple, other.info["withheld"])) & set(map(tuple, corpus.info["withheld"]))


def test_bad_rows_are_told_even_where_what_is_left_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "Only one."}\nnot json\n')
    for words in (("corpus", "check", str(file)), ("run", "--corpus", str(file))):
        assert command(*words) == 2
        told = capsys.readouterr().err
        assert "texts.jsonl:2" in told
        assert "holds one text" in told


def test_rows_that_stand_for_all_come_from_all_over() -> None:
    assert spaced(10, 3).tolist() == [0, 4, 9]
    assert spaced(3, 10).tolist() == [0, 1, 2]
    assert spaced(0, 5).tolist() == []
