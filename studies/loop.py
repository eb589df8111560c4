"""Does the loop that improves itself gain, hold or decay: `cllm study loop --json`.

Rounds of self-improvement from the same model, over several seeds: guarded, without one guard each,
on real texts only, all and few, at several shares of them, on arrays instead of texts, and without
training, in rounds or at once. Every arm has the same decodes and the same training steps, of which
the weights are kept that real validation texts choose; all is measured on real test texts, by what
held before the first round. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.files import digest, read_json, replacing, write_json
from cllm.improve import Loop, improve, settings_for
from cllm.run import SHIPPED_VOIDS, RunFolder
from studies.loop_told import AT_ONCE, beside, draw_loops, summary, table, verdicts

log = logging.getLogger(__name__)

ARMS: dict[str, tuple[str, ...]] = {
    "guarded": (),
    "soft targets": ("soft=0.5",),
    "no judge": ("judge=false",),
    "no real texts": ("share=1",),
    "no real texts, no judge": ("share=1", "judge=false"),
    "real only": ("share=0",),
    "200 real texts only": ("share=0", "real=200"),
    **{f"real {100 - share} %": (f"share={share / 100:g}", "repeats=0")
       for share in (90, 80, 70, 50, 30)},
    "arrays": ("arrays=true",),
    "no training": ("share=0", "further=0"),
    "no training, kept in mind": ("further=0",),
    AT_ONCE: ("share=0", "further=0"),
}  # fmt: skip


METHOD = 2  # raised when round 0 would be another one
WHOLE = 4  # times a round's steps: what the critic's budget is a half of


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, go through the rounds, and print one JSON object."""
    o = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        least = min(o.seeds, o.rounds, o.steps, o.base_steps)
        if least < 1 or o.first_seed < 0 or o.decodes < 2:
            raise InputError(
                "numbers must be 1 or more, --first-seed 0 or more, --decodes 2 or more"
            )
        seeds = range(o.first_seed, o.first_seed + o.seeds)
        loops = {arm: [loop_of(arm, seed, o) for seed in seeds] for arm in o.arms}
        told = summary(loops, o.rounds)
        told |= {"first_seed": o.first_seed, "decodes": o.decodes, "steps": o.steps}
        if o.beside:
            told = beside(told, read_json(o.beside))
        told["words"] = verdicts(told)
        write_json(o.out / "loop.json", told)
        draw_loops(o.out / "loop.png", told)
        print(json.dumps(told) if o.json else "\n".join([*table(told), "", *told["words"]]))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(prog="cllm study loop", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    p.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    p.add_argument("--run", type=Path, default=SHIPPED_VOIDS, help="to begin with")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--first-seed", type=int, default=0, help="of these; loop.json is "
                   "of those asked for last")  # fmt: skip
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--decodes", type=int, default=1000, help="of a round")
    p.add_argument("--steps", type=int, default=100, help="of the CLLM in a round")
    p.add_argument(
        "--base-steps", type=int, default=20, help="of each stage of the base in a round"
    )
    p.add_argument("--measured", type=int, default=300, help="held-out texts")
    p.add_argument("--beside", type=Path, help="an earlier run's loop.json, of other arms of the "
                   "same loops, which are told with these")  # fmt: skip
    p.add_argument("--out", type=Path, default=Path("runs/loop"), help="a folder")
    return p


def loop_of(arm: str, seed: int, options: argparse.Namespace) -> Loop:
    """A loop that has gone as far as it could; it never stops for what it measures.

    All begin with one run: seeds are of what is drawn, trained on and in which order.
    """
    o = options
    rounds, decodes = (1, o.rounds * o.decodes) if arm == AT_ONCE else (o.rounds, o.decodes)
    lines = [
        f"train.loop.steps={WHOLE * o.steps}", "train.loop.seconds=0",
        f"base.loop.steps={WHOLE * o.base_steps}", "base.loop.seconds=0",
        f"base.low_rank_loop.steps={WHOLE * o.base_steps}", "base.low_rank_loop.seconds=0",
        f"further={1 / WHOLE}", f"decodes={decodes}", f"measured={o.measured}",
        "least=0", "search=false", *ARMS[arm],
    ]  # fmt: skip
    how, settings = settings_for("quick", lines, seed)
    name = "-".join(arm.replace(",", "").replace("%", "").split())
    log.info("%s, seed %d", arm, seed)
    if arm == AT_ONCE:
        name = f"{name}-{decodes}"  # more rounds are another loop
    loop = Loop.begun(o.out / f"{name}-{seed}", RunFolder(o.run), how, settings)
    made_from = digest(loop.start, settings.model_dump_json(), str((how.measured, METHOD)))[:8]
    first = o.out / f"round-0-{made_from}-{seed}"  # the same for all arms
    if first.exists() and not loop.round(0).path.exists():
        with replacing(loop.round(0).path) as new:
            shutil.copytree(first, new)
    improve(loop, rounds)
    if not first.exists():
        with replacing(first) as new:
            shutil.copytree(loop.round(0).path, new)
    return loop


if __name__ == "__main__":
    main()
