"""Does the space know what it has not seen? `cllm study knows`, without any decoder.

A fifth of the (dish, main ingredient) pairs is withheld from the built-in recipes. If withheld
recipes lie in emptier places than held-out emitted ones, voids can find them: the AUROC of the
void score says so, at every prefix length, over seeds. The prefix is chosen on validation.
"""

# Shapes: N training texts, M held-out or withheld texts, K coordinates of a prefix, S seeds.
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm import pipeline
from cllm.base import BaseLM
from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import Corpus, built_in_corpus
from cllm.field import Field
from cllm.files import digest, read_json, write_json
from cllm.losses import prefix_lengths
from cllm.metrics import Interval, bootstrap, bootstrap_of, few
from cllm.recipes import Richness, combination
from cllm.recipes.grammar import Grammar
from cllm.run import SHIPPED, RunFolder
from cllm.settings import RunSettings, overridden
from cllm.sphere import angle, prefix
from cllm.unseen import auroc as auroc_of
from cllm.voids import VoidSettings, find_voids, overlap, void_scores

Scores = NDArray[np.float64]
Vectors = NDArray[np.float32]
Measured = list[dict[str, dict[str, Scores]]]  # of each seed, by kind and combination
KINDS = ("emitted", "withheld")
SPLITS = ("validation", "test")
DRAWS = 1000  # of the bootstrap
OVERLAP = VoidSettings().max_overlap
BASE_SECONDS = 1400  # as the shipped base
METHOD = 2  # raised when `inside` would be measured otherwise


@dataclass(frozen=True)
class Cell:
    """One richness, corpus size and withheld fifth; each seed has its own texts and model."""

    richness: Richness
    texts: int
    fold: int = 0

    @property
    def name(self) -> str:
        """As in the output and its folders."""
        return f"{self.richness}-{self.texts}" + (f"-fold{self.fold}" if self.fold else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, measure, and print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        cells = [Cell(r, n, options.fold) for r in options.richness for n in options.texts]
        found = {}
        for cell in cells:
            told = summary([unit(cell, seed, options) for seed in range(options.seeds)])
            places = [
                inside(cell, seed, told["chosen_prefix"], options) for seed in range(options.seeds)
            ]
            found[cell.name] = told | {"inside": pooled(places)}
        write_json(options.out / "knows.json", found)
        print(json.dumps(found))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(prog="cllm study knows", description=__doc__)
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--richness", nargs="+", choices=("plain", "rich"), default=["plain", "rich"])
    p.add_argument("--texts", nargs="+", type=int, default=[5_000, 20_000])
    p.add_argument("--fold", type=int, default=0, help="which fifth is withheld, 0 to 2")
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=240, help="of training, for each model")
    p.add_argument(
        "--base-seconds", type=float, default=BASE_SECONDS, help="for a base trained here"
    )
    p.add_argument("--dim", type=int, default=32)
    p.add_argument("--recipes", type=int, default=1000, help="withheld ones encoded, a split")
    p.add_argument("--aim", choices=("text", "voids"), default="voids", help="of the training")
    p.add_argument("--set", action="append", default=[], help="any setting, as in `cllm train`")
    p.add_argument("--out", type=Path, default=Path("runs/knows"))
    return p


