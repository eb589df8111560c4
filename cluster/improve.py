r"""The loop that improves itself on a Ray cluster, one stage a task; what is done is kept.

    ray job submit --working-dir . -- \
        python -m cluster.improve --run s3://bucket/runs/mine --out s3://bucket/loop --rounds 5

The stages are the library's (`cllm.rounds`); a worker has copies of the rounds that it reads.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.improve import COPIED, LOOP, Loop, improve, settings_for
from cllm.rounds import STAGES, do
from cllm.run import RunFolder
from cllm.scorer import Scorer
from cluster import tasks
from cluster.remote import (
    absolute,
    fetched,
    folders,
    is_there,
    is_url,
    lasting,
    read_text,
    write_text,
)

NOTES = ("report.json", "model/training.json")  # of a round, that the driver reads


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is to be done, print one JSON object."""
    o = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        from cluster.joining import joined, require_seen

        if o.rounds < 1:
            raise InputError("--rounds must be 1 or more")
        how, settings = settings_for(o.preset, o.set, o.seed)
        needs = tasks.Needs(o.cpus, o.gpu, o.wait)
        key = os.environ.get("CLLM_SCORER_KEY")
        scorer = Scorer(o.scorer, o.scorer_model, key) if o.scorer else None
        run, out = absolute(o.run), lasting(o.out)
        with joined(o.address), tempfile.TemporaryDirectory(prefix="cllm-loop-") as room:
            require_seen(out)
            if is_url(out) and folders(out) and LOOP not in folders(out):
                raise InputError(f"{out} holds something else; name another place with --out")
            place = Place(run, out, Path(room) if is_url(out) else Path(out))
            place.bring()
            start = RunFolder(Path(run)) if not is_url(run) else fetched(run, ["model"])
            loop = Loop.begun(place.here, start, how, settings, scorer)
            place.send()
            try:
                told = improve(loop, o.rounds, partial(place.work, needs=needs))
            finally:
                place.send()
        print(json.dumps(told))


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(prog="cluster.improve", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--run", required=True, help="the run that round 0 is a copy of")
    p.add_argument("--out", required=True, help="folder of the rounds, that all nodes see, or URL")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--preset", choices=("quick", "standard", "full"), default="standard")
    p.add_argument("--set", action="append", default=[], help="as in `cllm improve`")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--scorer", metavar="URL", help="as in `cllm improve`; workers have to reach "
                   "it; its key, if any, from CLLM_SCORER_KEY here")  # fmt: skip
    p.add_argument("--scorer-model", help="its model [default: the first it lists]")
    p.add_argument("--cpus", type=float, default=1, help="of a task")
    p.add_argument("--gpu", action="store_true", help="a task gets one")
    p.add_argument("--wait", type=float, default=60, help="seconds for a node that has them")
    p.add_argument("--address", help="of the cluster; without it: the job's, else this machine")
    return p


@dataclass(frozen=True)
class Place:
    """Where the rounds lie, and what of them the driver has at hand: their notes."""

    run: str
    out: str
    here: Path  # the same folder, where it is no URL

    def bring(self) -> None:
        """Notes of the loop and its rounds, from a URL."""
        if not is_url(self.out):
            return
        for name in folders(self.out):
            if name == LOOP:
                self._bring(name)
            elif name.startswith("round-"):
                (self.here / name).mkdir(exist_ok=True)
                for note in NOTES:
                    self._bring(f"{name}/{note}")

    def send(self) -> None:
        """The loop's note to the URL."""
        if is_url(self.out) and (self.here / LOOP).exists():
            write_text(f"{self.out}/{LOOP}", (self.here / LOOP).read_text("utf-8"))

    def work(self, loop: Loop, number: int, stage: str, *, needs: tasks.Needs) -> None:
        """A stage as a task of a worker, whose notes go to the URL after all it has made."""
        needed = (0, number - 1, number)
        known = [k for k in range(number + 1) if stage == "measure" or k in needed]
        reads = [f"round-{k}" for k in known if is_there(f"{self.out}/round-{k}")]
        if stage == "choose" and 1 not in known:
            reads.append(f"round-1/{NOTES[0]}")  # which says what a duplicate is
        makes = [f"round-{number}/{part}" for part in (*STAGES[stage][1], NOTES[0])]
        work = partial(_stage, loop=loop, run=self.run, number=number, stage=stage)
        tasks.on_worker(self.out, reads, makes, work, needs, f"round {number}: {stage}")
        if is_url(self.out):
            for name in NOTES:
                self._bring(f"round-{number}/{name}")

    def _bring(self, name: str) -> None:
        if (text := read_text(f"{self.out}/{name}")) is not None:
            path = self.here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")


def _stage(folder: RunFolder, loop: Loop, run: str, number: int, stage: str) -> None:
    """On the worker: the loop's folder and the run to begin with are what it has of them."""
    origin = Path(run)
    if stage == "begin" and is_url(run):
        origin = fetched(run, [part for part in COPIED if is_there(f"{run}/{part}")]).path
    do(replace(loop, path=folder.path, origin=origin), number, stage)


if __name__ == "__main__":
    main()
