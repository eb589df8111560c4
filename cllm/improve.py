"""The loop that improves itself: texts from voids train base and CLLM on, round by round.

    loop = Loop.begun(Path("runs/improve"), RunFolder(Path("runs/mine")), how, settings)
    told = improve(loop, rounds=5)      # round-1 … round-5, run folders each, and improve.json

All real texts stay; a share of made ones joins them, which a judge passed that learnt from real
texts alone. Every stage is kept when it is done, so that a loop that was killed goes on.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from cllm.errors import InputError
from cllm.files import read_json, replacing, write_json
from cllm.run import RunFolder, training_facts
from cllm.settings import RunSettings, Settings

if TYPE_CHECKING:
    from cllm.ideas import Idea
    from cllm.scorer import Scorer

log = logging.getLogger(__name__)

NOTE = "improve"  # section of a round's report.json
LOOP = "improve.json"
COPIED = ("corpus.parquet", "base", "model", "latents", "voids.parquet", "report.json")


class ImproveSettings(Settings):
    """What a round does, and its guards."""

    decodes: int = Field(2000, ge=2, description="a round, those of settling included")
    share: float = Field(
        0.3, ge=0, le=1,
        description="of what is trained on, texts that a model wrote at most; 0 = none are "
        "trained on; 1 = no real ones",
    )  # fmt: skip
    repeats: int = Field(
        10, ge=0, description="times one of these stands there at most; 0 = as share asks"
    )
    judge: bool = Field(True, description="they are what the judge passes; off = all that is new")
    further: float = Field(
        0.25, ge=0, le=10, description="of the preset's training time, each round; 0 = no training"
    )
    rate: float = Field(0.3, gt=0, le=1, description="of the learning rates to begin with")
    negative_weight: float = Field(
        0.05, ge=0, description="of nearly real copies in the CLLM's loss; 0 = off"
    )
    soft: float = Field(
        0.0, ge=0, le=1, description="of the last round's expectations as targets; 0 = off"
    )
    arrays: bool = Field(
        False, description="train on token embeddings unfolded from voids, through no text"
    )
    least: float = Field(
        0.97, ge=0, description="gain on validation, of round 0's, below which it ends; 0 = never"
    )
    measured: int = Field(500, ge=20, description="held-out texts at most")
    seed: int = Field(0, ge=0, description="of everything")

    @property
    def learns(self) -> bool:
        """Whether texts that a model wrote join the corpus."""
        return self.share > 0 and not self.arrays


@dataclass(frozen=True)
class Loop:
    """A folder of rounds, and how they are made."""

    path: Path
    how: ImproveSettings
    settings: RunSettings  # of the preset: how long a training takes
    start: str  # hash of the model that round 0 is
    origin: Path  # of that run
    scorer: Scorer | None = None  # which chooses among what the judge passed
    asked: int = 100  # texts that it chooses among

    @classmethod
    def begun(
        cls,
        path: Path,
        run: RunFolder,
        how: ImproveSettings,
        settings: RunSettings,
        scorer: Scorer | None = None,
    ) -> Loop:
        """A new loop from a trained run, or the one that is there if it was begun likewise.

        Raises:
            InputError: the run is not trained, or the folder holds another loop.
        """
        note = path / LOOP
        loop = cls(path, how, settings, _hash_of(run, note), run.path, scorer)
        told = {"start": loop.start, "how": how.model_dump(), "settings": settings.model_dump()}
        told = _as_json(told)
        if not note.exists():
            if path.exists() and any(path.iterdir()):
                raise InputError(f"{path} holds something else; name another folder with --out")
            write_json(note, told | {"rounds": []})
            return loop
        known = read_json(note)
        if differing := [name for name in told if known.get(name) != told[name]]:
            raise InputError(
                f"{path} was begun with {_difference(known, told, differing[0])}; name another "
                "folder with --out, or go on with the same"
            )
        return loop

    def round(self, number: int) -> RunFolder:
        """A round's run folder."""
        return RunFolder(self.path / f"round-{number}")

    def candidates(self, number: int) -> Path:
        """Where the texts lie that a round wrote."""
        return self.round(number).path / "candidates.parquet"

    @property
    def yardstick(self) -> Path:
        """What gains are counted from, and edits to be told apart: as round 0 had them."""
        return self.round(0).path / "yardstick.json"

    def written(self, number: int) -> list[Idea]:
        """All texts that a round wrote, judged; none of round 0."""
        if number == 0:
            return []
        from cllm.ideas import load_ideas

        return load_ideas(self.candidates(number), self.notes(number)["parent_model"])

    def notes(self, number: int) -> dict[str, Any]:
        """What a round's report says of the loop."""
        return dict(self.round(number).notes().get(NOTE, {}))

    def note(self, number: int, **facts: object) -> None:
        """Add to it."""
        self.round(number).note(NOTE, self.notes(number) | facts)

    def done(self, number: int, stage: str) -> bool:
        """Whether a round has that stage behind it."""
        return stage in self.notes(number).get("seconds", {})

    def require_parents(self) -> None:
        """Refuse to go on where a round was deleted or exchanged that another one came from.

        Raises:
            InputError: it names the rounds.
        """
        there = sorted(
            int(path.name.removeprefix("round-")) for path in self.path.glob("round-*")
        )  # fmt: skip
        for number in there:
            if number == 0:
                continue
            parent, told = self.round(number - 1), self.notes(number)
            name = self.round(number).path
            if number - 1 not in there:
                raise InputError(
                    f"{parent.path} is gone, and {name} was trained from it; put it back, or "
                    f"remove round-{number} and those after it to go on from what is left"
                )
            if (
                told.get("parent_model", training_facts(parent.model)["hash"])
                != (training_facts(parent.model)["hash"])
            ):
                raise InputError(
                    f"{parent.path} holds another model than the one that {name} was trained "
                    f"from; put that back, or remove round-{number} and those after it"
                )


