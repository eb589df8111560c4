"""Say what a report's numbers mean, in words and tables, for the terminal and the page.

A number that was not measured reads "not measured"; a claim needs the numbers behind it.

    print_scoreboard(report, ideas, Console(), run_dir=run)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from cllm.conclusions import verdict_in_words, withheld_of
from cllm.numbers import ABSENT, Numbers, number, with_interval

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table


SHOWN_IDEAS = 10
SHORT, SHORT_TITLE = 160, 40  # characters of a nearest text and of a title on the terminal
STYLES = {"novel": "green", "duplicate": "magenta", "nonsense": "yellow"}
FILES = ("report.html", "report.json", "map.png", "ideas.parquet")

ARMS = {
    "void": "voids",
    "density": "dense places",
    "open": "open places",
    "interpolation": "between texts",
    "prior": "whole cloud",
    "base": "base LLM alone",
    "copy": "a word swapped",
}
COUNTED = (
    "dec.: decodes spent. hit: decoded and encoded again it is nearer to where it began than to "
    "any text. yield: share of texts that are valid, no duplicate and a hit; just the first two "
    "for arms that begin nowhere."
)
FUNNEL = ("decodes", "sampled", "valid", "duplicate", "novel", "hit")
# key in the report, label, what it means
RESTORED = (
    ("exact_match", "exact match", "share of texts restored word for word"),
    ("token_accuracy", "token accuracy", "share of tokens restored in place"),
    ("content_f1", "content F1", "1: the same content items"),
    ("bleu", "BLEU", "0 to 100"),
    ("chrf", "chrF", "0 to 100"),
    ("array_r2", "array R²", "variance of the token embeddings restored"),
    ("gain_nats", "gain, nats a text", "what the vector tells about the text"),
    ("gain_over_entropy", "gain ÷ entropy", "1: all there is to tell"),
    ("nats_per_dim", "nats a dimension", "gain ÷ length of the vector"),
    ("round_trip", "round trip", "angle to E(D(z)) ÷ nearest neighbour's; less is better"),
)
EMPTY = (
    ("count", "voids", "enclosed, and emptier than chance explains"),
    ("enclosed", "enclosed places", "not overlapping"),
    ("radius_ratio", "radius ratio", "largest radius ÷ the largest in null clouds, on average"),
    ("p_value", "p-value", "against the emptiest place of null clouds"),
    ("hopkins", "Hopkins", "about 0.5: even over the sphere; near 1: clustered, or a sheet"),
    ("uniformity", "uniformity", "lower: more even over the sphere"),
    ("intrinsic_dim", "intrinsic dimension", "directions the cloud really uses"),
)
# shown where they were measured
SHAPE = (
    ("sheet_dim", "sheet", "dimension of the sheet that texts lie in and voids were sought in"),
    ("clusters", "clusters", "HDBSCAN's"),
    ("clustered", "clustered", "share of texts in one of them"),
    ("agreement", "agreement", "of clusters with known groups; 1: the same, 0: by chance"),
    ("persistence_h0", "persistence H0", "of pieces, radians in all"),
    ("persistence_h1", "persistence H1", "of loops, radians in all"),
)


class IdeaRow(TypedDict):
    """An idea as the page and the scoreboard show it.

    `verdict` is novel, duplicate or nonsense; `nearest` holds (training text, similarity 0..1),
    best first.
    """

    text: str
    verdict: str
    reasons: Sequence[str]
    nearest: Sequence[tuple[str, float]]
    arm: NotRequired[str]
    void_id: NotRequired[int | None]
    novelty: NotRequired[float]
    validity: NotRequired[float]
    round_trip: NotRequired[float | None]
    hit: NotRequired[bool | None]
    plausibility: NotRequired[float | None]
    chosen: NotRequired[int | None]


class RimText(TypedDict):
    """A text that a void touches."""

    id: str
    title: str


class VoidRow(TypedDict):
    """An enclosed place as the page and `cllm voids` show it; the radius in radians."""

    id: int
    radius: float
    score: float
    p_value: float | None
    enclosed: bool
    stands: bool
    written: bool  # around a text that was written
    groups: Sequence[str]  # of the texts on its rim, where they are known
    kind: str | None  # of these: within one, between two, across more
    rim: Sequence[RimText]


@dataclass(frozen=True)
class Row:
    """A number in words: what it is, its value, the same for retrieval, and what it means.

    `retrieval` is "" where the nearest training text has no such score.
    """

    label: str
    value: str
    retrieval: str
    note: str


def restored_rows(report: Numbers) -> list[Row]:
    """How well held-out texts come back, beside the nearest training text."""
    found = report.get("reconstruction", {})
    rows: list[Row] = []
    for name, label, note in RESTORED:
        other = f"retrieval_{name}"
        if name != "gain_over_entropy" or name in found:  # of built-in texts only
            retrieved = with_interval(found, other) if other in found else ""
            rows.append(Row(label, with_interval(found, name), retrieved, note))
    return rows


def prefix_gains(report: Numbers) -> str:
    """What the first coordinates alone tell; "" where that was not measured."""
    gains = report.get("reconstruction", {}).get("gain_by_prefix", {})
    told = ", ".join(f"{k}: {gain:.1f}" for k, gain in gains.items())
    return f"gain of the first coordinates alone, nats a text: {told}" if told else ""


def held_out_texts(report: Numbers) -> str:
    """What was scored: "1,000 held-out texts, 37 of them cut to the context"."""
    found = report.get("reconstruction", {})
    if "n" not in found:
        return "held-out texts"
    cut = f", {number(found['cut'])} of them cut to the context" if found.get("cut") else ""
    return f"{number(found['n'])} held-out texts{cut}"


def void_rows(report: Numbers) -> list[Row]:
    """How empty the voids are, and how the cloud lies."""
    found = report.get("voids", {})
    rows = [Row(label, with_interval(found, name), "", note) for name, label, note in EMPTY]
    rows += [
        Row(f"p-value, {kind}", number(p_value), "", "against null clouds of this kind alone")
        for kind, p_value in found.get("p_values", {}).items()
    ]
    shape = [each for each in SHAPE if each[0] in found]
    return rows + [Row(label, number(found[name]), "", note) for name, label, note in shape]


def arm_rows(report: Numbers) -> list[tuple[str, ...]]:
    """One row an arm: its name, the funnel's counts, the yield with its interval."""
    arms = report.get("ideas", {})
    return [
        (
            ARMS.get(name, name),
            *(number(arms[name][step]) if step in arms[name] else "–" for step in FUNNEL),
            _share(arms[name]),
        )
        for name in _ordered(arms)
    ]


