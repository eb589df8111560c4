"""Write results so that a failure never costs the old one; read them with clear complaints.

Everything is written beside its place and renamed over it when complete:

    with replacing(run / "report.html") as new:
        new.write_text(page)
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from cllm.errors import InputError, WorkError

if TYPE_CHECKING:
    import pyarrow as pa

_NEXT_STEPS = {
    errno.ENOSPC: "free some disk space and run the command again",
    errno.EDQUOT: "free some of your disk quota and run the command again",
    errno.EFBIG: "choose a file system that takes larger files",
    errno.EIO: "check the disk, then run the command again",
    errno.EROFS: "choose a folder that can be written, for example with --run",
    errno.EACCES: "choose a folder you may write to, for example with --run",
    errno.EPERM: "choose a folder you may write to, for example with --run",
    errno.ENOTDIR: "remove the file that stands where a folder is needed",
    errno.EEXIST: "remove the file that stands where a folder is needed",
    errno.ENAMETOOLONG: "choose a shorter path",
}
# torch and safetensors hide the errno of a full disk inside their own errors.
# what writers say that know no errno; "inline_container" is torch.save
_FULL_DISK_WORDS = ("no space left", "os error 28", "file write failed", "inline_container")
_MAKE_AGAIN = {
    "corpus.parquet": "make it with `cllm corpus build`",
    "base": "make it with `cllm pretrain`",
    "model": "make it with `cllm train`",
    "latents": "make it with `cllm embed`",
    "metrics.jsonl": "make it with `cllm train`",
    "voids.parquet": "make it with `cllm voids`",
    "ideas.parquet": "make it with `cllm generate`",
    "report.json": "move it away, then run `cllm evaluate` and `cllm report`",
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or folder to; on success it replaces `path`.

    The caller makes the file or folder. On any failure it is removed and the old one stays.
    A file is replaced in one atomic rename; a folder in two (old aside, new in place), and
    between them neither stands under its name. WorkError where the disk is full or read-only.
    """
    target = Path(path).resolve()  # through a link: what it points to is replaced, not the link
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            new = room / target.name
            yield new
            flush(new)
            _swap(new, target, room)
        finally:
            shutil.rmtree(room, ignore_errors=True)


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn a full or read-only disk into a WorkError that names `path` and the next step."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        next_step = _next_step(error)
        if next_step is None:
            raise
        reason = _reason(error) if isinstance(error, OSError) else os.strerror(errno.ENOSPC)
        raise WorkError(f"cannot write {path}: {reason}; {next_step}") from error


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON (UTF-8). NaN and infinity are refused with a WorkError."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise WorkError(f"cannot write {path}: {error}; leave out what was not measured") from error
    with replacing(path) as new:
        new.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError where it is missing or holds none."""
    try:
        value = json.loads(_existing(path).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(_damaged(path, error)) from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object; {_make_again(path)}")
    return value


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table with its schema metadata, zstd-compressed."""
    import pyarrow.parquet as pq

    with replacing(path) as new:
        pq.write_table(table, new, compression="zstd")


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, maybe: Sequence[str] = ()
) -> pa.Table:
    """The table in a Parquet file or a folder of shards, or some columns of it.

    `maybe`: further ones, where it has them.

    InputError where it is missing, damaged, or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        dataset = pq.ParquetDataset(_existing(path), partitioning=None)
        missing = [name for name in columns or () if name not in dataset.schema.names]
        if missing:
            raise InputError(
                f"{path} has no column {', '.join(missing)} "
                f"(found: {', '.join(dataset.schema.names)}); {_make_again(path)}"
            )
        wanted = [*(columns or ()), *(name for name in maybe if name in dataset.schema.names)]
        return dataset.read(columns=None if columns is None else wanted)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(_damaged(path, error)) from error


def model_of(table: pa.Table) -> str:
    """The hash of the model that made a table's rows, as its metadata tells; "" where it does not.

    Written with `table.replace_schema_metadata({"model_hash": …})`.
    """
    return str((table.schema.metadata or {}).get(b"model_hash", b"").decode())


def digest(*parts: str | bytes) -> str:
    """A 16-character hexadecimal SHA-256 of the parts; ("ab", "c") differs from ("a", "bc")."""
    state = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """A 32-character hexadecimal BLAKE2b of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def flush(new: Path) -> None:
    """Push a file, or every file of a folder, to the disk: a full one may complain only now."""
    if not new.exists():
        raise FileNotFoundError(errno.ENOENT, "nothing was written", str(new))
    for file in [new] if new.is_file() else [each for each in new.rglob("*") if each.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap(new: Path, target: Path, room: Path) -> None:
    if not target.is_dir() and not new.is_dir():
        os.replace(new, target)
        return
    old = room / "old"
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(new, target)
    except BaseException:  # Ctrl-C too
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise


def _next_step(error: Exception) -> str | None:
    if isinstance(error, OSError):
        return _NEXT_STEPS.get(error.errno or 0)
    full = any(words in str(error).lower() for words in _FULL_DISK_WORDS)
    return _NEXT_STEPS[errno.ENOSPC] if full else None


def _reason(error: Exception) -> str:
    """The error in one line, without a path of ours that the user never saw."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return " ".join(str(error).split())[:200]


def _existing(path: Path) -> Path:
    if not Path(path).exists():
        raise InputError(f"{path} does not exist; {_make_again(path)}")
    return Path(path)


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} cannot be read ({_reason(error)}); {_make_again(path)}"


def _make_again(path: Path) -> str:
    path = Path(path)
    known = _MAKE_AGAIN.get(path.name) or _MAKE_AGAIN.get(path.parent.name)
    return known or "check the path, or make the file again"


def halve(path: Path) -> None:
    """Store a safetensors file's weights as float16."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    half = {n: w.to(torch.float16) if w.is_floating_point() else w for n, w in weights.items()}
    with replacing(path) as new:
        save_file(half, new, metadata=metadata)
