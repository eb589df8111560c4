"""Meaning as negation, put to the test: `cllm study negation --json`.

What the article claims of tiny LSTMs, measured again with controls that it lacks: negatives one
step outside a rule against random ones and half of each; chains of models that learn from each
other's labels, with true examples among them; differences fed in. Each seed is a Ray task. Goes on
where it stopped.
"""

# Shapes: E models, B sequences, L numbers of each.
from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.files import digest, read_json, write_json
from studies.boundaries import (
    Ensemble,
    Numbers,
    Shape,
    accuracies,
    broken_pivot,
    broken_zigzag,
    fit_ensemble,
    in_order,
    out_of_order,
    pivot,
    swapped,
    zigzag,
)
from studies.negation_told import draw_claims, told_of

log = logging.getLogger(__name__)

METHOD = 2  # raised when the same seed would be measured otherwise
BATCH = 32
LENGTHS = (6, 12)  # that are trained on
SOFT, MIX = "soft", "0.3, labels of the last"  # the mix of that share, but none of it is told
CHAINS = {"0": 0.0, "0.1": 0.1, "0.2": 0.2, "0.3": 0.3, "0.5": 0.5, SOFT: 0.0, MIX: 0.3}
GENERATIONS = 5  # after the one that has true labels
SHAPES = {"plain": Shape(8), "wide": Shape(16), "neighbour": Shape(8, "neighbour"),
          "anchor": Shape(8, "anchor")}  # fmt: skip
