"""Is the void finder right where the truth is known, are its p-values true, and is it fast?

python -m bench.voids --json --part truth planted  # without --part about two hours; goes on
                                                   # after what is in `--kept` already
truth: the largest cap of SphericalVoronoi, the largest gap of a circle. planted: clouds with a
ball emptied, and clouds without. calibration: p-values of clouds drawn from each null. speed:
seconds over those of the bare FAISS distances it asks for. peers: SphericalVoronoi, grid, KDE.
"""

# Shapes: N points, K coordinates.
from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench._context import say
from bench._planted import (
    ALONE,
    BENT,
    EVENS,
    PLANTS,
    THICK,
    Cloud,
    Kept,
    planted,
    rng_of,
    seeds_of,
    uniform_cloud,
)
from cllm.nulls import KINDS, Kind, null_cloud
from cllm.sphere import ExactIndex, unit
from cllm.voids import VoidSettings, find_voids

PARTS = ("truth", "planted", "calibration", "speed", "peers")
POINTS, DIMS = 500, (2, 8)  # of the clouds of `calibration`; coordinates from, to


# ---- truth -------------------------------------------------------------------------------


def truth(options: argparse.Namespace) -> dict[str, Any]:
    """Largest radius found over the true one: on S² against SphericalVoronoi, and on the circle."""
    sphere = np.array([_cap_ratio(seed) for seed in seeds_of(options, options.clouds)])
    circle = np.array([_gap_ratio(seed) for seed in seeds_of(options, options.clouds)])
    return {
        "clouds": options.clouds,
        "sphere_ratio_min": float(sphere.min()),
        "sphere_below_0.99": int((sphere < 0.99).sum()),
        "circle_ratio_min": float(circle.min()),
        "circle_ratio_max": float(circle.max()),
    }


def _cap_ratio(seed: int) -> float:
    from scipy.spatial import SphericalVoronoi

    rng = rng_of(1, seed)
    cloud = uniform_cloud(rng, int(rng.integers(200, 3000)), 3)
    exact = cloud.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    largest = ExactIndex(cloud).search(SphericalVoronoi(exact).vertices, 1)[0].max()
    return find_voids(cloud, ALONE, rng).largest_radius / float(largest)


def _gap_ratio(seed: int) -> float:
    rng = rng_of(2, seed)
    turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(20, 3000))))
    gap = np.diff(turns, append=turns[0] + 2 * np.pi).max()
    cloud = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return find_voids(cloud, ALONE, rng).largest_radius / float(gap / 2)


# ---- calibration -------------------------------------------------------------------------


def calibration(options: argparse.Namespace) -> dict[str, Any]:
    """P-values of clouds that are themselves drawn from a null, against that kind of null.

    With B null clouds p takes the values 1/(B+1), ..., 1, and clouds without any void tie: for
    the Kolmogorov-Smirnov test p is made continuous by a uniform draw over its step and its
    ties. The binomial test is of the share p <= 0.05, nothing drawn.
    """
    return {kind: _calibrated(kind, options) for kind in KINDS}


def _calibrated(kind: Kind, options: argparse.Namespace) -> dict[str, Any]:
    kept = Kept(options.kept)
    found = [
        kept.of(["p", kind, options.nulls, seed], lambda: _p_of_null(kind, seed, options.nulls))  # noqa: B023 - called at once
        for seed in seeds_of(options, options.calibrated)
    ]
    values, ties = (np.array(column) for column in zip(*found, strict=True))
    step = (1.0 + ties) / (options.nulls + 1)
    spread = values - step * rng_of(6, options.first, len(values)).random(len(values))
    below = int((values <= 0.05).sum())
    facts = {
        "clouds": len(values), "points": POINTS, "coordinates": DIMS,
        "nulls": options.nulls,
        "ks_p": float(stats.kstest(spread, "uniform").pvalue),
        "share_below_0.05": below / len(values),
        "binomial_p": float(stats.binomtest(below, len(values), 0.05).pvalue),
        "histogram": np.histogram(spread, bins=20, range=(0, 1))[0].tolist(),
    }  # fmt: skip
    say(f"calibration {kind} {facts}")
    return facts


def _p_of_null(kind: Kind, seed: int, nulls: int) -> tuple[float, int]:
    """P-value of one cloud, and how many null clouds tie with it.

    Judged as the product judges a corpus: with held-out texts, a tenth as many.
    """
    rng = rng_of(5, KINDS.index(kind), seed)
    dims = int(rng.integers(DIMS[0], DIMS[1] + 1))
    # a lopsided, stretched cloud: what the null is fitted to is never the plain sphere
    scale_K, shift_K = np.exp(0.4 * rng.standard_normal(dims)), 0.5 * rng.standard_normal(dims)
    pattern = unit(shift_K + rng.standard_normal((POINTS, dims)) * scale_K)
    cloud = null_cloud(pattern, kind, rng)
    held_out = null_cloud(pattern, kind, rng)[:50]
    how = VoidSettings(proposals=200, climbed=60, places=0, nulls=nulls)
    search = find_voids(cloud, how, rng, held_out, kinds=(kind,))
    ties = sum(score == search.largest_score for score in dict(search.null_scores)[kind])
    return dict(search.p_values)[kind], int(ties)