def unit(cell: Cell, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of one model's held-out and withheld recipes; kept, so that a study goes on."""
    settings = overridden(
        "quick",
        dim=options.dim,
        seed=seed,
        seconds=options.seconds,
        changes=options.set,
        aim=options.aim,
    )
    run = RunFolder(options.out / f"{cell.name}-{seed}")
    base = BaseLM.load(base_of(cell, options)).hash
    made_from = digest(
        settings.model_dump_json(), cell.name, str(options.recipes), base, pipeline.SWAPS
    )
    kept = run.path / "scores.json"
    if not (kept.exists() and read_json(kept)["made_from"] == made_from):
        train(run, cell, settings, options)
        scores = measured(run, cell, seed, options.recipes)
        write_json(kept, {"made_from": made_from} | scores)
    corpus, unseen = run.load_corpus(), withheld_recipes(cell, seed, options.recipes)
    both: dict[str, Mapping[str, Sequence[str]]] = {
        "emitted": {s: corpus.select(s).texts for s in SPLITS},
        "withheld": unseen,
    }
    return read_json(kept) | {
        "pairs": {
            split: {kind: [str(combination(t)) for t in both[kind][split]] for kind in both}
            for split in SPLITS
        }
    }


def withheld_recipes(cell: Cell, seed: int, recipes: int) -> dict[str, list[str]]:
    """As many recipes of withheld combinations for each held-out split."""
    grammar, rng = Grammar(cell.richness, cell.fold), np.random.default_rng([seed, 11])
    return {s: [grammar.sample(rng, withheld=True) for _ in range(recipes)] for s in SPLITS}


def train(run: RunFolder, cell: Cell, settings: RunSettings, options: argparse.Namespace) -> None:
    """Corpus and CLLM of one seed, over a base shared by all seeds."""
    corpus = built_in_corpus(cell.richness, cell.texts, settings.seed, cell.fold)
    prepare(run, corpus, base_of(cell, options))
    pipeline.train_model(
        run, settings.model_copy(update={"void_dim": settings.model.dim}), reuse=True
    )


def prepare(run: RunFolder, corpus: Corpus, base: Path) -> None:
    """A corpus and a base that was made before, where they are not in the run already."""
    known = run.notes().get("base", {})
    if known.get("hash") != BaseLM.load(base).hash or known.get("corpus_hash") != corpus.hash:
        pipeline.keep_corpus(run, corpus)
        pipeline.borrow_base(run, base)


def base_of(cell: Cell, options: argparse.Namespace) -> Path:
    """`shared_base` of a cell, of the largest corpus there is."""
    return shared_base(
        cell.richness, cell.fold, max(options.texts), options.base_seconds, options.out
    )


def shared_base(richness: Richness, fold: int, texts: int, seconds: float, out: Path) -> Path:
    """The shipped base where it has not seen what the fold withholds; else one trained here, once.

    The shipped one is of plain recipes of fold 0.
    """
    if richness == "plain" and not fold:
        return RunFolder(SHIPPED).base
    run = RunFolder(out / (f"base-{richness}" + (f"-fold{fold}" if fold else "")))
    settings = overridden("quick", base_seconds=seconds)
    if not run.corpus.exists():
        pipeline.keep_corpus(run, built_in_corpus(richness, texts, 0, fold))
    pipeline.make_base(run, settings.base, reuse=True)
    return run.base


def measured(run: RunFolder, cell: Cell, seed: int, recipes: int) -> dict[str, Any]:
    """Void score and d_k of every held-out and withheld recipe, by split and prefix length."""
    model, corpus = run.load_model(), run.load_corpus()
    cloud_ND = model.encode(corpus.select("train").texts)
    scores: dict[str, Any] = {}
    for split, withheld in withheld_recipes(cell, seed, recipes).items():
        both = {"emitted": corpus.select(split).texts, "withheld": withheld}
        vectors = {kind: model.encode(texts) for kind, texts in both.items()}
        scores[split] = {
            str(k): {
                kind: dict(
                    zip(
                        ("rho", "d_k"),
                        (x.tolist() for x in void_scores(prefix(cloud_ND, k), prefix(v, k))),
                        strict=True,
                    )
                )
                for kind, v in vectors.items()
            }
            for k in (*lengths(model.config.dim), model.config.dim)
        }
    return scores


def inside(cell: Cell, seed: int, k: int, options: argparse.Namespace) -> dict[str, float]:
    """Shares of withheld and of emitted test recipes that lie in voids, and in matched balls.

    `voids`: in the ball of a standing void; `elsewhere`: in balls that touch no such void, around
    the finder's proposals, of the radii of the voids that are `matched`; `void_like`: in a void
    by their own score (`Field.is_void`).
    """
    run = RunFolder(options.out / f"{cell.name}-{seed}")
    kept, model = run.path / f"inside-{k}.json", run.load_model()
    made_from = f"{model.hash} {options.recipes} {METHOD}"
    if kept.exists() and read_json(kept)["made_from"] == made_from:
        shares: dict[str, float] = read_json(kept)["shares"]
        return shares
    corpus, grammar = run.load_corpus(), Grammar(cell.richness, cell.fold)
    rng = np.random.default_rng([seed, 12])
    withheld = [grammar.sample(rng, withheld=True) for _ in range(options.recipes)]
    cloud_ND, held_out_MD = (model.encode(corpus.select(s).texts) for s in ("train", "validation"))
    search = find_voids(prefix(cloud_ND, k), VoidSettings.quick(), rng, prefix(held_out_MD, k))
    chance = np.inf if search.chance is None else search.chance
    field = Field.of(cloud_ND, held_out_MD, k, chance, rng)
    voids = [void for void in search.voids if void.stands]
    radius_V = np.array([void.radius for void in voids])
    centre_VK = np.array([void.centre_K for void in voids]).reshape(-1, k)
    pool_PK = prefix(field.proposals(50 * max(2, len(voids)), rng), k)
    other_EK, matched_E = elsewhere(pool_PK, centre_VK, radius_V)
    balls = {
        "voids": (centre_VK, radius_V),
        "matched": (centre_VK[matched_E], radius_V[matched_E]),
        "elsewhere": (other_EK, radius_V[matched_E]),
    }
    shares = {f"balls_in_{place}": float(len(radii)) for place, (_, radii) in balls.items()}
    for kind, texts in (("withheld", withheld), ("emitted", corpus.select("test").texts)):
        vectors_MD = model.encode(texts)
        for place, (ball_VK, radii) in balls.items():
            far_MV = angle(prefix(vectors_MD, k)[:, None], ball_VK[None])
            shares[f"{kind}_in_{place}"] = float((far_MV < radii).any(axis=1).mean())
        shares[f"{kind}_void_like"] = float(field.is_void(vectors_MD).mean())
    write_json(kept, {"made_from": made_from, "shares": shares})
    return shares


def elsewhere(
    pool_PK: Vectors, centre_VK: Vectors, radius_V: Scores
) -> tuple[Vectors, NDArray[np.int64]]:
    """For voids' balls ones as large elsewhere, from a pool: centres, and the voids they match.

    It touches no void's ball and, as voids do not, hardly overlaps another of its own kind; a void
    that leaves no room for one has none.
    """
    far_PV = angle(pool_PK[:, None], centre_VK[None])
    rows: list[int] = []
    matched: list[int] = []
    for void, radius in enumerate(radius_V):
        apart_P = (far_PV > radius_V + radius).all(axis=1)
        for row, other in zip(rows, matched, strict=True):
            apart_P &= overlap(angle(pool_PK[row], pool_PK), radius_V[other], radius) <= OVERLAP
        if apart_P.any():
            rows.append(int(np.argmax(apart_P)))
            matched.append(void)
    return pool_PK[rows], np.array(matched, dtype=np.int64)


def pooled(places: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Each share's mean with its interval over seeds; of withheld recipes, voids over elsewhere."""
    rng = np.random.default_rng(0)
    values = {name: np.array([place[name] for place in places]) for name in places[0]}
    told: dict[str, Any] = {}
    for name, some_S in values.items():
        found = bootstrap(some_S, rng)
        told[name] = {"mean": found.mean, "ci": [max(0.0, found.low), found.high]}
    inside_S, outside_S = (values[f"withheld_in_{place}"] for place in ("matched", "elsewhere"))

    def ratio(rows: NDArray[np.int64]) -> float:
        outside = float(outside_S[rows].mean())
        return float(inside_S[rows].mean()) / outside if outside else np.inf

    if outside_S.any():
        found = bootstrap_of(ratio, len(places), rng)
        told["withheld_matched_over_elsewhere"] = {
            "ratio": found.mean,
            "ci": [found.low, None if np.isinf(found.high) else found.high],
        }
    return told


def lengths(dim: int) -> list[int]:
    """Prefixes that are measured: the powers of two, and 3 and 6 between them."""
    return sorted({*prefix_lengths(dim), *(k for k in (3, 6) if k < dim)})


def summary(units: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """AUROC by prefix with intervals over seeds and texts; the prefix that validation chose."""
    rng = np.random.default_rng(0)
    prefixes = list(units[0]["validation"])
    chosen = max(prefixes, key=lambda k: _mean_auroc(_measured(units, "validation", k, "rho")))
    by_prefix = {
        k: {what: told(auroc(_measured(units, "test", k, what), rng)) for what in ("rho", "d_k")}
        for k in prefixes
    }
    return {
        "seeds": len(units),
        "chosen_prefix": int(chosen),
        **by_prefix[chosen],
        "by_prefix": by_prefix,
    }


def auroc(seeds: Measured, rng: np.random.Generator) -> Interval:
    """Mean AUROC over seeds; bootstrap over seeds and over combinations, emitted and withheld.

    Combinations are the same in all seeds, so a draw takes the same ones of each; and what
    seeds differ by is stretched, as few of them tell little (`metrics.few`).
    """
    each_S = np.array([_auroc(one, None) for one in seeds])
    stretch_S = (few(len(each_S)) - 1) * (each_S - each_S.mean())
    known = {kind: sorted({pair for one in seeds for pair in one[kind]}) for kind in KINDS}
    draws = []
    for _ in range(DRAWS):
        chosen_S = rng.integers(len(seeds), size=len(seeds))
        pairs = {kind: rng.choice(known[kind], len(known[kind])).tolist() for kind in KINDS}
        drawn_S = np.array([_auroc(seeds[row], pairs) for row in chosen_S])
        draws.append(np.mean(drawn_S + stretch_S[chosen_S]))
    low, high = map(float, np.quantile(draws, (0.025, 0.975)))
    return Interval(float(each_S.mean()), max(0.0, low), min(1.0, high), len(seeds))


def _measured(units: Sequence[dict[str, Any]], split: str, k: str, what: str) -> Measured:
    """Each seed's scores of emitted and of withheld recipes, by combination."""
    return [
        {kind: _by_pair(u[split][k][kind][what], u["pairs"][split][kind]) for kind in KINDS}
        for u in units
    ]


def _by_pair(scores: Sequence[float], pairs: Sequence[str]) -> dict[str, Scores]:
    found: dict[str, list[float]] = {}
    for score, pair in zip(scores, pairs, strict=True):
        found.setdefault(pair, []).append(score)
    return {pair: np.array(some) for pair, some in found.items()}


def _mean_auroc(seeds: Measured) -> float:
    return float(np.mean([_auroc(one, None) for one in seeds]))


def _auroc(one: dict[str, dict[str, Scores]], pairs: dict[str, list[str]] | None) -> float:
    """Of one seed, over the given combinations, repeats allowed; None: over all."""
    both = [
        np.concatenate([one[kind][pair] for pair in (pairs or one)[kind] if pair in one[kind]])
        for kind in KINDS
    ]
    return auroc_of(*both)


def told(interval: Interval) -> dict[str, Any]:
    """An interval for JSON."""
    return {"auroc": interval.mean, "ci": interval.ci}


if __name__ == "__main__":
    main()
