"""Train a run's CLLM over several processes without Ray: torch's own launcher, DeepSpeed below.

    torchrun --nproc-per-node 8 -m cllm.train_distributed -- --run runs/mine --set parallel.zero=2

Takes the settings of `cllm train`. All processes see the same run folder; the first one
writes. Interrupted or killed, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cllm.console import one_line_errors, set_up_logging
from cllm.run import RunFolder
from cllm.settings import RunSettings, overridden

if TYPE_CHECKING:
    from cllm.workers import Workers


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and leave `model/` in the run folder."""
    options = parser().parse_args(arguments)
    set_up_logging()  # before what it quietens is imported
    from cllm import pipeline
    from cllm.training import Spread

    with one_line_errors(), process_group() as workers:
        if not workers.first:
            logging.getLogger("cllm").setLevel(logging.WARNING)
        settings = settings_of(options)
        spread = Spread(settings.parallel, workers)
        pipeline.train_model(RunFolder(Path(options.run)), settings, reuse=True, spread=spread)


def parser(help: bool = True) -> argparse.ArgumentParser:
    """The options of `cllm train` that say what is trained."""
    p = argparse.ArgumentParser(
        prog="cllm.train_distributed", description=(__doc__ or "").split("\n")[0], add_help=help
    )
    p.add_argument("--run", default="runs/default")
    p.add_argument("--preset", choices=("quick", "standard", "full"), default="standard")
    p.add_argument("--dim", type=int)
    p.add_argument("--aim", choices=("text", "voids"), default="text")
    p.add_argument("--seconds", type=float)
    p.add_argument("--steps", type=int)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--set", action="append", default=[], help="any setting, like parallel.zero=2")
    return p


def settings_of(options: argparse.Namespace) -> RunSettings:
    """The settings that the options come to."""
    o = options
    return overridden(
        o.preset, dim=o.dim, seed=o.seed, seconds=o.seconds, steps=o.steps, aim=o.aim,
        changes=o.set,
    )  # fmt: skip


@contextmanager
def process_group() -> Iterator[Workers]:
    """The workers that a launcher started, in a group that lasts as long as the context."""
    import torch
    import torch.distributed as dist

    from cllm.workers import Workers

    if "RANK" not in os.environ:
        yield Workers.here()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Workers.here()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
