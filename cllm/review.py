"""Blind review of a run's ideas: a page on which people mark them, and what the marks come to.

sheet = draw_sheet(run, n=15, seed=0); write_page(run, sheet)
take_marks(run, [Path("ann.json")]); reviewed(run, rng)
"""

# Shapes: n texts that were marked, R raters.
from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cllm.errors import InputError
from cllm.files import digest, file_digest, read_json, replacing, write_json
from cllm.ideas import Idea, load_ideas
from cllm.metrics import share_draws, share_of
from cllm.run import RunFolder

log = logging.getLogger(__name__)

MARKS = ("valid", "new", "useful")
PAGE, SHEET, FOLDER = "review.html", "review.json", "reviews"
SURE = (0.025, 0.975)
DRAWS = 1000  # of the bootstrap
Answers = NDArray[np.float64]  # 1 yes, 0 no, NaN none


class Marks(BaseModel):
    """What one person said of a sheet's texts: a file that the page saves."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    review: str = Field(description="id of the sheet")
    rater: str = Field(pattern=r"^[\w .@-]{1,60}$", description="who marked")
    marks: dict[str, dict[str, bool]] = Field(description="of each text that was looked at")


@dataclass(frozen=True)
class Sheet:
    """Ideas of all arms in random order, under names that do not tell the arm."""

    id: str
    n: int  # of each arm, at most
    seed: int
    ideas: Mapping[str, Idea]  # by name


def draw_sheet(run: RunFolder, n: int, seed: int) -> Sheet:
    """At most `n` different texts of each arm; the same for the same ideas.

    InputError: the run has no ideas.
    """
    if not run.ideas.exists():
        raise InputError(f"{run.path} has no ideas to review; write some with `cllm generate`")
    found = load_ideas(run.ideas, run.load_latents().model_hash)
    if not found:
        raise InputError(f"{run.ideas} is of another model; write new ones with `cllm generate`")
    sheet_id, rng = digest(file_digest(run.ideas), str(n), str(seed)), np.random.default_rng(seed)
    chosen: list[Idea] = []
    for arm in dict.fromkeys(idea.arm for idea in found):
        of_arm = list({idea.text: idea for idea in found if idea.arm == arm}.values())
        rows = rng.permutation(len(of_arm))[:n]
        chosen += [of_arm[row] for row in rows]
    order = rng.permutation(len(chosen))
    return Sheet(sheet_id, n, seed, {digest(sheet_id, chosen[i].id): chosen[i] for i in order})


def write_page(run: RunFolder, sheet: Sheet) -> Path:
    """review.html: one file that needs no network; review.json says which sheet it is."""
    from cllm.report import page_template

    corpus = run.load_corpus()
    text_of = dict(zip(corpus.ids, corpus.texts, strict=True))
    items = [
        {"name": name, "text": idea.text,
         "known": [text_of[one] for one, _ in idea.verdict.nearest[:1] if one in text_of]}
        for name, idea in sheet.ideas.items()
    ]  # fmt: skip
    begun = read_json(run.path / SHEET)["id"] if (run.path / SHEET).exists() else sheet.id
    if begun != sheet.id and any((run.path / FOLDER / str(begun)).glob("*.json")):
        log.warning("marks of the review before this one (%s) are kept, and count no more", begun)
    page = page_template("review.html.j2", "cllm").render(review=sheet.id, items=items)
    write_json(run.path / SHEET, {"id": sheet.id, "n": sheet.n, "seed": sheet.seed})
    path = run.path / PAGE
    with replacing(path) as new:
        new.write_text(page, encoding="utf-8")
    return path


def take_marks(run: RunFolder, files: Sequence[Path]) -> Sheet:
    """Keep what people saved, each under their name; a later file of one replaces the earlier.

    InputError: no review was begun, its ideas are gone, or a file is not of it; then none is kept.
    """
    if not (run.path / SHEET).exists():
        raise InputError(f"{run.path} has no review; begin one with `cllm review`")
    if (sheet := _drawn_again(run, read_json(run.path / SHEET))) is None:
        raise InputError(
            f"{run.path} holds other ideas than those on its {PAGE}; begin anew with `cllm review`"
        )
    read = [_read(file, sheet) for file in files]
    for marks in read:
        name = re.sub(r"\W", "_", marks.rater) + "-" + digest(marks.rater)[:8]
        write_json(run.path / FOLDER / sheet.id / f"{name}.json", marks.model_dump())
    return sheet


def _drawn_again(run: RunFolder, begun: Mapping[str, Any]) -> Sheet | None:
    """The sheet that the run's page has; None where other ideas are there by now."""
    sheet = draw_sheet(run, int(begun["n"]), int(begun["seed"]))
    return sheet if sheet.id == begun["id"] else None


def _read(file: Path, sheet: Sheet) -> Marks:
    try:
        marks = Marks.model_validate(read_json(file))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        raise InputError(f"{file} holds no marks of a review: {place}: {fault['msg']}") from error
    if marks.review != sheet.id:
        raise InputError(f"{file} is of another review ({marks.review}), not of {sheet.id}")
    strange = next((name for name in marks.marks if name not in sheet.ideas), None)
    strange = strange or next(
        (name for name, told in marks.marks.items() if sorted(told) != sorted(MARKS)), None
    )
    if strange is not None:
        raise InputError(f"{file}: {strange!r} is no text of that review with its three marks")
    if not marks.marks:
        raise InputError(f"{file} marks no text; save it once some are marked")
    return marks


