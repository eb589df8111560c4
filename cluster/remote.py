"""Run folders that lie anywhere pyarrow's file systems reach: s3://…, gs://…, or a shared path.

A node works on a copy of what it needs; a local path that the node sees is used as it is.
    run = fetched("s3://bucket/runs/mine", ["corpus.parquet", "base"])
    put(run.model, "s3://bucket/runs/mine/model")
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from pyarrow import fs

from cllm.errors import InputError
from cllm.files import digest, replacing
from cllm.run import PLAUSIBLE, RunFolder

TOLD_LATER = ("README.md", PLAUSIBLE)  # a card; what later stages learn once
FINISHED = "training.json"  # in a model's folder: what it was made from (`cllm.pipeline.finished`)
JOB_COPY = "/working_dir_files/_ray_pkg_"  # where Ray unpacks `--working-dir`


def absolute(place: str) -> str:
    """The same place as every node must be told: URLs as they are, paths from the root.

    Variables of the environment, as in $CLLM_RUNS/mine, are put in; InputError: one is not set.
    """
    place = os.path.expandvars(place).rstrip("/") or "/"
    if place.startswith("$"):
        raise InputError(
            f"{place}: {place.split('/')[0][1:]} is not set; export it, or name a path"
        )
    return place if "://" in place else str(Path(place).expanduser().resolve())


def lasting(place: str) -> str:
    """`absolute` for what is written there.

    InputError: it is in a job's copy of the working directory, and would go when the job ends.
    """
    found = absolute(place)
    if JOB_COPY in found:
        raise InputError(
            f"{place} would lie in this job's copy of the working directory and be lost with it; "
            "give --run and --storage an absolute path that all nodes see, or a URL such as "
            "s3://bucket/run"
        )
    return found


def is_url(place: str) -> bool:
    """Whether it is no local path."""
    return "://" in place


def reached(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a place and the path within it; InputError where there is none."""
    try:
        system, path = fs.FileSystem.from_uri(place)
    except (OSError, ValueError) as error:
        raise InputError(f"{place} cannot be reached: {' '.join(str(error).split())}") from error
    return system, path


def fetched(place: str, parts: Sequence[str]) -> RunFolder:
    """The run folder at a place, with these parts of it at hand on this machine.

    InputError: a part is not there.
    """
    if not is_url(place):
        folder = Path(place)
        missing = [part for part in parts if not (folder / part).exists()]
        if missing:
            raise InputError(
                f"{folder} on node {_node()} has no {', '.join(missing)}; use a path that all "
                "nodes share, or a URL such as s3://bucket/run"
            )
        return RunFolder(folder)
    system, path = reached(place)
    folder = Path(tempfile.gettempdir()) / f"cllm-{digest(place)}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".lock"):  # other workers of this machine want the same
        for part in parts:
            files = listed(system, f"{path}/{part}")
            if not files:
                raise InputError(f"{place} has no {part}; make it first (README, Your own texts)")
            stamp = folder / f".stamp-{part.replace('/', '-')}"
            version = digest(*(f"{file.path} {file.size} {file.mtime_ns}" for file in files))
            known = stamp.exists() and stamp.read_text() == version
            if not (known and (folder / part).exists()):
                _bring(system, f"{path}/{part}", folder / part)
                stamp.write_text(version)
    return RunFolder(folder)


def copied(place: str) -> Path:
    """A file or folder as it is on this machine, or a copy of it. InputError: it is not there."""
    if not is_url(place):
        return Path(place)
    system, path = reached(place)
    if not listed(system, path):
        raise InputError(f"{place} does not exist; look at its name")
    copy = Path(tempfile.mkdtemp(prefix="cllm-")) / path.rstrip("/").rpartition("/")[2]
    _bring(system, path, copy)
    return copy


def _bring(system: fs.FileSystem, path: str, target: Path) -> None:
    """A fresh copy of a file or folder."""
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if system.get_file_info(path).type == fs.FileType.Directory:
        target.mkdir(parents=True)
    fs.copy_files(path, str(target), source_filesystem=system)


def put(source: Path, place: str) -> None:
    """Copy a file or folder of this machine to a place, instead of what is there.

    Locally in one go. In an object store the file that says "finished" goes first and comes last.
    """
    system, path = reached(place)
    if isinstance(system, fs.LocalFileSystem):
        with replacing(Path(path)) as new:
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, new)
        return
    inside = [str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()]
    names = [""] if source.is_file() else sorted(inside, key=lambda name: name.endswith(FINISHED))
    for file in listed(system, path):
        if file.base_name == FINISHED or file.path[len(path) + 1 :] not in names:
            system.delete_file(file.path)
    for name in names:
        here, there = (str(source / name), f"{path}/{name}") if name else (str(source), path)
        system.create_dir(there.rpartition("/")[0], recursive=True)
        fs.copy_files(
            here, there, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system
        )