# ---- speed -------------------------------------------------------------------------------


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak memory of a search without nulls, each size in a process of its own."""
    rows = []
    for count in options.sizes:
        command = [sys.executable, "-m", "bench.voids", "--one", str(count)]
        command += ["--dims", str(options.dims), "--threads", str(options.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
        say(f"speed {rows[-1]}")
    return {"dims": options.dims, "sizes": rows}


def one_size(count: int, dims: int) -> dict[str, Any]:
    """A clustered cloud searched once; then the same queries asked of the bare index again."""
    import faiss

    rng = rng_of(7, count, dims)
    centres = rng.standard_normal((200, dims))
    cloud = unit(centres[rng.integers(200, size=count)] + rng.standard_normal((count, dims)))
    asked: list[tuple[int, int]] = []  # of every call: queries, neighbours
    plain = ExactIndex.ids

    def counted(index: ExactIndex, points_QD: Cloud, k: int) -> NDArray[np.int64]:
        asked.append((len(points_QD), k))
        return plain(index, points_QD, k)

    with patch.object(ExactIndex, "ids", counted):
        begun = time.perf_counter()
        found = find_voids(cloud, ALONE, rng)
        seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    bare = faiss.IndexFlatIP(dims)
    bare.add(cloud)
    queries = unit(rng.standard_normal((max(n for n, _ in asked), dims)))
    floor = 0.0
    for n, k in asked:
        begun = time.perf_counter()
        bare.search(queries[:n], k)
        floor += time.perf_counter() - begun
    return {
        "count": count, "seconds": seconds, "floor_seconds": floor, "ratio": seconds / floor,
        "calls": len(asked), "queries": sum(n for n, _ in asked), "peak_mib": peak,
        "cloud_mib": cloud.nbytes / 2**20, "enclosed": len(found.enclosed),
    }  # fmt: skip


# ---- peers -------------------------------------------------------------------------------


def peers(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and largest empty cap on S² beside SphericalVoronoi, a grid, and a KDE on the grid.

    The grid has as many points as the cloud (a Fibonacci lattice); the KDE looks for the least
    density of a kernel as wide as ten neighbours, which is what one would try first.
    """
    rows = []
    for count in options.peer_sizes:
        rng = rng_of(8, count)
        cloud = uniform_cloud(rng, count, 3)
        ways: dict[str, Callable[[Cloud], float]] = {
            "finder": lambda cloud: find_voids(cloud, ALONE, rng_of(9)).largest_radius,
            "spherical_voronoi": _by_voronoi, "grid": _by_grid, "kde": _by_kde,
        }  # fmt: skip
        row: dict[str, Any] = {"count": count}
        for name, way in ways.items():
            begun = time.perf_counter()
            radius = way(cloud)
            row[name] = {"seconds": time.perf_counter() - begun, "radius": radius}
        truth_radius = row["spherical_voronoi"]["radius"]
        for name in ways:
            row[name]["radius_ratio"] = row[name]["radius"] / truth_radius
        say(f"peers {row}")
        rows.append(row)
    return {"sizes": rows}


def _by_voronoi(cloud: Cloud) -> float:
    from scipy.spatial import SphericalVoronoi

    exact = cloud.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    return _largest(cloud, SphericalVoronoi(exact).vertices)


def _by_grid(cloud: Cloud) -> float:
    return _largest(cloud, _lattice(len(cloud)))


def _by_kde(cloud: Cloud) -> float:
    from sklearn.neighbors import KernelDensity

    width = float(np.median(ExactIndex(cloud).kth_angle(10, np.arange(min(1000, len(cloud))))))
    density = KernelDensity(bandwidth=width, rtol=1e-3).fit(cloud)
    grid = _lattice(len(cloud))
    return _largest(cloud, grid[[int(np.argmin(density.score_samples(grid)))]])


def _lattice(count: int) -> NDArray[np.float64]:
    """Evenly spread points of S² (Fibonacci lattice), (N, 3)."""
    height = 1 - 2 * (np.arange(count) + 0.5) / count
    turn = np.arange(count) * np.pi * (3 - 5**0.5)
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)


def _largest(cloud: Cloud, places: NDArray[np.float64]) -> float:
    return float(ExactIndex(cloud).search(places, 1)[0].max())


# ---- the command -------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(prog="python -m bench.voids", description=__doc__.split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--clouds", type=int, default=100, help="of `truth`")
    p.add_argument("--seeds", type=int, default=5, help="of each plant")
    p.add_argument("--judged", type=int, default=2000, help="points of a plant with p-values")
    p.add_argument("--even-seeds", type=int, default=40, help="of each even cloud")
    p.add_argument("--calibrated", type=int, default=500, help="clouds of each null")
    p.add_argument("--nulls", type=int, default=19, help="null clouds that judge each of them")
    p.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    p.add_argument("--peer-sizes", type=int, nargs="+", default=[10_000, 100_000])
    p.add_argument("--dims", type=int, default=32, help="coordinates of `speed`")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--first", type=int, default=0, help="first seed of truth, planted, calibration")
    p.add_argument(
        "--kept", type=Path, default=Path("runs/bench-voids.jsonl"), help="finished cases"
    )
    p.add_argument("--one", type=int, help=argparse.SUPPRESS)
    p.set_defaults(plants=PLANTS, evens=EVENS, thick=THICK, bent=BENT)
    return p


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen parts and print their numbers."""
    import faiss

    options = parser().parse_args(arguments)
    faiss.omp_set_num_threads(options.threads)
    if options.one:
        print(json.dumps(one_size(options.one, options.dims)))
        return
    measures: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "truth": truth, "planted": planted, "calibration": calibration, "speed": speed,
        "peers": peers,
    }  # fmt: skip
    found = {name: measures[name](options) for name in options.part}
    told = {k: v for k, v in vars(options).items() if k not in ("json", "one", "kept")}
    print(json.dumps(found | {"options": told}))


if __name__ == "__main__":
    main()
