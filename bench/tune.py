"""What pruning saves, and whether it still finds the winner: one grid, pruned and in full.

    python -m bench.tune --run runs/sweep                     # about an hour on 2 cores
    python -m bench.tune --pruned a.json --whole b.json       # of sweeps that were run before

The run needs a corpus and a base. One JSON object on stdout. The full grid takes over what the
pruned one trained to the end, so its minutes are those of the rest.
"""

# Shapes: N validation texts.
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._context import say
from cllm.files import read_json
from cllm.losses import text_nats
from cllm.metrics import bootstrap
from cllm.pretrain import held_out_texts
from cllm.run import RunFolder

SPACE = ("dim=8,16,32,64", "cluster_weight=0,0.01,0.1", "lr=1e-3,2e-3")


def main() -> None:
    """Run or read both sweeps, compare their winners, and print it."""
    options = parser().parse_args()
    pruned = read_json(options.pruned) if options.pruned else swept(options, "asha")
    whole = read_json(options.whole) if options.whole else swept(options, "none")
    print(json.dumps(compared(pruned, whole)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(prog="bench.tune", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--run", type=Path, default=Path("runs/sweep"))
    p.add_argument("--pruned", type=Path, help="the outcome of a pruned sweep")
    p.add_argument("--whole", type=Path, help="the outcome of the same one in full")
    p.add_argument("more", nargs="*", help="for `cllm tune`, after --, such as --seconds 60")
    return p


def swept(options: argparse.Namespace, scheduler: str) -> dict[str, Any]:
    """The outcome of one sweep, by the command that a user types."""
    command = [sys.executable, "-m", "tune.main", "--run", str(options.run), "--search", "grid"]
    command += [word for axis in SPACE for word in ("--space", axis)]
    command += ["--scheduler", scheduler, "--measure", "gain", "--controls", "0"]
    command += ["--no-choice", "--json"]
    say(" ".join([*command, *options.more]))
    ended = subprocess.run([*command, *options.more], stdout=subprocess.PIPE, check=True, text=True)
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def compared(pruned: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Minutes, what was saved, and the winners' gains over the same texts."""
    mine, best = pruned["best"], whole["best"]
    nats_N = {row["folder"]: nats_of(RunFolder(Path(row["folder"]))) for row in (mine, best)}
    loss = bootstrap(nats_N[mine["folder"]] - nats_N[best["folder"]], np.random.default_rng(0))
    return {
        "trials": pruned["trials"], "minutes": pruned["seconds"] / 60,
        "minutes_of_the_rest": whole["seconds"] / 60, "counts": pruned["counts"],
        "saved": pruned["saved"], "start_share": pruned["start_share"],
        "winner": mine["point"], "winner_gain": mine["gain_nats"],
        "winner_of_all": best["point"], "winner_of_all_gain": best["gain_nats"],
        "winner_of_all_ci": [best.get("gain_low"), best.get("gain_high")],
        "loss": loss.mean, "loss_ci": [loss.low, loss.high],
        "within": best.get("gain_low", float("inf")) <= mine["gain_nats"],
    }  # fmt: skip


def nats_of(folder: RunFolder) -> NDArray[np.float64]:
    """What each validation text costs given its vector, (N,)."""
    model = folder.load_model()
    return text_nats(model, held_out_texts(model.base, folder.load_corpus(), model.config.context))


if __name__ == "__main__":
    main()
