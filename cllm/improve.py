"""The loop that improves itself: texts from voids train base and CLLM on, round by round.

    loop = Loop.begun(Path("runs/improve"), RunFolder(Path("runs/mine")), how, settings)
    told = improve(loop, rounds=5)      # round-1 … round-5, run folders each, and improve.json

All real texts stay; a share of made ones joins them, which a judge passed that learnt from real
texts alone. Every stage is kept when it is done, so that a loop that was killed goes on.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from cllm.errors import InputError
from cllm.files import read_json, replacing, write_json
from cllm.run import RunFolder, training_facts
from cllm.settings import RunSettings, Settings, change, first_fault, overridden

if TYPE_CHECKING:
    from cllm.ideas import Idea
    from cllm.scorer import Scorer

log = logging.getLogger(__name__)

NOTE = "improve"  # section of a round's report.json
LOOP = "improve.json"
COPIED = ("corpus.parquet", "base", "model", "latents", "voids.parquet", "report.json")
PRESET = re.compile(r"(train\.loop|base\.loop|base\.low_rank_loop)\.(seconds|steps)|quick_voids")


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
    real: int = Field(0, ge=0, description="real texts that are trained on at most; 0 = all")
    judge: bool = Field(True, description="they are what the judge passes; off = all that is new")
    further: float = Field(
        0.25, ge=0, le=10, description="of the preset's training time, each round; 0 = no training"
    )
    rate: float = Field(0.1, gt=0, le=1, description="of the learning rates to begin with")
    negative_weight: float = Field(
        0.05, ge=0, description="of nearly real copies in the CLLM's loss; 0 = as the run has it"
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
    search: bool = Field(
        True, description="voids are searched; off: rounds go by what chance explained in round 0"
    )
    measured: int = Field(500, ge=20, description="held-out texts at most")
    seed: int = Field(0, ge=0, description="of everything")

    @model_validator(mode="after")
    def _fits(self) -> ImproveSettings:
        if self.arrays and (self.share >= 1 or self.soft):
            raise ValueError("arrays stand beside real texts: share must be below 1, and soft 0")
        return self

    @property
    def taught(self) -> float:
        """Share of texts that a model wrote in what is trained on."""
        return 0.0 if self.arrays else self.share


def settings_for(
    name: str, changes: Sequence[str] = (), seed: int = 0
) -> tuple[ImproveSettings, RunSettings]:
    """The loop's settings, and the preset's for its trainings, with lines like "share=0.2".

    InputError names what does not fit.
    """
    lines = {line: change(line) for line in changes}
    mine = {
        place: value for place, value in lines.values() if place in ImproveSettings.model_fields
    }
    others = [line for line, (place, _) in lines.items() if place not in mine]
    for line in others:
        if not PRESET.fullmatch(line.partition("=")[0].strip()):
            raise InputError(
                f"--set {line}: the loop has {', '.join(ImproveSettings.model_fields)}, and the "
                "seconds and steps of train.loop, base.loop and base.low_rank_loop; the rest is "
                "as the run was trained"
            )
    if "seed" in mine:
        raise InputError("--set seed: give the seed of everything with --seed")
    try:
        how = ImproveSettings.model_validate(mine | {"seed": seed})
    except ValidationError as error:
        raise InputError(first_fault(error)) from error
    settings = overridden(name, seed=seed, changes=others)
    log.info("%s: %d decodes a round, %g of the preset's time for training (CLLM %g s), texts of "
             "a model at most %g of all, seed %d", name, how.decodes, how.further,
             how.further * settings.train.loop.seconds, how.share, seed)  # fmt: skip
    return how, settings


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
        cls, path: Path, run: RunFolder, how: ImproveSettings, settings: RunSettings,
        scorer: Scorer | None = None,
    ) -> Loop:  # fmt: skip
        """A new loop from a trained run, or the one that is there if it was begun likewise.

        Raises:
            InputError: the run is not trained, or the folder holds another loop.
        """
        note = path / LOOP
        loop = cls(path, how, settings, _hash_of(run, note), run.path, scorer)
        told: dict[str, Any] = {
            "start": loop.start, "how": how.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json"),
            "scorer": scorer and f"{scorer.url} {scorer.model or ''}".strip(),
        }  # fmt: skip
        if not note.exists():
            if path.exists() and any(path.iterdir()):
                raise InputError(f"{path} holds something else; name another folder with --out")
            write_json(note, told | {"rounds": []})
            return loop
        known = _filled(read_json(note))
        if "scorer" not in known:
            raise InputError(f"{path} was begun by an older version; begin another loop with --out")
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

    def timed(self, number: int, stage: str, begun: float) -> None:
        """Note that a stage is done, and how long it took."""
        seconds = self.notes(number).get("seconds", {})
        self.note(number, seconds=seconds | {stage: round(time.perf_counter() - begun, 2)})

    @property
    def there(self) -> list[int]:
        """Rounds that have a folder."""
        found = (re.fullmatch(r"round-(\d+)", path.name) for path in self.path.glob("round-*"))
        return sorted(int(match[1]) for match in found if match)

    def require_parents(self) -> None:
        """Refuse to go on where a round was deleted or exchanged that another one came from.

        Raises:
            InputError: it names the rounds.
        """
        there = self.there
        for number in there:
            if number == 0:
                continue
            parent, name = self.round(number - 1), self.round(number).path
            if number - 1 not in there:
                raise InputError(
                    f"{parent.path} is gone, and {name} was trained from it; put it back, or "
                    f"remove round-{number} and those after it to go on from what is left"
                )
            model = training_facts(parent.model)["hash"]
            if self.notes(number).get("parent_model", model) != model:
                raise InputError(
                    f"{parent.path} holds another model than the one that {name} was trained "
                    f"from; put that back, or remove round-{number} and those after it"
                )


def improve(
    loop: Loop, rounds: int, work: Callable[[Loop, int, str], None] | None = None
) -> dict[str, Any]:
    """Rounds 1 … `rounds`, or fewer where it has to end; what improve.json says.

    `work` does a stage: here, or as `cluster/improve.py` has it, on some worker.
    """
    from cllm.rounds import FIRST, LATER, do

    work = work or do
    loop.require_parents()
    told = read_json(loop.path / LOOP)
    told.pop("ended", None)
    whole = [number for number in loop.there if loop.done(number, "measure")]
    for number in range(max([rounds, *whole]) + 1):
        ended = None
        for stage in LATER if number else FIRST:
            if loop.done(number, stage):
                continue
            log.info("round %d: %s", number, stage)
            work(loop, number, stage)
            if ended := loop.notes(number).get("ended"):
                break  # the stage is not done: it is tried again by the same command
        told = _summed_up(loop, told)
        if ended := ended or too_bad(loop, number):
            log.warning("round %d: %s; the best is round %d", number, ended, told["best"])
            write_json(loop.path / LOOP, told | {"ended": ended})
            return told | {"ended": ended}
    return told


def _summed_up(loop: Loop, told: dict[str, Any]) -> dict[str, Any]:
    """improve.json with what is known of all rounds, and a link to the best of them."""
    measured = [one for number in loop.there if (one := loop.notes(number).get("measured"))]
    best = max(measured, key=lambda one: one["validation_ratio"])["round"]
    told |= {"rounds": measured, "best": best}
    write_json(loop.path / LOOP, told)
    new = loop.path / ".best"
    new.unlink(missing_ok=True)
    new.symlink_to(f"round-{best}")
    new.replace(loop.path / "best")
    return told


def too_bad(loop: Loop, number: int) -> str:
    """Why the loop ends after a round; "" where it goes on."""
    ratio, least = loop.notes(number).get("measured", {}).get("validation_ratio"), loop.how.least
    if not least or ratio is None or ratio >= least:
        return ""
    return f"real held-out texts gain {ratio:.3f} of what they did in round 0, below {least:g}"


def copy_of(run: RunFolder, path: Path) -> RunFolder:
    """A run folder of its own with what a loop begins with; links are followed.

    InputError: the run has no model.
    """
    if not run.model.is_dir():
        raise InputError(f"{run.path} holds no model that this machine sees; name another --run")
    with replacing(path) as new:
        new.mkdir()
        for part in COPIED:
            source = run.path / part
            if source.is_dir():
                shutil.copytree(source, new / part)
            elif source.exists():
                shutil.copyfile(source, new / part)
        RunFolder(new).forget(NOTE, "ideas", "review")  # of the loop that it came from
    return RunFolder(path)


def _filled(known: dict[str, Any]) -> dict[str, Any]:
    """What a loop noted, with settings that are newer than it at their defaults."""
    kinds: dict[str, type[Settings]] = {"how": ImproveSettings, "settings": RunSettings}
    try:
        filled = {
            name: kind.model_validate(known[name]).model_dump(mode="json")
            for name, kind in kinds.items()
        }
    except (ValidationError, KeyError):
        return known  # another version's: it differs, and that is told
    return known | filled


def _hash_of(run: RunFolder, note: Path) -> str:
    """Of the run's model; of a loop that was begun and whose start is gone, what it noted."""
    if not run.model.is_dir():
        if note.exists():
            return str(read_json(note).get("start"))
        raise InputError(f"{run.path} holds no model yet; train one with `cllm train --run`")
    facts = training_facts(run.model)
    if facts.get("passage"):
        raise InputError(f"{run.path} has two levels; rounds train one level only so far")
    return str(facts["hash"])


def _difference(known: dict[str, Any], told: dict[str, Any], section: str) -> str:
    """The first setting of a section that is another one now."""
    before, now = known.get(section), told[section]
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"another model ({before})" if section == "start" else f"{section} = {before}"
    for name in now:
        if before.get(name) != now[name]:
            if isinstance(before.get(name), dict) and isinstance(now[name], dict):
                return _difference(before, now, name)
            return f"{name} = {before.get(name)}, not {now[name]}"
    return section
