"""Work on a run folder as a task of some worker, so that the head stays free.

on_worker(run, ("corpus.parquet",), ("base",), work, Needs(cpus=8, gpu=True), "the base LLM")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cllm.console import set_up_logging
from cllm.errors import InputError, WorkError
from cllm.run import RunFolder
from cluster.remote import drop, fetched, give_back, is_there

Made = TypeVar("Made")

NOTES = ("report.json", "model/README.md")  # what work may add to, where it has read the model
RETRIES = 2  # after a node is lost


@dataclass(frozen=True)
class Needs:
    """What a task gets of one node, and how many seconds it may wait for such a node."""

    cpus: float = 1
    gpu: bool = False
    wait: float = 30

    @property
    def resources(self) -> dict[str, float]:
        """As Ray counts them."""
        return {"CPU": self.cpus} | ({"GPU": 1.0} if self.gpu else {})

    @property
    def options(self) -> dict[str, float]:
        """As `ray.remote` takes them."""
        return {"num_cpus": self.cpus, "num_gpus": int(self.gpu)}


def on_worker(
    run: str, reads: Sequence[str], makes: Sequence[str], work: Callable[[RunFolder], None],
    needs: Needs, what: str,
) -> None:  # fmt: skip
    """Do `work` on a copy of the run folder's parts; what it makes goes back into the folder.

    InputError, WorkError: the work's own, or no node has what it needs.
    """
    from cluster.joining import require

    require(needs.resources, 1, what, needs.wait)
    side_by_side(_task, [(run, tuple(reads), tuple(makes), work)], needs)


def side_by_side(
    work: Callable[..., Made], asked: Sequence[tuple[Any, ...]], needs: Needs
) -> list[Made]:
    """What `work` makes of each of them, as tasks; the first error of theirs is raised here."""
    import ray

    task = ray.remote(**needs.options, max_retries=RETRIES)(told_of).options(name=work.__name__)
    made = []
    for result, error in ray.get([task.remote(work, *each) for each in asked]):
        if error:
            raise told_error(*error)
        made.append(result)
    return made


def told_of(
    work: Callable[..., Made], *asked: object
) -> tuple[Made, None] | tuple[None, tuple[int, str]]:
    """What `work` makes, or its InputError or WorkError, as `told_error` takes it."""
    set_up_logging()
    try:
        return work(*asked), None
    except (InputError, WorkError) as error:
        return None, (error.exit_status, str(error))


def told_error(status: int, message: str) -> InputError | WorkError:
    """The error that another process told of by its exit status and line."""
    return (InputError if status == InputError.exit_status else WorkError)(message)


def _task(
    run: str, reads: tuple[str, ...], makes: tuple[str, ...], work: Callable[[RunFolder], None]
) -> None:
    there = [part for part in {*reads, NOTES[0]} if is_there(f"{run}/{part}")]
    folder = fetched(run, there)
    folder.path.mkdir(parents=True, exist_ok=True)
    if str(folder.path) != run:
        for part in makes:  # what an earlier work left in this copy, and is nowhere else any more
            if not is_there(f"{run}/{part}"):
                drop(folder.path / part)
    work(folder)
    notes = NOTES if "model" in reads else NOTES[:1]
    made = [name for name in (*makes, *notes) if (folder.path / name).exists()]
    give_back(folder, run, list(dict.fromkeys(made)))