Stage = Callable[[Loop, int], None]


def improve(
    loop: Loop, rounds: int, work: Callable[[Loop, int, str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Rounds 1 … `rounds`, or fewer where it has to end; what improve.json says.

    `work` does a stage: here, or as `cluster/improve.py` has it, on some worker.
    """
    from cllm.rounds import STAGES, do

    work = work or do
    loop.require_parents()
    told = read_json(loop.path / LOOP)
    for number in range(rounds + 1):
        for stage in STAGES:
            asked = stage.later if number else stage.first
            if asked and not loop.done(number, stage.name):
                log.info("round %d: %s", number, stage.name)
                work(loop, number, stage.name)
            if ended := loop.notes(number).get("ended"):
                break
        told = _summed_up(loop, number, told)
        ended = ended or too_bad(loop, told["rounds"])
        if ended:
            log.warning("round %d: %s; the best is round %d", number, ended, told["best"])
            told["ended"] = ended
            break
    else:
        told.pop("ended", None)
    write_json(loop.path / LOOP, told)
    point_to(loop.path / "best", f"round-{told['best']}")
    return told


def _summed_up(loop: Loop, number: int, told: dict[str, Any]) -> dict[str, Any]:
    """improve.json with what is known of rounds up to this one, and the best of them."""
    rounds = [loop.notes(k).get("measured") for k in range(number + 1)]
    measured = [dict(one) for one in rounds if one]
    best = max(measured, key=lambda one: one["validation_ratio"])["round"]
    told |= {"rounds": measured, "best": best}
    write_json(loop.path / LOOP, told)
    return told


def too_bad(loop: Loop, rounds: Sequence[dict[str, Any]]) -> str:
    """Why the loop ends after these rounds; "" where it goes on."""
    ratio, least = rounds[-1]["validation_ratio"], loop.how.least
    if least and ratio < least:
        return f"real held-out texts gain {ratio:.3f} of what they did in round 0, below {least:g}"
    return ""


def point_to(link: Path, name: str) -> None:
    """A link to a round beside it, in one go."""
    new = link.with_name(f".{link.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(name)
    new.replace(link)


def copy_of(run: RunFolder, path: Path) -> RunFolder:
    """A run folder of its own with what a loop begins with; links are followed."""
    with replacing(path) as new:
        new.mkdir()
        for part in COPIED:
            source = run.path / part
            if source.is_dir():
                shutil.copytree(source, new / part)
            elif source.exists():
                shutil.copyfile(source, new / part)
    return RunFolder(path)


def timed(loop: Loop, number: int, name: str, begun: float) -> None:
    """Note that a stage is done, and how long it took."""
    seconds = loop.notes(number).get("seconds", {})
    loop.note(number, seconds=seconds | {name: round(time.perf_counter() - begun, 2)})


def settings_for(
    name: str, changes: Sequence[str] = (), **own: object
) -> tuple[ImproveSettings, RunSettings]:
    """The loop's settings, and the preset's for its trainings, with lines like "share=0.2".

    InputError names what does not fit.
    """
    from cllm.settings import change, overridden

    seed = own.get("seed", 0)
    lines = {line: change(line) for line in changes}
    mine = {
        place: value for place, value in lines.values() if place in ImproveSettings.model_fields
    }
    others = [line for line, (place, _) in lines.items() if place not in mine]
    try:
        how = ImproveSettings.model_validate(own | mine)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']} (given: {first['input']!r})"
        ) from error
    return how, overridden(name, seed=int(str(seed)), aim="voids", changes=others)


def _hash_of(run: RunFolder, note: Path) -> str:
    """Of the run's model; of a loop that was begun and whose start is gone, what it noted."""
    if not run.model.is_dir():
        if note.exists():
            return str(read_json(note).get("start"))
        raise InputError(f"{run.path} holds no model yet; train one with `cllm train --run`")
    return str(training_facts(run.model)["hash"])


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    import json

    return dict(json.loads(json.dumps(value)))


def _difference(known: dict[str, Any], told: dict[str, Any], section: str) -> str:
    """The first setting of a section that is another one now."""
    before, now = known.get(section), told[section]
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"another model ({before})" if section == "start" else f"{section} = {before}"
    for name in now:
        if before.get(name) != now[name]:
            inner = before.get(name), now[name]
            if all(isinstance(one, dict) for one in inner):
                return _difference(before, now, name)
            return f"{name} = {before.get(name)}, not {now[name]}"
    return section
