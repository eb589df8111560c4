"""Does the loop that improves itself gain, hold or decay: `cllm study loop --json`.

Rounds of self-improvement from the same models of several seeds: guarded, without one guard each,
on real texts only, at several shares of them, on arrays instead of texts, and without training.
Every arm has the same decodes and the same training steps; all is measured on real held-out texts,
by what held before the first round. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cllm import discovery, pipeline
from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.files import write_json
from cllm.improve import Loop, improve, settings_for
from cllm.run import SHIPPED, RunFolder
from cllm.settings import overridden
from studies.knows import prepare
from studies.loop_told import draw_loops, summary, table, verdicts

log = logging.getLogger(__name__)

ARMS: dict[str, tuple[str, ...]] = {
    "guarded": (),
    "soft targets": ("soft=0.5",),
    "no judge": ("judge=false",),
    "no real texts": ("share=1",),
    "no real texts, no judge": ("share=1", "judge=false"),
    "real only": ("share=0",),
    **{f"real {100 - share} %": (f"share={share / 100:g}", "repeats=0")
       for share in (90, 80, 70, 50, 30)},
    "arrays": ("arrays=true",),
    "no training": ("share=0", "further=0"),
    "no training, kept in mind": ("further=0",),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, go through the rounds, and print one JSON object."""
    o = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if min(o.seeds, o.rounds, o.steps, o.base_steps, o.model_steps) < 1 or o.decodes < 2:
            raise InputError("numbers must be 1 or more, and --decodes 2 or more")
        study = Study(o)
        loops = {arm: [study.loop(arm, seed) for seed in range(o.seeds)] for arm in o.arms}
        told = summary(loops, o.rounds) | {"texts": o.texts, "decodes": o.decodes,
                                           "steps": o.steps}  # fmt: skip
        told["words"] = verdicts(told)
        write_json(o.out / "loop.json", told)
        draw_loops(o.out / "loop.png", told)
        print(json.dumps(told) if o.json else "\n".join([*table(told), "", *told["words"]]))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(prog="cllm study loop", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    p.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    p.add_argument("--seeds", type=int, default=3, help="models to begin with")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--texts", type=int, default=4000, help="real ones that are trained on")
    p.add_argument("--decodes", type=int, default=1000, help="of a round")
    p.add_argument(
        "--model-steps", type=int, default=1500, help="of the CLLM that rounds begin with"
    )
    p.add_argument("--steps", type=int, default=100, help="of the CLLM in a round")
    p.add_argument(
        "--base-steps", type=int, default=40, help="of each stage of the base in a round"
    )
    p.add_argument("--measured", type=int, default=300, help="held-out texts")
    p.add_argument("--out", type=Path, default=Path("runs/loop"), help="a folder")
    return p


@dataclass(frozen=True)
class Study:
    """Models of several seeds over the shipped base, and loops from them."""

    options: argparse.Namespace

    @cached_property
    def corpus(self) -> Corpus:
        """Some training texts of the shipped base's corpus, and as many held-out ones as there are.

        The base has seen the others as well; no loop does.
        """
        whole = Corpus.load(SHIPPED / "corpus.parquet")
        some = set(whole.select("train").sample(self.options.texts).ids)
        return whole.only([
            split != "train" or name in some
            for name, split in zip(whole.ids, whole.splits, strict=True)
        ])  # fmt: skip

    def start(self, seed: int) -> RunFolder:
        """A trained model with its voids, once."""
        o = self.options
        run = RunFolder(o.out / f"start-{seed}")
        prepare(run, self.corpus, RunFolder(SHIPPED).base)
        settings = overridden("quick", seed=seed, aim="voids", steps=o.model_steps)
        pipeline.train_model(run, settings, reuse=True)
        if not run.voids.exists():
            pipeline.embed_corpus(run, replace=True)
            discovery.search_voids(run, seed, quick=True)
        return run

    def loop(self, arm: str, seed: int) -> Loop:
        """A loop that has gone as far as it could; it never stops for what it measures."""
        o = self.options
        share = o.steps / o.model_steps
        lines = [
            f"train.loop.steps={o.model_steps}", "train.loop.seconds=0",
            f"base.loop.steps={round(o.base_steps / share)}", "base.loop.seconds=0",
            f"base.low_rank_loop.steps={round(o.base_steps / share)}",
            "base.low_rank_loop.seconds=0", f"further={share:.6g}",
            f"decodes={o.decodes}", f"measured={o.measured}", "least=0", *ARMS[arm],
        ]  # fmt: skip
        how, settings = settings_for("quick", lines, seed)
        name = "-".join(arm.replace(",", "").replace("%", "").split())
        folder = o.out / f"{name}-{seed}"
        log.info("%s, seed %d", arm, seed)
        loop = Loop.begun(folder, self.start(seed), how, settings)
        improve(loop, o.rounds)
        return loop


if __name__ == "__main__":
    main()
