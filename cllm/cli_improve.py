"""`cllm improve`: the loop over its own texts, as a command.

Heavy imports stand inside, so that `cllm --help` is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cllm.cli_options import Json, PresetName, ScorerKey, ScorerModel, ScorerUrl, Seed
from cllm.console import emit
from cllm.run import SHIPPED_VOIDS, existing_run

# key of a round in improve.json, and what stands above its column
COLUMNS = (
    ("round", "round"), ("kept", "taught"), ("gain_nats", "gain, nats"),
    ("gain_ratio", "÷ round 0"), ("content_f1", "content F1"), ("told_apart", "edits told apart"),
    ("withheld_so_far", "new subjects"),
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(improve)


def improve(
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="run to begin with \\[default: runs/default, else the one for voids that ships]",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="folder of the rounds")] = Path("runs/improve"),
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="after round 0")] = 5,
    json: Json = False,
    seed: Seed = 0,
    preset: PresetName = "quick",
    scorer: ScorerUrl = None,
    scorer_model: ScorerModel = None,
    scorer_key: ScorerKey = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="a guard, like share=0.2, or train.loop.seconds=600; repeatable"
        ),
    ] = None,
) -> None:
    """Texts from voids train base and CLLM on, round by round, under guards."""
    from cllm.improve import Loop, settings_for
    from cllm.improve import improve as go_on
    from cllm.scorer import Scorer

    start = existing_run(run, shipped=SHIPPED_VOIDS)
    how, settings = settings_for(preset, changes or (), seed)
    other = Scorer(scorer, scorer_model, scorer_key) if scorer else None
    told = go_on(Loop.begun(out, start, how, settings, other), rounds)
    emit(told, json, lambda: print_rounds(told, out))


def print_rounds(told: dict[str, Any], out: Path) -> None:
    """A line a round, and what came of it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for _, title in COLUMNS:
        table.add_column(title, justify="right")
    for one in told["rounds"]:
        table.add_row(*(_cell(one.get(key)) for key, _ in COLUMNS))
    console = Console()
    console.print(table)
    if ended := told.get("ended"):
        console.print(f"ended: {ended}")
    console.print(f"best: round {told['best']}, {out / 'best'}, a run folder as any other")


def _cell(value: Any) -> str:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        value = value.get("mean")
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
