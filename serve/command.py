"""`cllm generate` from a place: by the models here, or by a service (`--url`).

Both answer the same lines for the same request.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from cllm.console import emit
from cllm.errors import InputError
from cllm.run import RunFolder
from serve import schemas as s

KEY = "CLLM_KEY"  # of the environment, as a key on the command line is seen by all


def write_from(run: RunFolder, url: str | None, as_json: bool, **asked: Any) -> None:  # noqa: ANN401
    """Print texts as they are found; InputError for a place that makes no sense."""
    try:
        body = s.Generate(**{name: value for name, value in asked.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        place = f"--{first['loc'][0]}: " if first["loc"] else ""
        raise InputError(f"{place}{first['msg'].removeprefix('Value error, ')}") from error
    for line in _lines(run, url, body):
        emit(line.model_dump(), as_json, lambda line=line: _show(line))
        sys.stdout.flush()


def _lines(run: RunFolder, url: str | None, body: s.Generate) -> Iterator[s.Item | s.End]:
    if url:
        from serve.client import Client

        return Client(url, os.environ.get(KEY)).generate(body)
    from serve.local import LocalHands, written

    return written(LocalHands.load(run), body)


def _show(line: s.Item | s.End) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    if isinstance(line, s.End):
        notes = "".join(f"; {note}" for note in line.notes)
        console.print(f"{line.found} of {line.asked} texts, {line.decodes} decodes{notes}")
        return
    where = f"void score {line.place.score:.2f}"
    if line.place.in_void:
        where = "in a void" if line.place.void is None else f"in void {line.place.void}"
    console.print(f"[bold]{line.verdict}[/bold], novelty {line.novelty:.2f}, {where}")
    console.print(escape(line.text))
    for known in (line.nearest or [])[:1]:
        console.print(f"[dim]nearest, {known.angle:.3f} rad: {escape(known.text)}[/dim]")
    console.print()
