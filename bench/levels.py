"""How cost grows with the passages of a text: `python -m bench.levels --json`.

Two levels over the model that ships: a training step, the way up, and the way down, for texts of 10
passages and of 100, in CPU seconds. Sizes take turns, the first round is a warm-up; memory is
measured in a process of its own for each size. One JSON object on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench._context import apart, grown, in_turns, say
from cllm.batches import TokenTexts
from cllm.corpus import built_in_corpus
from cllm.levels import Passages
from cllm.losses import Restoring
from cllm.model import CLLM
from cllm.passages import passages_of
from cllm.run import SHIPPED, RunFolder
from cllm.settings import TrainSettings

WORDS, DIM = 32, 64


@dataclass(frozen=True)
class Long:
    """Texts of so many passages each, and an untrained model of two levels for them."""

    model: CLLM
    texts: TokenTexts

    @classmethod
    def of(cls, count: int, texts: int) -> Long:
        """`texts` of `count` passages of recipes."""
        torch.manual_seed(0)
        base = Passages(RunFolder(SHIPPED).load_model(), WORDS, count)
        some = passages_of(built_in_corpus("plain", count * texts, 0), WORDS).texts[: count * texts]
        rows = base.level.base.tokenize(list(some))
        long = [[token for row in rows[first : first + count] for token in row]
                for first in range(0, count * texts, count)]  # fmt: skip
        told = base.texts([str(number) for number in range(texts)], long, count)
        model = CLLM.from_base(base, context=count, dim=DIM)
        model.start(told)
        return cls(model, told)

    def step(self) -> None:
        """Forward and backward of one batch."""
        self.model.zero_grad(set_to_none=True)
        task = Restoring(self.model, TrainSettings(), self.texts)
        task.losses(self.texts.gather(range(len(self.texts))), 0)["loss"].backward()

    def up(self) -> None:
        """Vectors of the texts."""
        self.model.encode_tokens(self.texts)

    def down(self) -> None:
        """Texts of vectors; each has all its passages, as the rows are the real ones."""
        base, batch = self.model.base, self.texts.gather(range(len(self.texts)))
        array_BRH, _ = base.array_of(batch.ids_BT, batch.mask_BT)
        with torch.inference_mode():
            self.model.decode_array(torch.nn.functional.normalize(torch.randn(len(batch), DIM)))
        base.write(array_BRH, max_tokens=0)

    @property
    def does(self) -> dict[str, Callable[[], None]]:
        """What is timed, by name."""
        return {"step": self.step, "up": self.up, "down": self.down}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object."""
    p = argparse.ArgumentParser(prog="python -m bench.levels", description=__doc__)
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--passages", nargs=2, type=int, default=[10, 100])
    p.add_argument("--texts", type=int, default=16, help="of a batch")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)  # passages, what is done
    o = p.parse_args(arguments)
    torch.set_num_threads(o.threads)
    if o.memory_of:
        count, name = o.memory_of
        print(json.dumps(grown(Long.of(int(count), o.texts).does[name])))
        return
    few, many = o.passages
    made = {str(count): Long.of(count, o.texts) for count in o.passages}
    told = {"passages": o.passages, "texts": o.texts, "threads": o.threads,
            "tokens": {count: long.texts.tokens for count, long in made.items()}}  # fmt: skip
    for name in next(iter(made.values())).does:
        seconds: dict[str, list[float]] = {count: [] for count in made}
        for repeat in range(o.repeats + 1):
            for count, long in in_turns(made, repeat):
                begun = time.process_time()  # shared machines: what it takes, not how long
                long.does[name]()
                seconds[count] += [time.process_time() - begun] if repeat else []
        ratios = np.divide(seconds[str(many)], seconds[str(few)])
        peaks = {
            count: apart("bench.levels", "--memory-of", count, name, "--texts", o.texts,
                         "--threads", o.threads)
            for count in made
        }  # fmt: skip
        told[name] = {
            "seconds": {count: float(np.median(taken)) for count, taken in seconds.items()},
            "times": float(np.median(ratios)), "times_range": [min(ratios), max(ratios)],
            "peak_mib": peaks,
            "peak_times": (peaks[str(many)] or 0) / (peaks[str(few)] or np.nan),
        }  # fmt: skip
        say(f"{name} {told[name]}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