def _ordered(arms: Numbers) -> list[str]:
    return [name for name in ARMS if name in arms] + [name for name in arms if name not in ARMS]


def withheld_cells(report: Numbers) -> list[str]:
    """Of each arm's new texts, those in combinations that the corpus withholds; none if unknown."""
    arms = report.get("ideas", {})
    if not any("withheld" in arm for arm in arms.values()):
        return []
    return [withheld_of(arms[name]) if "withheld" in arms[name] else "–" for name in _ordered(arms)]


def print_voids(facts: Numbers, found: Sequence[VoidRow]) -> None:
    """Print what a search found: its numbers, and the first ten voids with texts they touch."""
    from rich.console import Console

    console = Console()
    console.print(_void_table({"voids": facts}))
    amid = ["groups"] if any(void["groups"] for void in found) else []
    table = _table("The emptiest", "void", "radius", "score", "p", "stands", *amid, "between")
    table.columns[-1].justify = "left"
    for void in found[:SHOWN_IDEAS]:
        rim = "; ".join(text["title"][:SHORT_TITLE] for text in void["rim"][:3])
        numbers = map(number, (void["radius"], void["score"], void["p_value"]))
        stands = "yes" if void["stands"] else "–"
        around = [f"{void['kind'] or '–'} {', '.join(void['groups'])}"] if amid else []
        table.add_row(*_cells(str(void["id"]), *numbers, stands, *around, rim))
    if found:
        console.print(table)


def review_rows(report: Numbers) -> list[tuple[str, ...]]:
    """Of each arm: texts marked, shares of valid, new and useful, and how much voids have more."""
    found = report.get("review", {})
    less = found.get("preference", {})
    return [
        (ARMS.get(arm, arm), number(of["marked"]),
         *(with_interval(of, mark) for mark in ("valid", "new", "useful")),
         with_interval(less[arm], "useful") if arm in less else "–")
        for arm, of in ((arm, found["arms"][arm]) for arm in _ordered(found.get("arms", {})))
    ]  # fmt: skip


def agreement_in_words(report: Numbers) -> str:
    """How far those who marked agree with each other and with the judge; "" without marks."""
    if not (found := report.get("review")):
        return ""
    people = "1 person" if found["raters"] == 1 else f"{found['raters']} people"
    told = [f"{people} marked {number(found['texts'])} texts"]
    for name, who in (("agreement", "each other"), ("with_judge", "the judge")):
        kappas = found.get(name, {})
        each = [
            f"{mark} {kappas[mark]:.2f} [{low:.2f}, {high:.2f}]"
            for mark in ("valid", "new", "useful") if mark in kappas
            for low, high in [kappas[f"{mark}_ci"]]
        ]  # fmt: skip
        told += [f"agreement with {who} (Cohen's kappa): {', '.join(each)}"] if each else []
    return "; ".join(told) + "."


