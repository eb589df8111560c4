"""What training costs, and which form of CLLM learns most in the same time.

python -m bench.train --json                  # all parts, about 45 minutes
python -m bench.train --json --part overhead context --threads 2

One JSON object on stdout, progress on stderr. Gain is reference - nats: what a validation
text costs without its vector (the built-in corpus: its exact entropy; else the reference LM
beside the base) less what it costs with it. The reference cancels in every difference.
"""

# Shapes: S seeds, N validation texts, T tokens, H width.
from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench._context import context, memory_of, say
from cllm.base import BaseLM
from cllm.batches import Batch, TokenTexts
from cllm.codecs import make_codec
from cllm.corpus import Corpus, built_in_corpus
from cllm.engines import halved, make_optimizer
from cllm.losses import Restoring, text_nats
from cllm.metrics import Interval, bootstrap, paired_difference
from cllm.model import CLLM
from cllm.pretrain import fitted_texts, new_base, token_texts, train_denoising, train_low_rank
from cllm.reference import ReferenceLM
from cllm.settings import LoopSettings, ModelSettings, TrainSettings, overridden
from cllm.training import fit

PARTS = ("overhead", "context", "forms", "nested")
CONTEXTS = (512, 1024, 2048, 4096, 8192)
PARAMETERS_WITHIN = 0.15  # of the mirrored form's
Arms = dict[str, tuple[TrainSettings, dict[str, int | str]]]  # settings and shape by name


@dataclass(frozen=True)
class Bench:
    """Base, texts and the command's options."""

    base: BaseLM
    train: TokenTexts
    context: int  # tokens of a text at most, as the base's low-rank stage has it
    validation: TokenTexts
    choosing: TokenTexts  # other validation texts, by which the best weights are chosen
    reference_N: NDArray[np.float64] | None  # nats of each validation text without a vector
    reference: str
    options: argparse.Namespace

    def model(self, seed: int, **shape: int | str) -> CLLM:
        """A started CLLM."""
        torch.manual_seed(seed)
        model = CLLM.from_base(self.base, self.context, dim=self.options.dim, **shape)
        model.start(self.train)
        return model


class Unscored(Restoring):
    """Scoring left out: it is no part of a step."""

    def score(self) -> float:
        """A constant."""
        return 0.0


def overhead(bench: Bench) -> dict[str, Any]:
    """Seconds a step through `fit`, over those of forward, backward, clip and update alone.

    Both take the same model, batches, optimizer and loss from the same weights; repetitions
    alternate, and the first is a warm-up. `fit` counts making batches, the schedule, metrics
    and TensorBoard; scoring and writing the best weights are not counted as training.
    """
    o = bench.options
    model = bench.model(seed=0)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    settings = TrainSettings(loop=LoopSettings(steps=o.steps, batch=o.batch, evaluations=1))
    task = Unscored(model, settings, bench.validation)
    loop_seconds: list[float] = []
    bare_seconds: list[float] = []
    for repeat in range(o.repeats + 1):
        pair = [(_through_fit, loop_seconds), (_bare, bare_seconds)]
        for measure, seconds in pair if repeat % 2 else reversed(pair):
            model.load_state_dict(weights)
            seconds.append(measure(task, bench.train, settings.loop))
        say(f"overhead {repeat}: fit {loop_seconds[-1]:.4f} s, bare {bare_seconds[-1]:.4f} s")
    ratios = np.array(loop_seconds[1:]) / np.array(bare_seconds[1:])
    return {
        "ratio": float(np.median(ratios)),
        "ratio_quartiles": np.quantile(ratios, (0.25, 0.75)).tolist(),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
        "seconds_a_step": float(np.median(loop_seconds[1:])),
        "bare_seconds_a_step": float(np.median(bare_seconds[1:])),
        "parameters": model.parameters_count,
    }


def _through_fit(task: Restoring, texts: TokenTexts, settings: LoopSettings) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return fit(task, texts, settings, Path(folder), resume=False).seconds / settings.steps


def _bare(task: Restoring, texts: TokenTexts, settings: LoopSettings) -> float:
    optimizer = make_optimizer(task.module, settings)
    batches: list[Batch] = [
        batch for (batch,) in islice(texts.batches(settings.batch, settings.seed), settings.steps)
    ]
    device = task.model.device
    begun = time.perf_counter()
    for step, batch in enumerate(batches):
        with halved(device):
            loss = task.losses(batch.to(device), step)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(task.module.parameters(), settings.clip)
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / settings.steps


