"""Turn a run's numbers into `report.json` for machines and `report.html` for people.

The page is one file without scripts or addresses outside; it opens anywhere. What was not
measured is absent from the JSON and "not measured" on the page, never 0.

    write_report(run, report, ideas=ideas, reconstructions=pairs, metrics=rows)
"""

from __future__ import annotations

import base64
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cllm import scoreboard
from cllm.charts import arm_chart, calibration_chart, curves, null_chart, prefix_curve
from cllm.conclusions import verdict_in_words
from cllm.errors import InputError
from cllm.files import replacing, write_json
from cllm.numbers import number
from cllm.scoreboard import IdeaRow, VoidRow

SHOWN_PAIRS = 6

Count = Field(default=None, ge=0)
Share = Field(default=None, ge=0, le=1)


class Section(BaseModel):
    """A part of the report. Every number may be absent; further names may be added."""

    model_config = ConfigDict(extra="allow", frozen=True)


class CorpusFacts(Section):
    """What was read; `entropy_nats` a text where it is known exactly."""

    texts: int | None = Count
    train: int | None = Count
    validation: int | None = Count
    test: int | None = Count
    tokens: int | None = Count
    entropy_nats: float | None = Count


class BaseFacts(Section):
    """The frozen base LLM; `restored_tokens` is the share it restores without a bottleneck."""

    name: str | None = None
    parameters: int | None = Count
    restored_tokens: float | None = Share


class ModelFacts(Section):
    """The CLLM."""

    dim: int | None = Field(default=None, ge=2)
    void_dim: int | None = Field(default=None, ge=2)
    parameters: int | None = Count
    origin: Literal["shipped", "trained here"] | None = None


class Reconstruction(Section):
    """How held-out texts come back; names as in the design."""

    n: int | None = Count
    exact_match: float | None = Share
    token_accuracy: float | None = Share
    content_f1: float | None = Share
    retrieval_content_f1: float | None = Share


class VoidFacts(Section):
    """How empty the voids are."""

    count: int | None = Count
    p_value: float | None = Share


class ArmCounts(Section):
    """One arm's funnel from candidates to new texts."""

    sampled: int = Field(ge=0)
    valid: int | None = Count
    duplicate: int | None = Count
    nonsense: int | None = Count
    novel: int | None = Count
    hit: int | None = Count


class ReviewFacts(Section):
    """What people marked without knowing the arm."""

    raters: int = Field(ge=1)
    texts: int = Field(ge=0)
    arms: dict[str, dict[str, Any]]


class Report(BaseModel):
    """The whole of `report.json`; see the design for each number's definition."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus: CorpusFacts | None = None
    base: BaseFacts | None = None
    passages: dict[str, Any] | None = None  # the CLLM below, where there are two levels
    model: ModelFacts | None = None
    improve: dict[str, Any] | None = None  # the round of a loop that this run is
    reconstruction: Reconstruction | None = None
    voids: VoidFacts | None = None
    ideas: dict[str, ArmCounts] | None = None
    review: ReviewFacts | None = None
    seconds: dict[str, float] | None = None
    seed: int | None = None
    peak_memory_gb: float | None = None
    versions: dict[str, str] | None = None


class Piece(NamedTuple):
    """A stretch of a text: `kept` in both, or in this one only."""

    text: str
    kept: bool


def check_report(report: Mapping[str, Any]) -> Report:
    """The validated report.

    Raises InputError naming the place of an unknown top-level key, a value outside its range,
    a null (leave unmeasured numbers out) or a number that is NaN or infinite.
    """
    for place, value in _leaves(report):
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"report: {place} is {value}; leave out what was not measured")
    try:
        return Report.model_validate(report)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise InputError(f"report: {place}: {first['msg']}; see `report.json` in README") from error


def write_report(
    run_dir: Path,
    report: Mapping[str, Any],
    *,
    ideas: Sequence[IdeaRow],
    reconstructions: Sequence[tuple[str, str]],
    metrics: Sequence[Mapping[str, float]],
    places: Sequence[VoidRow] = (),
) -> Path:
    """Write `report.json` and `report.html` into the run folder; return the page's path.

    Args:
        run_dir: the run folder; its `map.png`, if there, goes into the page.
        report: as in the design; entries that are None are left out.
        ideas: best first; the page shows the first ten.
        reconstructions: (held-out text, its restored form); the page shows the first six.
        metrics: the lines of `metrics.jsonl`, oldest first; an absent term leaves its curve out.
        places: the voids, emptiest first; the page shows the first ten that stand.

    Raises InputError for a report that breaks the schema, before anything is written.
    """
    report = without_none(report)
    check_report(report)
    page = render(
        report, ideas=ideas, reconstructions=reconstructions, metrics=metrics, places=places,
        picture=_map(run_dir),
    )  # fmt: skip
    write_json(run_dir / "report.json", report)
    path = run_dir / "report.html"
    with replacing(path) as new:
        new.write_text(page, encoding="utf-8")
    return path


def render(
    report: Mapping[str, Any],
    *,
    ideas: Sequence[IdeaRow],
    reconstructions: Sequence[tuple[str, str]],
    metrics: Sequence[Mapping[str, float]],
    places: Sequence[VoidRow] = (),
    picture: str = "",
) -> str:
    """The page as HTML. `picture` is a PNG in base64, "" for none. All texts are escaped."""
    page: str = page_template("report.html.j2", "cllm").render(
        report=report,
        verdict=verdict_in_words(report),
        held_out=scoreboard.held_out_texts(report),
        restored=scoreboard.restored_rows(report),
        voids=scoreboard.void_rows(report),
        places=[place for place in places if place["stands"]][: scoreboard.SHOWN_IDEAS],
        arms=scoreboard.arm_rows(report),
        withheld=scoreboard.withheld_cells(report),
        arm_names=scoreboard.ARMS,
        review=scoreboard.review_rows(report),
        agreement=scoreboard.agreement_in_words(report),
        ideas=list(ideas[: scoreboard.SHOWN_IDEAS]),
        idea_count=len(ideas),
        pairs=[differences(*pair) for pair in reconstructions[:SHOWN_PAIRS]],
        evidence=[*null_chart(report), *arm_chart(report), *calibration_chart()],
        curves=[*prefix_curve(report), *curves(metrics)],
        picture=picture,
    )
    return page


def page_template(name: str, *packages: str) -> Any:  # noqa: ANN401 - of jinja2
    """A page of the first package that has it; texts that go into it are escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(name)


def without_none(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The same value with every mapping entry that is None left out, at all depths."""
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value]
    return value


def differences(original: str, restored: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts cut into stretches of words that are in both or in one only."""
    left, right = _words(original), _words(restored)
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        for side, words in ((0, left[start:end]), (1, right[other_start:other_end])):
            if words:
                pieces[side].append(Piece("".join(words), kind == "equal"))
    return pieces


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _map(run_dir: Path) -> str:
    path = run_dir / "map.png"
    return base64.b64encode(path.read_bytes()).decode("ascii") if path.exists() else ""


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any JSON
    """Each scalar with its place, such as `ideas.void.yield_ci.0`."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield place, value
        return
    for key, item in items:
        yield from _leaves(item, f"{place}.{key}" if place else str(key))
