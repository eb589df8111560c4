"""Plants: clouds with a ball emptied, and clouds without; a part of `bench.voids`."""

# Shapes: N points, K coordinates, M coordinates of the planted sphere, R random places.
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._context import say
from cllm.metrics import wilson
from cllm.sphere import angle, unit
from cllm.voids import Void, VoidSettings, find_voids

Cloud = NDArray[np.float32]
# intrinsic dimension, coordinates, points left, points removed
PLANTS = [
    (2, 3, 2000, 30), (2, 16, 10_000, 60), (2, 64, 50_000, 100),
    (4, 5, 2000, 40), (4, 32, 10_000, 80), (4, 64, 50_000, 150),
    (8, 9, 2000, 60), (8, 32, 10_000, 100), (8, 64, 50_000, 200),
]  # fmt: skip
# the first of them as thick sheets: the norm of noise, on points of norm 1
THICK = [(2, 8, 8000, 300, thickness) for thickness in (0.003, 0.01, 0.03, 0.1)]
EVENS = [(2, 3, 2000), (4, 32, 2000), (8, 9, 2000)]
ALONE = VoidSettings(nulls=0, places=0)
JUDGED = VoidSettings(places=0)  # places are no voids: they have no p-values
RANDOM = 200  # places at which nothing was planted
METHOD = 2  # raised when a case would be measured otherwise


class Kept:
    """Results of finished cases, a JSON line each; a bench that is run again goes on after them."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self.known = {row["case"]: row["found"] for row in map(json.loads, lines)}

    def of(self, case: Sequence[Any], measure: Callable[[], Any]) -> Any:  # noqa: ANN401 - JSON
        """What a case gave, measured unless it is known."""
        name = json.dumps([METHOD, *case])
        if name not in self.known:
            self.known[name] = measure()
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as file:
                    file.write(json.dumps({"case": name, "found": self.known[name]}) + "\n")
        return self.known[name]


def rng_of(*numbers: int) -> np.random.Generator:
    """A generator of its own for each numbered case."""
    return np.random.default_rng(numbers)


def seeds_of(options: argparse.Namespace, count: int) -> range:
    """As many seeds, from the first that is asked for."""
    return range(options.first, options.first + count)


def uniform_cloud(rng: np.random.Generator, count: int, dims: int) -> Cloud:
    """Uniform on the sphere, (N, K)."""
    return unit(rng.standard_normal((count, dims)))


def planted(options: argparse.Namespace) -> dict[str, Any]:
    """Share of emptied balls that are found as an enclosed void; of the smaller clouds, that stand.

    The M-dimensional sphere is turned into K coordinates; the ball holds `removed` of its points.
    Null clouds cost 57 searches a plant, so p-values are asked of `--judged` points at most.
    `recall_by_thickness`: of sheets that noise makes thick, which `recall` leaves out. `by_luck`:
    the share of places where nothing was planted that pass for found.
    """
    kept, rows = Kept(options.kept), []
    seeds = seeds_of(options, options.seeds)
    for *case, thick in [*((*case, 0.0) for case in options.plants), *options.thick]:
        for seed in seeds:
            judged = case[2] <= options.judged and not thick
            key = ["plant", *case, thick, seed, judged]
            rows.append(kept.of(key, lambda: plant(*case, seed, thick, judged)))  # noqa: B023 - called at once
            say(f"planted {rows[-1]}")
    thin = [row for row in rows if not row["thick"]]
    by_thickness = {
        str(thick): _share([row["found"] for row in rows if row["thick"] == thick])
        for thick in sorted({row["thick"] for row in rows} - {0.0})
    }
    seeds = seeds_of(options, options.even_seeds)
    chance = [
        kept.of(["even", *case, seed], lambda: by_chance(case, seed))  # noqa: B023 - called at once
        for case in options.evens
        for seed in seeds
    ]
    say(f"even clouds {sum(chance)} of {len(chance)}")
    return {
        "plants": len(thin),
        "recall": _share([row["found"] for row in thin]),
        "recall_by_thickness": by_thickness,
        "recall_standing": _share([row["stands"] for row in rows if "stands" in row]),
        "by_luck": float(np.mean([row["by_luck"] for row in thin])),
        "even_clouds": len(chance),
        "even_with_a_void": _share(chance),
        "rows": rows,
    }


def plant(
    dims: int, wide: int, count: int, removed: int, seed: int, thick: float, judged: bool
) -> dict[str, Any]:
    """One cloud with its nearest `removed` points to a place taken out; was the place found?

    Found: some enclosed void is at least 0.9 times as wide as the emptied ball, and its centre
    lies within half that ball's radius of the ball's. Every plant is counted, whatever larger
    voids there are.
    """
    rng = rng_of(3, dims, wide, count, removed, seed)
    flat, held_out = (uniform_cloud(rng, n, dims + 1) for n in (count + removed, count // 10))
    place = uniform_cloud(rng, 1, dims + 1)[0]
    far = angle(place, flat)
    radius = float(np.sort(far)[removed])
    turn = np.linalg.qr(rng.standard_normal((wide, wide)))[0][: dims + 1]

    def laid_out(points_NM: Cloud) -> Cloud:
        noise_NK = rng.standard_normal((len(points_NM), wide)) if thick else 0.0
        return unit(points_NM @ turn + thick / wide**0.5 * noise_NK)

    cloud = laid_out(flat[far >= radius])
    held_out = laid_out(held_out[angle(place, held_out) >= radius])
    begun = time.perf_counter()
    search = find_voids(cloud, JUDGED if judged else ALONE, rng, held_out)
    seconds = round(time.perf_counter() - begun, 1)
    there = _found(search.enclosed, place @ turn, radius)
    other_RM = uniform_cloud(rng, RANDOM, dims + 1)
    other_RM = other_RM[angle(other_RM, place) > 2 * radius]
    row = {
        "dims": dims, "wide": wide, "count": count, "removed": removed, "seed": seed,
        "thick": thick, "sheet": search.sheet_dim, "radius": radius,
        "found": bool(there), "voids": len(search.enclosed),
        "largest": any(void.radius >= search.largest_radius - 1e-6 for void in there),
        "by_luck": float(np.mean([
            bool(_found(search.enclosed, other @ turn, radius)) for other in other_RM
        ])),
        "seconds": seconds,
    }  # fmt: skip
    return row | {"stands": any(void.stands for void in there)} if judged else row


def _found(voids: Sequence[Void], place_K: NDArray[Any], radius: float) -> list[Void]:
    return [
        void
        for void in voids
        if void.radius >= 0.9 * radius and angle(void.centre_K, place_K) <= radius / 2
    ]


def by_chance(case: tuple[int, int, int], seed: int) -> bool:
    """Whether an even cloud (dimensions, coordinates, points) yields any void at p <= 0.05.

    By the quick search: how often depends on its null clouds, which are searched as quickly.
    """
    dims, wide, count = case
    rng = rng_of(4, dims, wide, count, seed)
    turn = np.linalg.qr(rng.standard_normal((wide, wide)))[0][: dims + 1]
    cloud, held_out = (unit(uniform_cloud(rng, n, dims + 1) @ turn) for n in (count, count // 10))
    how = VoidSettings.quick().model_copy(update={"places": 0})
    return any(void.stands for void in find_voids(cloud, how, rng, held_out).voids)


def _share(flags: Sequence[bool]) -> dict[str, Any] | None:
    if not flags:
        return None
    share = wilson(sum(flags), len(flags))
    return {"share": share.mean, "ci": share.ci}
