"""Run folders elsewhere: what is fetched, put back, and said where it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from cllm.errors import InputError
from cluster import remote, train
from cluster.remote import (
    Marker,
    absolute,
    contents,
    fetched,
    lasting,
    listed,
    put,
    read_text,
    write_text,
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A place behind a URL, as an object store has."""
    (tmp_path / "store/run/base").mkdir(parents=True)
    (tmp_path / "store/run/corpus.parquet").write_bytes(b"texts")
    (tmp_path / "store/run/base/config.json").write_text("{}")
    return f"file://{tmp_path}/store/run"


def test_paths_become_absolute_and_urls_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("runs/mine") == str(tmp_path / "runs/mine")
    assert absolute("s3://bucket/run") == "s3://bucket/run"


def test_what_is_asked_for_is_fetched(url: str) -> None:
    run = fetched(url, ["corpus.parquet", "base"])
    assert run.corpus.read_bytes() == b"texts"
    assert (run.base / "config.json").read_text() == "{}"
    write_text(f"{url}/base/config.json", '{"new": 1}')
    assert (fetched(url, ["base"]).base / "config.json").read_text() == '{"new": 1}'


def test_a_path_that_is_seen_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    assert fetched(str(tmp_path), ["base"]).path == tmp_path


@pytest.mark.parametrize("local", [True, False])
def test_a_missing_part_is_named(url: str, tmp_path: Path, local: bool) -> None:
    place = str(tmp_path) if local else url
    with pytest.raises(InputError, match="has no model"):
        fetched(place, ["model"])


def test_what_is_put_can_be_fetched(url: str, tmp_path: Path) -> None:
    made = tmp_path / "model"
    (made / "inner").mkdir(parents=True)
    (made / "inner/weights").write_bytes(b"w")
    put(made, f"{url}/model")
    assert (fetched(url, ["model"]).model / "inner/weights").read_bytes() == b"w"


def test_what_is_put_in_an_object_store_replaces_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its "finished" note comes last, so that half a copy never counts."""
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())  # not local, to `put`
    monkeypatch.setattr(remote, "reached", lambda _: (store, "run/model"))
    model, there = tmp_path / "model", tmp_path / "run/model"
    for folder, names in ((model, ("a", "training.json", "z/b")), (there, ("old", "a"))):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{folder}")
    order: list[str] = []
    copy = fs.copy_files
    monkeypatch.setattr(
        remote.fs, "copy_files", lambda here, *a, **k: (order.append(here), copy(here, *a, **k))
    )
    put(model, "s3://bucket/run/model")
    assert {str(p.relative_to(there)) for p in there.rglob("*") if p.is_file()} == {
        "a", "training.json", "z/b",
    }  # fmt: skip
    assert (there / "a").read_text() == str(model)
    assert order[-1].endswith("training.json")


def test_variables_of_the_environment_are_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLLM_RUNS", "s3://bucket/runs")
    assert absolute("$CLLM_RUNS/mine/") == "s3://bucket/runs/mine"


def test_an_unknown_kind_of_place_is_said() -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        listed(*remote.reached("gopher://somewhere/run"))


def test_a_marker_shows_who_sees_a_place(url: str, tmp_path: Path) -> None:
    marker = Marker(url)
    assert not marker.seen()
    marker.write()
    assert marker.seen()
    other = Marker(str(tmp_path))
    other.name = marker.name
    assert not other.seen()
    marker.remove()
    assert not marker.seen()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Marker(str(tmp_path / "file/below")).write()


def test_contents_change_with_what_is_in_files_only(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    assert contents(str(folder)) == ""
    write_text(str(folder / "x"), "1")
    once = contents(str(folder))
    write_text(str(folder / "x"), "1")
    assert contents(str(folder)) == once != ""
    write_text(str(folder / ".hidden"), "2")
    assert contents(str(folder)) == once
    write_text(str(folder / "x"), "3")
    assert contents(str(folder)) != once
    assert read_text(str(folder / "none")) is None


def test_a_manifest_stands_for_its_folder(tmp_path: Path) -> None:
    write_text(str(tmp_path / "manifest.json"), "{}")
    once = contents(str(tmp_path))
    write_text(str(tmp_path / "v-1/part"), "x")
    assert contents(str(tmp_path)) == once


@pytest.mark.parametrize("name", ["a b", "a#b", "a%20b", "ä"])
def test_any_name_of_a_folder_will_do(tmp_path: Path, name: str) -> None:
    write_text(str(tmp_path / name / "x"), "1")
    assert (tmp_path / name / "x").read_text() == "1"
    assert read_text(str(tmp_path / name / "x")) == "1"


def test_a_models_card_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"1")
    before = contents(str(tmp_path))
    (tmp_path / "README.md").write_text("its scores")
    assert contents(str(tmp_path)) == before != ""


def test_a_jobs_own_folder_is_no_place_to_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "working_dir_files" / "_ray_pkg_ab12"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(InputError, match="runs/mine would lie in this job's copy"):
        lasting("runs/mine")
    assert lasting("/data/mine") == "/data/mine"


def test_a_url_is_taken_as_it_is() -> None:
    options = train.parser().parse_args(["--run", "s3://bucket/mine"])
    assert options.run == "s3://bucket/mine"
    assert train.means_of(options).storage == "s3://bucket/mine/training/ray"
