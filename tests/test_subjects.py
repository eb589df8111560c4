"""Voids within, between and across groups of texts: in corpus, library and command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import command

from cllm.cli_corpus import read_corpus
from cllm.corpus import Corpus, build_corpus
from cllm.discovery import found_voids, require_kind
from cllm.errors import InputError
from cllm.made import mixed, with_made
from cllm.places import Places
from cllm.reading import Row, read_rows
from cllm.run import SHIPPED_VOIDS, RunFolder
from cllm.subjects import kind_of, subjects_of
from cllm.where import NoSuchPlace, Where

NONE = np.empty((0, 0), np.float32)


@pytest.fixture(scope="module")
def places() -> Places:
    return Places.of(RunFolder(SHIPPED_VOIDS), keep=False)


@pytest.mark.parametrize(
    ("subjects", "kind"),
    [((), None), (("", ""), None), (("a", ""), "within"), (("a", "b", "a"), "between"),
     (("a", "b", "c"), "across")],
)  # fmt: skip
def test_what_surroundings_are_called(subjects: tuple[str, ...], kind: str | None) -> None:
    assert kind_of(subjects) == kind


def test_a_files_column_of_groups_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"text number {i} of some", "kind": "odd" if i % 2 else None}
            for i in range(9)]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    corpus = build_corpus(read_rows(path, subject_column="kind"), near_duplicate=1.0)
    assert dict(zip(corpus.texts, corpus.subjects, strict=True)) == {
        row["text"]: row["kind"] or "" for row in rows
    }
    corpus.save(tmp_path / "corpus.parquet")
    again = Corpus.load(tmp_path / "corpus.parquet")
    assert again == corpus
    assert again.hash == corpus.hash == replace(corpus, subjects=()).hash
    part = corpus.select("train").sample(3)
    assert len(part.subjects) == 3
    assert subjects_of(corpus, part.ids) == part.subjects
    assert not build_corpus(read_rows(path), near_duplicate=1.0).subjects


def test_groups_are_words_or_numbers_and_the_column_may_be_another_one_too(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({
        "text": [f"text number {i}" for i in range(6)], "title": list("abcdef"),
        "year": [1990.0, 1991.5, float("nan"), None, 2000.0, 1990.0],
    }), path)  # fmt: skip
    years = build_corpus(read_rows(path, subject_column="year"), near_duplicate=1.0)
    assert years.subjects == ("1990", "1991.5", "", "", "2000", "1990")
    titles = build_corpus(read_rows(path, subject_column="title"), near_duplicate=1.0)
    assert titles.subjects == titles.titles == tuple("abcdef")
    with pytest.raises(InputError, match="column 'yaer'"):
        read_corpus(path, "text", 100, 0, "yaer")


def test_what_a_model_wrote_has_no_group_and_the_rest_keep_theirs() -> None:
    rows = [Row(text=f"text number {i}", subject="ab"[i % 2]) for i in range(9)]
    corpus = build_corpus(rows, near_duplicate=1.0)
    both = with_made(corpus, ["a new text"])
    assert both.subjects == (*corpus.subjects, "")
    taught = mixed(both, 0.3, 3)
    of = dict(zip(taught.texts, taught.subjects, strict=True))
    assert of.pop("a new text") == ""
    assert of == dict(zip(corpus.texts, corpus.subjects, strict=True))


def test_texts_without_groups_have_none_and_recipes_have_their_dishes() -> None:
    corpus = build_corpus([Row(text=f"text {i}") for i in range(5)], near_duplicate=1.0)
    assert subjects_of(corpus, corpus.ids) is None
    recipes = RunFolder(SHIPPED_VOIDS).load_corpus().sample(50)
    dishes = subjects_of(recipes, recipes.ids)
    assert dishes
    assert all(dish in text for dish, text in zip(dishes, recipes.texts, strict=True))


@pytest.mark.parametrize("groups", ["within", "between", "across"])
def test_places_lie_amid_the_groups_that_were_asked_for(places: Places, groups: str) -> None:
    where = Where(groups=groups)  # type: ignore[arg-type]
    starts_SD = places.starts(where, NONE, 0, 0, 4)
    if groups != "within":
        assert len(starts_SD), "the shipped run has places of both kinds"
    spots = places.look(starts_SD, groups=True)
    assert all(kind_of(spot.groups) == groups for spot in spots)
    settled = places.settled(where, starts_SD)
    assert all(spot is None or kind_of(spot.groups) == groups for spot in settled)
    if groups != "within":
        assert any(spot for spot in settled)
    again_SD = places.starts(where, NONE, 0, 0, 4)
    np.testing.assert_array_equal(again_SD, starts_SD)


def test_groups_around_a_void_are_those_of_its_rim(places: Places) -> None:
    assert places.subjects
    voids = [void for void in places.voids if not void.written][:5]
    centre_nD = places.field.lifted(places.field.own(np.stack([v.centre_K for v in voids])))
    for void, spot in zip(voids, places.look(centre_nD, groups=True), strict=True):
        assert set(spot.groups) == {places.subjects[row] for row in void.rim}


def test_a_named_group_is_among_them_and_an_unknown_one_is_told(places: Places) -> None:
    dish = places.look(places.starts(Where(), NONE, 0, 0, 1), groups=True)[0].groups[0]
    spots = places.look(places.starts(Where(group=(dish,)), NONE, 0, 0, 2), groups=True)
    assert spots
    assert all(dish in spot.groups for spot in spots)
    with pytest.raises(NoSuchPlace, match="no group 'xyzzy'; there are"):
        places.starts(Where(group=("xyzzy",)), NONE, 0, 0, 1)
    with pytest.raises(NoSuchPlace, match="no known groups"):
        replace(places, subjects=None).starts(Where(groups="between"), NONE, 0, 0, 1)


def test_a_group_of_one_text_is_a_group(places: Places) -> None:
    """A void whose rim has it is within it, if all else there is without one."""
    assert places.subjects
    void = places.voids[0]
    names = [""] * len(places.subjects)
    names[void.rim[0]] = "lonely"
    alone = replace(places, subjects=tuple(names))
    centre_1D = places.field.lifted(places.field.own(void.centre_K[None]))
    (spot,) = alone.look(centre_1D, groups=True)
    assert spot.groups == ("lonely",)
    assert not len(alone.starts(Where(groups="between"), NONE, 0, 0, 1))


def test_voids_are_listed_by_their_kind() -> None:
    run = RunFolder(SHIPPED_VOIDS)
    every = found_voids(run)
    kinds = {kind: found_voids(run, kind) for kind in ("within", "between", "across")}
    assert sum(map(len, kinds.values())) == len(every) > 0
    for kind, rows in kinds.items():
        for row in rows:
            assert row["kind"] == kind == kind_of(row["groups"])
    dish = every[0]["groups"][0]
    named = found_voids(run, group=[dish])
    assert every[0]["id"] in [row["id"] for row in named]
    assert all(dish in row["groups"] for row in named)


def test_what_is_no_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="within, between, across"):
        require_kind(RunFolder(SHIPPED_VOIDS), "beside")
    run = RunFolder(tmp_path)
    build_corpus([Row(text=f"text {i}") for i in range(5)], near_duplicate=1.0).save(run.corpus)
    with pytest.raises(InputError, match="--group-column"):
        require_kind(run, "between")
    require_kind(run, None)
    with pytest.raises(InputError, match="--group-column"):
        require_kind(run, None, ["a"])
    with pytest.raises(InputError, match="no group 'xyzzy'; there are"):
        require_kind(RunFolder(SHIPPED_VOIDS), None, ["xyzzy"])


@pytest.mark.chain
def test_the_command_writes_amid_groups(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["generate", "--run", str(SHIPPED_VOIDS), "--groups", "between", "--n", "2", "--json"]
    assert command(*wanted) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[:-1]
    assert all(len(line["place"]["groups"]) == 2 for line in lines[:-1])
    assert command(*wanted[:4], "beside") == 2
    assert "groups" in capsys.readouterr().err
