"""Results replace old ones whole or not at all, and complaints name the file and next step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllm.errors import InputError, WorkError
from cllm.files import digest, read_json, read_parquet, replacing, write_json, write_parquet


def left_over(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_failure_inside_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as new:
            new.write_text("half")
            assert new.parent.parent == tmp_path  # same disk, so that the rename is atomic
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert left_over(tmp_path) == ["report.html"]


def test_success_replaces_file_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "demo" / "note.txt"
    for text in ("first", "second"):
        with replacing(path) as new:
            new.write_text(text)
    assert path.read_text() == "second"
    assert left_over(path.parent) == ["note.txt"]


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "a.txt", tmp_path / "a.txt"
    target.write_text("old")
    link.symlink_to(target)
    with replacing(link) as new:
        new.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def fill(folder: Path, text: str, fail: bool = False) -> None:
    folder.mkdir()
    (folder / "weights").write_text(text)
    if fail:
        raise RuntimeError("training broke")


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with replacing(path) as new:
        fill(new, "old")
    (path / "stale").write_text("of the old model")
    with pytest.raises(RuntimeError, match="training broke"), replacing(path) as new:
        fill(new, "half", fail=True)
    assert left_over(path) == ["stale", "weights"]
    with replacing(path) as new:
        fill(new, "new")
    assert left_over(path) == ["weights"]
    assert (path / "weights").read_text() == "new"
    assert left_over(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("error", "seen", "match"),
    [
        (OSError(errno.EIO, "Input/output error"), WorkError, "check the disk"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_folder_that_cannot_be_put_in_place_leaves_the_old(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    seen: type[BaseException],
    match: str | None,
) -> None:
    path = tmp_path / "model"
    fill(path, "old")
    rename = os.rename

    def rename_fails_once(source: Path, target: Path) -> None:
        if Path(source).name == "model" and Path(source).parent != tmp_path:
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_fails_once)
    with pytest.raises(seen, match=match), replacing(path) as new:
        fill(new, "new")
    assert (path / "weights").read_text() == "old"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
)
def test_full_disk_names_the_path_and_what_to_do(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "latents.parquet"
    path.write_text("old")
    with (
        pytest.raises(WorkError, match="No space left on device; free some") as caught,
        replacing(path),
    ):
        raise error
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"


def test_disk_that_fills_at_the_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"seed": 1})

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(WorkError, match=r"report\.json: No space left"):
        write_json(path, {"seed": 2})
    assert read_json(path) == {"seed": 1}


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        (tmp_path / "missing").read_text()
    with pytest.raises(RuntimeError, match="shape mismatch"), replacing(tmp_path / "a"):
        raise RuntimeError("shape mismatch")
    with pytest.raises(FileNotFoundError, match="nothing was written"), replacing(tmp_path / "a"):
        pass


def test_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(WorkError, match="remove the file"):
        write_json(tmp_path / "run" / "report.json", {})


def test_json_round_trip_and_refusal_of_nan(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"name": "crème", "list": [1, 2.5, None]})
    assert read_json(path) == {"name": "crème", "list": [1, 2.5, None]}
    with pytest.raises(WorkError, match="not measured"):
        write_json(path, {"bleu": float("nan")})
    assert read_json(path)["name"] == "crème"


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_damaged_json_names_the_command_that_makes_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"report\.json .*`cllm report`"):
        read_json(path)


def test_missing_files_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; make it with `cllm voids`"):
        read_parquet(tmp_path / "voids.parquet")
    with pytest.raises(InputError, match="check the path"):
        read_json(tmp_path / "mine.json")


def test_parquet_round_trip_with_metadata_and_shards(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("n", pa.int64())], metadata={"cllm": "1"})
    for shard in range(2):
        table = pa.table([["a", "b"], [shard, 7]], schema=schema)
        write_parquet(tmp_path / "latents" / f"{shard}.parquet", table)
    one = read_parquet(tmp_path / "latents" / "0.parquet", ["n"])
    assert one.to_pydict() == {"n": [0, 7]}
    assert one.schema.metadata == {b"cllm": b"1"}
    assert read_parquet(tmp_path / "latents")["n"].to_pylist() == [0, 7, 1, 7]


def test_parquet_missing_column_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "voids.parquet"
    write_parquet(path, pa.table({"id": ["a"], "score": [1.0]}))
    with pytest.raises(InputError, match=r"no column radius \(found: id, score\)"):
        read_parquet(path, ["id", "radius"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cannot be read .*`cllm voids`"):
        read_parquet(path)


@given(st.lists(st.text()), st.lists(st.text()))
def test_digest_tells_lists_of_parts_apart(left: list[str], right: list[str]) -> None:
    assert (digest(*left) == digest(*right)) == (left == right)
    assert len(digest(*left)) == 16