def give_back(run: RunFolder, place: str, parts: Sequence[str]) -> None:
    """Put parts of a copy where the run folder really lies; nothing to do where it is no copy."""
    if str(run.path) == place:
        return
    for part in parts:
        put(run.path / part, f"{place}/{part}")


def drop(path: Path) -> None:
    """Remove a file or folder of this machine, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove(place: str) -> None:
    """Delete a file, if it is there."""
    system, path = reached(place)
    if system.get_file_info(path).type == fs.FileType.File:
        system.delete_file(path)


def listed(system: fs.FileSystem, path: str) -> list[fs.FileInfo]:
    """The file at a path, or all files below it that are not hidden, by name; none if not there."""
    found = system.get_file_info(path)
    if found.type == fs.FileType.File:
        return [found]
    if found.type == fs.FileType.NotFound:
        return []
    files = system.get_file_info(fs.FileSelector(path, recursive=True))
    return sorted(
        (
            file for file in files
            if file.type == fs.FileType.File and not file.base_name.startswith((".", "_"))
        ),
        key=lambda file: file.path,
    )  # fmt: skip


def write_text(place: str, text: str) -> None:
    """Write a small file in one go; a reader sees the old one or the new one."""
    system, path = reached(place)
    system.create_dir(path.rpartition("/")[0], recursive=True)
    if is_url(place):
        with system.open_output_stream(path) as file:
            file.write(text.encode())
        return
    with replacing(Path(path)) as new:
        new.write_text(text, encoding="utf-8")


def read_text(place: str) -> str | None:
    """What a small file says; None where it is not there."""
    system, path = reached(place)
    if system.get_file_info(path).type != fs.FileType.File:
        return None
    with system.open_input_stream(path) as file:
        return bytes(file.read()).decode()


def folders(place: str) -> list[str]:
    """Names of what lies in a folder, by name; none where it is not there."""
    system, path = reached(place)
    inside = fs.FileSelector(path, recursive=False, allow_not_found=True)
    return sorted(one.base_name for one in system.get_file_info(inside))


def is_there(place: str) -> bool:
    """Whether a file, or a folder with files, lies there."""
    return bool(listed(*reached(place)))


def contents(place: str) -> str:
    """A digest of a file, or of a folder's manifest or else of all its files; "" if not there.

    What later stages add to it is left out.
    """
    manifest = read_text(f"{place}/manifest.json")
    if manifest is not None:
        return digest(manifest)
    system, path = reached(place)
    files = [file for file in listed(system, path) if file.base_name not in TOLD_LATER]
    parts = (file.path.removeprefix(path) + _hash(system, file) for file in files)
    return digest(*parts) if files else ""


_HASHES: dict[tuple[str, int, int | None], str] = {}  # of files that were read, as they were then


def forget_hashes() -> None:
    """Read files again that look as they were."""
    _HASHES.clear()


def _hash(system: fs.FileSystem, file: fs.FileInfo) -> str:
    """Of a file's bytes, which are read once however many stages ask."""
    key = (f"{system.type_name} {file.path}", file.size, file.mtime_ns)
    if key not in _HASHES:
        state = hashlib.blake2b(digest_size=16)
        with system.open_input_stream(file.path, compression=None) as stream:
            while block := stream.read(1 << 20):
                state.update(block)
        _HASHES[key] = state.hexdigest()
    return _HASHES[key]


class Marker:
    """A file in a place that shows whether another machine sees the same place."""

    def __init__(self, place: str) -> None:
        self.place, self.name = place, f".seen-{uuid.uuid4().hex}"

    def write(self) -> None:
        """Leave it there; InputError where the place cannot be written."""
        system, path = reached(self.place)
        try:
            system.create_dir(path, recursive=True)
            with system.open_output_stream(f"{path}/{self.name}") as file:
                file.write(b"cllm")
        except OSError as error:
            raise InputError(
                f"{self.place} cannot be written: {' '.join(str(error).split())}; choose another "
                "place"
            ) from error

    def seen(self) -> bool:
        """Whether it is there, seen from this machine."""
        system, path = reached(self.place)
        return bool(system.get_file_info(f"{path}/{self.name}").type == fs.FileType.File)

    def remove(self) -> None:
        """Take it away, where that can be done."""
        system, path = reached(self.place)
        with suppress(OSError):
            system.delete_file(f"{path}/{self.name}")


def _node() -> str:
    import socket

    return socket.gethostname()
