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
# bent sheets: products of circles
BENT = [(2, 8, 4000, 80), (4, 32, 10_000, 120), (4, 32, 50_000, 60)]
# intrinsic dimension, coordinates, points, bent
EVENS = [(2, 3, 2000, False), (4, 32, 2000, False), (8, 9, 2000, False), (2, 8, 2000, True)]
ALONE = VoidSettings(nulls=0, places=0)
JUDGED = VoidSettings(places=0)  # places are no voids: they have no p-values
RANDOM = 200  # places at which nothing was planted
METHOD = 3  # raised when a case would be measured otherwise


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


def torus_cloud(rng: np.random.Generator, count: int, dims: int) -> Cloud:
    """Uniform on the product of `dims` circles, (N, 2 dims): a sheet that no subspace holds."""
    turn_NC = rng.uniform(0, 2 * np.pi, (count, dims))
    return unit(np.concatenate([np.cos(turn_NC), np.sin(turn_NC)], axis=1))


def sphere_cloud(rng: np.random.Generator, count: int, dims: int) -> Cloud:
    """Uniform on the sphere of `dims` dimensions, (N, dims + 1)."""
    return uniform_cloud(rng, count, dims + 1)


def uniform_cloud(rng: np.random.Generator, count: int, dims: int) -> Cloud:
    """Uniform on the sphere, (N, K)."""
    return unit(rng.standard_normal((count, dims)))


def planted(options: argparse.Namespace) -> dict[str, Any]:
    """Share of emptied balls that are found as an enclosed void; of the smaller clouds, that stand.

    The M-dimensional sphere is turned into K coordinates; the ball holds `removed` of its points.
    Null clouds cost 57 searches a plant, so p-values are asked of `--judged` points at most.
    `recall` leaves out sheets that noise makes thick (`recall_by_thickness`) and bent ones,
    products of circles (`recall_bent`). `by_luck`: the share of places where nothing was planted
    that pass for found.
    """
    kept, rows = Kept(options.kept), []
    seeds = seeds_of(options, options.seeds)
    cases = [
        *((*case, 0.0, False) for case in options.plants),
        *((*case, False) for case in options.thick),
        *((*case, 0.0, True) for case in options.bent),
    ]
    for *case, thick, bent in cases:
        for seed in seeds:
            judged = case[2] <= options.judged and not thick and not bent
            key = ["plant", *case, thick, bent, seed, judged]
            rows.append(kept.of(key, lambda: plant(*case, seed, thick, bent, judged)))  # noqa: B023 - called at once
            say(f"planted {rows[-1]}")
    thin = [row for row in rows if not row["thick"] and not row["bent"]]
    bent = [row for row in rows if row["bent"]]
    by_thickness = {
        str(thick): _share([row["found"] for row in rows if row["thick"] == thick])
        for thick in sorted({row["thick"] for row in rows} - {0.0})
    }
    seeds = seeds_of(options, options.even_seeds)
    chance: dict[bool, list[bool]] = {False: [], True: []}  # by whether the cloud is bent
    for case in options.evens:
        for seed in seeds:
            found = kept.of(["even", *case, seed], lambda: by_chance(*case, seed))  # noqa: B023 - called at once
            chance[case[-1]].append(found)
    say(f"even clouds {chance}")
    return {
        "plants": len(thin),
        "recall": _share([row["found"] for row in thin]),
        "recall_by_thickness": by_thickness,
        "recall_bent": _share([row["found"] for row in bent]),
        "recall_standing": _share([row["stands"] for row in rows if "stands" in row]),
        "by_luck": float(np.mean([row["by_luck"] for row in thin])),
        "luck_places": sum(row["luck_places"] for row in thin),
        "even_clouds": len(chance[False]),
        "even_with_a_void": _share(chance[False]),
        "even_bent_with_a_void": _share(chance[True]),
        "rows": rows,
    }


def plant(
    dims: int,
    wide: int,
    count: int,
    removed: int,
    seed: int,
    thick: float,
    bent: bool,
    judged: bool,
) -> dict[str, Any]:
    """One cloud with its nearest `removed` points to a place taken out; was the place found?

    Found: some enclosed void is at least 0.9 times as wide as the emptied ball, and its centre
    lies within half that ball's radius of the ball's. Every plant is counted, whatever larger
    voids there are.
    """
    rng = rng_of(3, dims, wide, count, removed, seed)
    drawn = torus_cloud if bent else sphere_cloud
    flat, held_out, places = (drawn(rng, n, dims) for n in (count + removed, count // 10, 1))
    place = places[0]
    far = angle(place, flat)
    radius = float(np.sort(far)[removed])
    turn = np.linalg.qr(rng.standard_normal((wide, wide)))[0][: len(place)]

    def laid_out(points_NM: Cloud) -> Cloud:
        noise_NK = rng.standard_normal((len(points_NM), wide)) if thick else 0.0
        return unit(points_NM @ turn + thick / wide**0.5 * noise_NK)

    cloud = laid_out(flat[far >= radius])
    held_out = laid_out(held_out[angle(place, held_out) >= radius])
    begun = time.perf_counter()
    search = find_voids(cloud, JUDGED if judged else ALONE, rng, held_out)
    seconds = round(time.perf_counter() - begun, 1)
    there = _found(search.enclosed, place @ turn, radius)
    other_RM = drawn(rng, RANDOM, dims)
    other_RM = other_RM[angle(other_RM, place) > 2 * radius]
    row = {
        "dims": dims, "wide": wide, "count": count, "removed": removed, "seed": seed,
        "thick": thick, "bent": bent, "sheet": search.sheet_dim, "radius": radius,
        "found": bool(there), "voids": len(search.enclosed),
        "largest": any(void.radius >= search.largest_radius - 1e-6 for void in there),
        "luck_places": len(other_RM),
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


def by_chance(dims: int, wide: int, count: int, bent: bool, seed: int) -> bool:
    """Whether an even cloud yields any void at p <= 0.05.

    By the quick search: how often depends on its null clouds, which are searched as quickly.
    """
    rng = rng_of(4, dims, wide, count, seed)
    turn = np.linalg.qr(rng.standard_normal((wide, wide)))[0]
    drawn = torus_cloud if bent else sphere_cloud
    flat = (drawn(rng, n, dims) for n in (count, count // 10))
    cloud, held_out = (unit(points_NM @ turn[: points_NM.shape[1]]) for points_NM in flat)
    how = VoidSettings.quick().model_copy(update={"places": 0})
    return any(void.stands for void in find_voids(cloud, how, rng, held_out).voids)


def _share(flags: Sequence[bool]) -> dict[str, Any] | None:
    if not flags:
        return None
    share = wilson(sum(flags), len(flags))
    return {"share": share.mean, "ci": share.ci}