def print_review(found: Numbers) -> None:
    """Print what people marked."""
    from rich.console import Console

    console = Console()
    _show_review({"review": found} if found else {}, console)


def _show_review(report: Numbers, console: Console) -> None:
    columns = ("arm", "texts", *("valid", "new", "useful"), "voids' useful − its")
    table = _table("Marked blind by people", *columns)
    for row in review_rows(report):
        table.add_row(*_cells(*row))
    console.print(table)
    console.print(agreement_in_words(report), style="dim", highlight=False)


def print_arms(arms: Numbers, ideas: Sequence[IdeaRow] = ()) -> None:
    """Print what each arm wrote, and of the ideas those that another model chose."""
    from rich.console import Console

    console = Console()
    _show_arms({"ideas": arms}, console)
    for place, idea in enumerate([idea for idea in ideas if idea.get("chosen")], start=1):
        _print_idea(place, idea, console)


def _show_arms(report: Numbers, console: Console) -> None:
    console.print(_arm_table(report))
    console.print(COUNTED, style="dim", highlight=False)


def print_scoreboard(
    report: Numbers, ideas: Sequence[IdeaRow], console: Console, *, run_dir: Path | None = None
) -> None:
    """Print the verdict, three tables, ten ideas with their evidence and where the files are.

    Fits 80 columns. `ideas` are best first; `run_dir` adds the list of files found in it.
    """
    console.print()
    for sentence in verdict_in_words(report):
        console.print(sentence, style="bold", markup=False, highlight=False)
    if "reconstruction" in report:
        console.print(_restored_table(report))
        console.print(prefix_gains(report), style="dim", highlight=False)
    if "voids" in report:
        console.print(_void_table(report))
    if "ideas" in report:
        _show_arms(report, console)
    if "review" in report:
        _show_review(report, console)
    for place, idea in enumerate(ideas[:SHOWN_IDEAS], start=1):
        _print_idea(place, idea, console)
    for name in FILES if run_dir else ():
        if run_dir and (run_dir / name).exists():
            console.print(str(run_dir / name), style="cyan", soft_wrap=True, highlight=False)


def _share(arm: Numbers) -> str:
    name = "yield" if "yield" in arm else "new_share"
    if name not in arm:
        return "–"
    interval = arm.get(f"{name}_ci")
    text = f"{arm[name]:.2f}"
    return f"{text} [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else text


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    return table


def _cells(*texts: str) -> list[Any]:
    from rich.text import Text

    return [Text(text, style="dim" if text in (ABSENT, "–", "") else "") for text in texts]


def _restored_table(report: Numbers) -> Table:
    table = _table(held_out_texts(report), "restored from the vector", "this model", "nearest text")
    for row in restored_rows(report):
        table.add_row(*_cells(row.label, row.value, row.retrieval))
    return table


def _void_table(report: Numbers) -> Table:
    facts = report["voids"]
    where = f" in the first {facts['void_dim']} coordinates" if "void_dim" in facts else ""
    how = ", quick search" if facts.get("quick") else ""
    table = _table(f"Voids{where}{how}", "measure", "value", "meaning")
    table.columns[2].justify = "left"
    for row in void_rows(report):
        table.add_row(*_cells(row.label, row.value, row.note))
    return table


def _arm_table(report: Numbers) -> Table:
    short = ("dec.", "texts", "valid", "dup.", "novel", "hit")
    table = _table("Where new texts come from", "arm", *short, "yield")
    for row in arm_rows(report):
        table.add_row(*_cells(*row))
    return table


def _print_idea(place: int, idea: IdeaRow, console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    void, arm = idea.get("void_id"), idea.get("arm", "")
    facts = [ARMS.get(arm, arm) if void is None else f"void {void}"]
    scores = {name: idea.get(name) for name in ("validity", "novelty", "hit", "plausibility")}
    facts += [f"{name} {number(score)}" for name, score in scores.items() if score is not None]
    facts += ["chosen by the scorer"] if idea.get("chosen") else []
    head = Text(f"{place:>2}  ")
    head.append(idea["verdict"], style=f"bold {STYLES.get(idea['verdict'], 'white')}")
    head.append("".join(f" · {fact}" for fact in facts if fact), style="dim")
    console.print(head)
    console.print(Padding(Text(idea["text"]), (0, 0, 0, 4)))
    for line in _evidence(idea):
        console.print(Padding(Text(line, style="dim"), (0, 0, 0, 4)))
    console.print()


def _evidence(idea: IdeaRow) -> list[str]:
    lines = [f"why: {reason}" for reason in idea["reasons"]]
    for text, similarity in idea["nearest"][:1]:
        flat = " ".join(text.split())
        shown = flat if len(flat) <= SHORT else f"{flat[: SHORT - 1]}…"
        lines.append(f"nearest ({similarity:.2f}): {shown}")
    return lines