def forms(bench: Bench) -> dict[str, Any]:
    """Gain of the mirrored form against `pooled` and `direct`: equal parameters, equal time."""
    blocks = equal_blocks(bench)
    arms: Arms = {
        form: (TrainSettings(), {"form": form, "blocks": b}) for form, b in blocks.items()
    }
    nats = compare(bench, arms)
    found = _gains(bench, nats)
    counts = {form: bench.model(0, **arms[form][1]).parameters_count for form in blocks}
    gaps = [abs(count / counts["mirrored"] - 1) for count in counts.values()]
    found["parameters_equal"] = max(gaps) <= PARAMETERS_WITHIN
    found["better_baseline"] = min(("pooled", "direct"), key=lambda form: nats[form].mean())
    for form in blocks:
        found[form] |= {"blocks": blocks[form], "parameters": counts[form]}
    for form in ("pooled", "direct"):
        found[f"mirrored_minus_{form}"] = _difference(bench, nats["mirrored"], nats[form])
    return found


def nested(bench: Bench) -> dict[str, Any]:
    """Gain of the whole vector, nested against plain training: same dim, same time."""
    arms: Arms = {
        name: (TrainSettings(nested=name == "nested"), {}) for name in ("nested", "plain")
    }
    nats = compare(bench, arms)
    return _gains(bench, nats) | {
        "nested_minus_plain": _difference(bench, nats["nested"], nats["plain"])
    }


def equal_blocks(bench: Bench) -> dict[str, int]:
    """Blocks a layer for each form, so that the baselines come nearest to the mirrored form.

    The mirrored form takes the fewest blocks at which both are within 15 %, else the nearest.
    """
    o, array = bench.options, (bench.context, bench.base.width)
    default = ModelSettings()

    def count(form: str, blocks: int) -> int:
        codec = make_codec(
            form, array, o.dim, blocks, default.window, perceptron=default.perceptron
        )
        return sum(weight.numel() for weight in codec.parameters())

    baselines = {form: [count(form, b) for b in range(1, 13)] for form in ("pooled", "direct")}
    choices: list[tuple[float, dict[str, int]]] = []
    for mirrored_blocks in range(1, 4):
        target = count("mirrored", mirrored_blocks)
        gaps = {f: [abs(n / target - 1) for n in counts] for f, counts in baselines.items()}
        nearest = {form: int(np.argmin(gap)) + 1 for form, gap in gaps.items()}
        worst = max(min(gap) for gap in gaps.values())
        choices.append((worst, {"mirrored": mirrored_blocks, **nearest}))
        if worst <= PARAMETERS_WITHIN:
            break
    return min(choices, key=lambda choice: choice[0])[1]


def compare(bench: Bench, arms: Arms) -> dict[str, NDArray[np.float64]]:
    """Nats of each validation text (S, N) after training each arm with each seed.

    The arms take turns in going first, so that a busy machine favours none.
    """
    o = bench.options
    nats: dict[str, list[NDArray[np.float64]]] = {name: [] for name in arms}
    for seed in range(o.seeds):
        names = list(arms)
        for name in names[seed % len(names) :] + names[: seed % len(names)]:
            settings, shape = arms[name]
            begun = time.perf_counter()
            model = bench.model(seed, **shape)
            left = max(1.0, o.seconds - (time.perf_counter() - begun))  # its start counts too
            loop = LoopSettings(seconds=left, batch=o.batch, seed=seed)
            nats[name].append(
                trained_nats(bench, model, settings.model_copy(update={"loop": loop}))
            )
            say(f"{name}, seed {seed}: {nats[name][-1].mean():.3f} nats a text")
    return {name: np.stack(each) for name, each in nats.items()}


def trained_nats(bench: Bench, model: CLLM, settings: TrainSettings) -> NDArray[np.float64]:
    """Nats of each validation text (N,) after training; others choose the best weights."""
    with tempfile.TemporaryDirectory() as folder:
        ended = fit(
            Restoring(model, settings, bench.choosing), bench.train, settings.loop, Path(folder)
        )
    say(f"{ended.steps} steps in {ended.seconds:.0f} s")
    with torch.inference_mode():
        return np.asarray(text_nats(model.eval(), bench.validation))