STEPS = {"sorted": 1600, "delta": 2000}
CHECKS = 10  # of the tasks of differences, over their training
TESTED = {"sorted": 500, "delta": 250}  # of each label
Facts = dict[str, Any]
Draw = Callable[[int, int, np.random.Generator], Numbers]
Tests = Mapping[str, tuple[Numbers, Numbers]]  # in order, and not


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, compare with what is claimed, and print one JSON object."""
    p = argparse.ArgumentParser(
        prog="cllm study negation", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    p.add_argument("--seeds", type=int, default=20, help="of sorted sequences and of chains")
    p.add_argument("--delta-seeds", type=int, default=10, help="of zigzag and pivot")
    p.add_argument("--share-of-steps", type=float, default=1.0, help="less of them, for a look")
    p.add_argument("--address", help="of a Ray cluster; else this machine")
    p.add_argument("--out", type=Path, default=Path("runs/negation"), help="a folder")
    options = p.parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if min(options.seeds, options.delta_seeds) < 2:
            raise InputError("--seeds and --delta-seeds must be 2 or more: claims have spreads")
        if not 0 < options.share_of_steps <= 1:
            raise InputError("--share-of-steps must be above 0, and 1 at most")
        begun = time.perf_counter()
        rows = rows_of(options)
        told = told_of(rows) | {
            "seeds": {task: len(found) for task, found in rows.items()}, "method": METHOD,
            "steps": steps_of(options), "seconds": round(time.perf_counter() - begun),
        }  # fmt: skip
        write_json(options.out / "negation.json", told)
        draw_claims(options.out / "negation.png", told)
        print(json.dumps(told) if options.json else "\n".join(told["words"]))


def rows_of(options: argparse.Namespace) -> dict[str, list[Facts]]:
    """What each seed of each task came to: those kept in `--out`, and those that lack."""
    seeds = {"sorted": options.seeds, "delta": options.delta_seeds}
    steps = steps_of(options)
    wanted = {
        (task, seed): options.out / f"{task}-{seed}-{digest(str((steps[task], METHOD)))[:8]}.json"
        for task, count in seeds.items() for seed in range(count)
    }  # fmt: skip
    missing = [unit for unit, path in wanted.items() if not path.exists()]
    for (task, seed), found in _over_ray(missing, steps, options.address):
        write_json(wanted[task, seed], found)
        log.info("%s, seed %d: there", task, seed)
    return {
        task: [read_json(path) for (of, _), path in wanted.items() if of == task] for task in seeds
    }


def steps_of(options: argparse.Namespace) -> dict[str, int]:
    """Of each task."""
    return {task: max(1, round(n * options.share_of_steps)) for task, n in STEPS.items()}


def _over_ray(
    units: Sequence[tuple[str, int]], steps: Mapping[str, int], address: str | None
) -> Iterator[tuple[tuple[str, int], Facts]]:
    """Seeds side by side, a core each, as they end."""
    if not units:
        return
    import ray

    from cluster.joining import joined

    with joined(address, for_data=False):
        task = ray.remote(num_cpus=1, max_retries=3)(measured)
        running = {task.remote(name, seed, steps[name]): (name, seed) for name, seed in units}
        while running:
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(ended), ray.get(ended)


def measured(task: str, seed: int, steps: int) -> Facts:
    """One seed of a task, on one core."""
    torch.set_num_threads(1)
    return {"sorted": of_sorted, "delta": of_deltas}[task](seed, steps)


def of_sorted(seed: int, steps: int) -> Facts:
    """Accuracies by negatives, and of chains of models that learn from each other's labels."""
    rng, generator = np.random.default_rng([seed, 1]), torch.Generator().manual_seed(seed)
    tests = _sorted_tests(np.random.default_rng([seed, 2]))
    arms = {"baseline": 1.0, "concept": 0.0, "half": 0.5}  # share of random negatives
    shares_E1 = np.array(list(arms.values()))[:, None]

    def true_batch(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        length = _length(rng)
        is_true_B, random_B = rng.random(BATCH) < 0.5, rng.random(BATCH)
        wrong_EBL = np.where(
            (random_B < shares_E1)[..., None],
            out_of_order(BATCH, length, rng), swapped(BATCH, length, rng),
        )  # fmt: skip
        numbers_EBL = np.where(is_true_B[:, None], in_order(BATCH, length, rng), wrong_EBL)
        return _tensors(numbers_EBL, np.broadcast_to(is_true_B, (len(arms), BATCH)))

    models = Ensemble([Shape()] * len(arms), generator)
    fit_ensemble(models, true_batch, steps)
    found = dict(zip(arms, _tested(models, tests), strict=True))
    return found | {"chain": _chain(steps, rng, generator, tests)}


def _chain(steps: int, rng: np.random.Generator, generator: torch.Generator, tests: Tests) -> Facts:
    """Generation 0 of true labels and swaps; each next one begins anew on the last one's labels.

    By share of true examples among them, and with soft labels without any. Tested at length 20.
    """
    tests = {name: tests[name] for name in ("easy", "hard")}

    def true_batch(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers_BL, right_B = _truth(_length(rng), rng)
        return _tensors(numbers_BL[None], right_B[None])

    teacher = Ensemble([Shape()], generator)
    fit_ensemble(teacher, true_batch, steps)
    told = {name: _tested(teacher, tests) for name in CHAINS}
    for _ in range(GENERATIONS):
        teacher = _taught(teacher, steps, rng, generator)
        for name, found in zip(CHAINS, _tested(teacher, tests), strict=True):
            told[name].append(found)
    return told


def _taught(
    teacher: Ensemble, steps: int, rng: np.random.Generator, generator: torch.Generator
) -> Ensemble:
    """The next generation of every chain, on a third each of sorted, random and swapped.

    And a share of true examples; half of these are sorted, half swapped.
    """
    shares_E1 = np.array(list(CHAINS.values()))[:, None]
    soft_E1 = torch.tensor([[name == SOFT] for name in CHAINS])
    told_E1 = torch.tensor([[name != MIX] for name in CHAINS])

    def batch(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        length, kind_B1 = _length(rng), rng.integers(3, size=(BATCH, 1))
        drawn = [draw(BATCH, length, rng) for draw in (in_order, out_of_order, swapped)]
        numbers_1BL = torch.from_numpy(np.choose(kind_B1, drawn))[None]
        true_BL, right_B = _truth(length, rng)
        true_EB = torch.from_numpy(rng.random(BATCH) < shares_E1)
        numbers_EBL = torch.where(true_EB[..., None], torch.from_numpy(true_BL), numbers_1BL)
        asked_EBL = numbers_EBL if len(teacher.shapes) > 1 else numbers_EBL.flatten(0, 1)[None]
        said_EB = teacher.says(asked_EBL).reshape(true_EB.shape)
        labels_EB = torch.where(soft_E1, said_EB, (said_EB > 0.5).float())
        right_EB = torch.from_numpy(right_B).float()
        return numbers_EBL, torch.where(true_EB & told_E1, right_EB, labels_EB)

    models = Ensemble([Shape()] * len(CHAINS), generator)
    fit_ensemble(models, batch, steps)
    return models


def _truth(length: int, rng: np.random.Generator) -> tuple[Numbers, NDArray[np.bool_]]:
    """Half in order, half swapped."""
    right_B = rng.random(BATCH) < 0.5
    right_BL, wrong_BL = in_order(BATCH, length, rng), swapped(BATCH, length, rng)
    return np.where(right_B[:, None], right_BL, wrong_BL), right_B


def of_deltas(seed: int, steps: int) -> Facts:
    """Accuracy at length 40, of zigzag and pivot, by what is fed in."""
    rng, generator = np.random.default_rng([seed, 3]), torch.Generator().manual_seed(seed)
    return {
        "zigzag": _by_shape(zigzag, broken_zigzag, steps, rng, generator),
        "pivot": _by_shape(pivot, broken_pivot, steps, rng, generator),
    }


def _by_shape(
    rule: Draw, broken: Draw, steps: int, rng: np.random.Generator, generator: torch.Generator
) -> Facts:
    """The best and the last of the checks of each model."""
    models, seen = Ensemble(list(SHAPES.values()), generator), []

    def batch(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        length, right_B = _length(rng), rng.random(BATCH) < 0.5
        right_BL, wrong_BL = rule(BATCH, length, rng), broken(BATCH, length, rng)
        numbers_BL, all_of = np.where(right_B[:, None], right_BL, wrong_BL), (len(SHAPES), BATCH)
        return _tensors(
            np.broadcast_to(numbers_BL, (*all_of, length)), np.broadcast_to(right_B, all_of)
        )

    def check(step: int) -> None:
        if step % max(1, steps // CHECKS) == 0:
            count = TESTED["delta"]
            seen.append(accuracies(models, rule(count, 40, rng), broken(count, 40, rng)))

    fit_ensemble(models, batch, steps, check)
    by_shape = zip(SHAPES, np.array(seen).T.tolist(), strict=True)
    return {name: {"best": max(some), "last": some[-1]} for name, some in by_shape}


def _length(rng: np.random.Generator) -> int:
    return int(rng.integers(LENGTHS[0], LENGTHS[1] + 1))


def _tensors(
    numbers_EBL: Numbers, right_EB: NDArray[np.bool_]
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(numbers_EBL), torch.tensor(right_EB, dtype=torch.float32)


def _sorted_tests(rng: np.random.Generator) -> Tests:
    """Fresh sequences that are in order, and that are not, by test; one draw for all models."""
    n = TESTED["sorted"]
    right = in_order(n, 20, rng)
    return {
        "easy": (right, out_of_order(n, 20, rng)), "hard": (right, swapped(n, 20, rng)),
        "long": (in_order(n, 40, rng), swapped(n, 40, rng)),
    }  # fmt: skip


def _tested(models: Ensemble, tests: Tests) -> list[Facts]:
    """Of each model, its accuracy by test."""
    by_test = {name: accuracies(models, *sets) for name, sets in tests.items()}
    return [
        {name: found[place] for name, found in by_test.items()}
        for place in range(len(models.shapes))
    ]


if __name__ == "__main__":
    main()