def reviewed(run: RunFolder, rng: np.random.Generator) -> dict[str, Any] | None:
    """What the marks come to, as in report.json; None where nobody has marked these ideas."""
    if not (run.path / SHEET).exists() or not run.ideas.exists():
        return None
    begun = read_json(run.path / SHEET)
    if not (files := sorted((run.path / FOLDER / str(begun["id"])).glob("*.json"))):
        return None
    if (sheet := _drawn_again(run, begun)) is None:
        log.warning("the marks in %s are of earlier ideas, and are left out", run.path / FOLDER)
        return None
    return outcome(sheet, [_read(file, sheet) for file in files], rng)


def outcome(sheet: Sheet, raters: Sequence[Marks], rng: np.random.Generator) -> dict[str, Any]:
    """Shares of each arm, void less each other, and how far people and judge agree.

    Shares are of all marks; intervals are over texts.
    """
    seen = [name for name in sheet.ideas if any(name in one.marks for one in raters)]
    arms = {
        arm: [name for name in seen if sheet.ideas[name].arm == arm]
        for arm in dict.fromkeys(sheet.ideas[name].arm for name in seen)
    }
    useful = {arm: _counts(names, raters, "useful") for arm, names in arms.items()}
    told: dict[str, Any] = {
        "raters": len(raters), "texts": len(seen),
        "arms": {
            arm: {"marked": len(names)} | dict(
                pair for mark in MARKS
                for pair in _share(mark, _counts(names, raters, mark), rng).items()
            )
            for arm, names in arms.items()
        },
        "agreement": _between(raters, seen, rng),
        "with_judge": _with_judge(sheet, raters, seen, rng),
    }  # fmt: skip
    if "void" in arms:
        told["preference"] = {
            arm: _less(useful["void"], counts_n2, rng)
            for arm, counts_n2 in useful.items() if arm != "void"
        }  # fmt: skip
    return told


def _counts(names: Sequence[str], raters: Sequence[Marks], mark: str) -> NDArray[np.int64]:
    """How many said so, and how many said anything, of each text, (n, 2)."""
    of_n = [[one.marks[name][mark] for one in raters if name in one.marks] for name in names]
    return np.array([(sum(said), len(said)) for said in of_n], np.int64)


def _share(mark: str, counts_n2: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Any]:
    found = share_of(counts_n2, rng)
    return {mark: found.mean, f"{mark}_ci": found.ci}


def _less(
    a_n2: NDArray[np.int64], b_n2: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, Any]:
    """Difference of two shares over different texts."""
    a, b = (float(counts_n2[:, 0].sum() / counts_n2[:, 1].sum()) for counts_n2 in (a_n2, b_n2))
    low, high = np.quantile(share_draws(a_n2, rng) - share_draws(b_n2, rng), SURE)
    return {"useful": a - b, "useful_ci": [float(low), float(high)]}


def _between(
    raters: Sequence[Marks], names: Sequence[str], rng: np.random.Generator
) -> dict[str, Any]:
    """Of each mark, the mean kappa over pairs of people, of texts that both marked."""
    told: dict[str, Any] = {}
    for mark in MARKS:
        said_Rn = _said(raters, names, mark)

        def mean(rows: NDArray[np.int64], said_Rn: Answers = said_Rn) -> float:
            pairs = combinations(said_Rn[:, rows], 2)
            kappas = [kappa for a, b in pairs if not np.isnan(kappa := _kappa(a, b))]
            return float(np.mean(kappas)) if kappas else np.nan

        told |= _with_interval(mark, mean, len(names), rng)
    return told


def _with_judge(
    sheet: Sheet, raters: Sequence[Marks], names: Sequence[str], rng: np.random.Generator
) -> dict[str, Any]:
    """Kappa of people, all their marks together, with the judge's validity and novelty."""
    verdicts = [sheet.ideas[name].verdict for name in names]
    judged = {
        "valid": np.array([float(one.valid) for one in verdicts]),
        "new": np.array([float(not one.duplicate) for one in verdicts]),
    }
    told: dict[str, Any] = {}
    for mark, judge_n in judged.items():
        said_Rn = _said(raters, names, mark)

        def together(
            rows: NDArray[np.int64], said_Rn: Answers = said_Rn, judge_n: Answers = judge_n
        ) -> float:
            return _kappa(said_Rn[:, rows].ravel(), np.tile(judge_n[rows], len(said_Rn)))

        told |= _with_interval(mark, together, len(names), rng)
    return told


def _said(raters: Sequence[Marks], names: Sequence[str], mark: str) -> Answers:
    """What each said of each text, (R, n); NaN where nothing."""
    return np.array([
        [float(one.marks[name][mark]) if name in one.marks else np.nan for name in names]
        for one in raters
    ])  # fmt: skip


def _kappa(first_n: Answers, second_n: Answers) -> float:
    """Cohen's kappa (1960) of what both answered; NaN where all is one answer."""
    both = ~np.isnan(first_n + second_n)
    first_n, second_n = first_n[both], second_n[both]
    if len(np.unique([first_n, second_n])) < 2:
        return np.nan
    a, b = first_n.mean(), second_n.mean()
    chance = a * b + (1 - a) * (1 - b)
    return float(((first_n == second_n).mean() - chance) / (1 - chance))


def _with_interval(
    mark: str, kappa: Callable[[NDArray[np.int64]], float], texts: int, rng: np.random.Generator
) -> dict[str, Any]:
    """A kappa and its interval over texts; nothing where there is none."""
    if np.isnan(found := kappa(np.arange(texts))):
        return {}
    drawn = np.array([kappa(rng.integers(texts, size=texts)) for _ in range(DRAWS)])
    low, high = np.nanquantile(drawn, SURE)
    return {mark: found, f"{mark}_ci": [float(low), float(high)]}