def _gains(bench: Bench, nats: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    found: dict[str, Any] = {"reference": bench.reference, "seconds": bench.options.seconds}
    found |= {"seeds": bench.options.seeds, "dim": bench.options.dim, "batch": bench.options.batch}
    for name, nats_SN in nats.items():
        found[name] = {"nats": float(nats_SN.mean()), "nats_by_seed": nats_SN.mean(1).tolist()}
        if bench.reference_N is not None:
            gain = bootstrap(bench.reference_N[None] - nats_SN, np.random.default_rng(0))
            found[name] |= {"gain_nats": gain.mean, "gain_nats_ci": gain.ci}
    return found


def _difference(
    bench: Bench, nats_SN: NDArray[np.float64], other_SN: NDArray[np.float64]
) -> dict[str, Any]:
    """Gain minus the other's, by seeds and texts; relative to the other's gain where known."""
    found: Interval = paired_difference(-nats_SN, -other_SN, np.random.default_rng(0))
    row: dict[str, Any] = {"gain_nats": found.mean, "gain_nats_ci": found.ci}
    if bench.reference_N is not None:
        gain = float(bench.reference_N.mean() - other_SN.mean())
        if gain > 0:
            row |= {"relative": found.mean / gain, "relative_ci": [x / gain for x in found.ci]}
    return row


def prepare(options: argparse.Namespace) -> Bench:
    """Texts and base; without --base a small one is trained first, for --base-seconds."""
    corpus = Corpus.load(options.corpus) if options.corpus else built_in_corpus("plain", 20_000, 0)
    training = {"forms", "nested"} & set(options.part)
    base = (
        BaseLM.load(options.base)
        if options.base
        else _own_base(corpus, options, train=bool(training))
    )
    train, context = fitted_texts(base, corpus.select("train"), options.context)
    held_out = token_texts(base, corpus.select("validation"), context)
    validation = some(held_out, 0, options.validation)
    choosing = some(held_out, options.validation, options.validation + 256)
    reference_N, name = _reference(base, corpus, validation, options)
    return Bench(base, train, context, validation, choosing, reference_N, name, options)


def _own_base(corpus: Corpus, options: argparse.Namespace, *, train: bool) -> BaseLM:
    preset = overridden("quick", base_seconds=options.base_seconds).base
    settings = preset.model_copy(update={"context": options.context, "rank": options.base_rank})
    base = new_base(corpus, settings, "trained by this bench" if train else "untrained")
    if train:
        say(f"training a base for {options.base_seconds:.0f} s")
        with tempfile.TemporaryDirectory() as folder:
            train_denoising(base, corpus, settings, Path(folder, "denoising"))
            if settings.rank:
                train_low_rank(base, corpus, settings, Path(folder, "low_rank"))
    return base


def _reference(
    base: BaseLM, corpus: Corpus, texts: TokenTexts, options: argparse.Namespace
) -> tuple[NDArray[np.float64] | None, str]:
    if "entropy_nats" in corpus.info:
        return np.full(
            len(texts), float(corpus.info["entropy_nats"])
        ), "exact entropy of the corpus"
    folder = Path(options.base or "") / "reference"
    if options.base and folder.exists():
        return ReferenceLM.load(folder, base).nats(texts), "reference LM beside the base"
    return None, "none: only differences are known"


def some(texts: TokenTexts, first: int, last: int) -> TokenTexts:
    """The texts from `first` on, before `last`."""
    if len(texts) <= first:
        raise SystemExit(f"only {len(texts)} validation texts; give a smaller --validation")
    return TokenTexts(texts.names[first:last], texts.rows[first:last], texts.pad, texts.cut)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__.split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--seconds", type=float, default=90, help="of training, for each model")
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--dim", type=int, default=32)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--base", type=Path, help="folder of a trained base; default: train one")
    p.add_argument("--base-seconds", type=float, default=240, help="for the base made here")
    p.add_argument("--base-rank", type=int, default=256, help="of its low-rank stage; 0 = off")
    p.add_argument("--corpus", type=Path, help="corpus.parquet; default: 20,000 built-in recipes")
    p.add_argument("--context", type=int, default=128, help="tokens a text may have")
    p.add_argument("--validation", type=int, default=500, help="texts scored at the end")
    p.add_argument("--steps", type=int, default=20, help="a repetition of `overhead`")
    p.add_argument("--repeats", type=int, default=11, help="of `overhead` and `context`")
    p.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    return p


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen parts and print their numbers."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, options.dim)))
        return
    found: dict[str, Any] = {}
    if "context" in options.part:
        found["context"] = context(options)
    measures: dict[str, Callable[[Bench], dict[str, Any]]] = {
        "overhead": overhead, "forms": forms, "nested": nested,
    }  # fmt: skip
    if set(options.part) & set(measures):
        bench = prepare(options)
        found |= {
            name: measure(bench) for name, measure in measures.items() if name in options.part
        }
        found["base"] = {"name": bench.base.name, "parameters": bench.base.parameters}
    kept = {k: v for k, v in vars(options).items() if k not in ("json", "memory_of")}
    print(json.dumps(found | {"options": kept, "torch": torch.__version__}, default=str))


if __name__ == "__main__":
    main()
