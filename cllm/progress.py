"""Show that long work is alive: a bar on a terminal, plain lines elsewhere, on stderr.

with training_progress("CLLM") as report:
    fit(task, texts, settings, folder, report)
for cloud in counted(clouds, "null clouds"): ...
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from cllm.training import Report

log = logging.getLogger(__name__)

LINE_SECONDS = 15.0  # between plain lines

T = TypeVar("T")


def counted(items: Sequence[T], name: str) -> Iterator[T]:
    """The items, one by one; every 15 s a line says how many are done and what is left."""
    began = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - last >= LINE_SECONDS:
            last = now
            left = (now - began) / done * (len(items) - done)
            log.info("%s: %d of %d, %.0f s left", name, done, len(items), left)
        yield item


@contextmanager
def training_progress(name: str) -> Iterator[Report]:
    """A reporter for `fit` with losses, tokens/s and time left."""
    if sys.stderr.isatty():
        with _bar(name) as report:
            yield report
    else:
        yield _lines(name)


def time_left(line: dict[str, Any]) -> float:
    """Seconds to go, from the share of the budget that is done."""
    done = max(float(line["done"]), 1e-3)
    return float(line["seconds"]) * (1 - done) / done


def describe(line: dict[str, Any]) -> str:
    """Losses and speed in a few words."""
    parts = [f"{line['cross_entropy']:.1f} nats/text"] if "cross_entropy" in line else []
    parts += [f"{key} {line[key]:.3f}" for key in ("array", "cluster", "negative") if key in line]
    return ", ".join([*parts, f"{line['tokens_per_second']:.0f} tokens/s"])


def _lines(name: str) -> Report:
    last = time.monotonic() - LINE_SECONDS

    def report(line: dict[str, Any]) -> None:
        nonlocal last
        if "done" not in line or time.monotonic() - last < LINE_SECONDS:
            return
        last = time.monotonic()
        log.info(
            "%s: step %d, %s, %.0f s left", name, line["step"], describe(line), time_left(line)
        )

    return report


@contextmanager
def _bar(name: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=1.0, now="")

        def report(line: dict[str, Any]) -> None:
            if "done" in line:
                bar.update(task, completed=line["done"], now=describe(line))

        yield report
