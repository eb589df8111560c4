"""Write texts from voids, and from the controls they must beat; judge every one.

Arms of the first form: `void` (centres of voids), `prior` (a Gaussian fitted to
the whole cloud), `base` (the base LLM writing with no vector at all).
"""

# Shapes: N texts, n candidates of an arm, D bottleneck, K prefix, B batch.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cllm.base import GREEDY, BaseLM, Generation
from cllm.batches import TokenTexts
from cllm.files import model_of, read_parquet, write_parquet
from cllm.judge import Judge, Verdict
from cllm.metrics import Interval, bootstrap_of, wilson, yield_ci
from cllm.model import CLLM
from cllm.sphere import ExactIndex, angle, prefix, unit
from cllm.voids import Void

Vectors = NDArray[np.float32]
SAMPLED = Generation(sample=True, temperature=0.7)
ARMS = ("void", "prior", "base")


@dataclass(frozen=True)
class Candidate:
    """A place to write from: a vector of D coordinates, or none for the base alone."""

    arm: str
    vector_D: Vectors | None
    void_id: int | None = None
    how: Generation = GREEDY


@dataclass(frozen=True)
class Idea:
    """A text, where it came from, and what the judge says of it.

    `hit`: re-encoded, the text lies nearer to its starting point than to any training text.
    `round_trip`: that angle over the texts' median nearest-neighbour angle. Both on the
    sphere of the prefix; None without a starting point.
    """

    id: str
    arm: str
    text: str
    verdict: Verdict
    void_id: int | None = None
    vector_D: Vectors | None = None
    round_trip: float | None = None
    hit: bool | None = None

    @property
    def yields(self) -> bool:
        """Valid, no duplicate, and a hit where there is a point to hit."""
        return self.verdict.valid and not self.verdict.duplicate and self.hit is not False


def void_candidates(model: CLLM, voids: Sequence[Void], n: int) -> list[Candidate]:
    """The emptiest voids first, decoded from the prefix alone.

    Coordinates copied from rim texts would pull the decoder back to what it has seen. Where
    there are more candidates than voids, further rounds are sampled.
    """
    if not voids:
        return []
    centres_ND = model.lift(np.stack([void.centre_K for void in voids]))
    rounds = [(i % len(voids), GREEDY if i < len(voids) else SAMPLED) for i in range(n)]
    return [Candidate("void", centres_ND[v], voids[v].id, how) for v, how in rounds]


def prior_candidates(cloud_ND: Vectors, n: int, rng: np.random.Generator) -> list[Candidate]:
    """Draws from a Gaussian with the cloud's mean and covariance, put back on the sphere."""
    mean_D = cloud_ND.mean(0, dtype=np.float64)
    covariance_DD = np.cov(cloud_ND.T.astype(np.float64))
    return [
        Candidate("prior", point_D)
        for point_D in unit(rng.multivariate_normal(mean_D, covariance_DD, n))
    ]


def write_candidates(model: CLLM, candidates: Sequence[Candidate], seed: int) -> list[str]:
    """Texts of candidates with a vector, in order; sampled ones repeat by seed."""
    texts: list[str] = [""] * len(candidates)
    torch.manual_seed(seed)
    for how in dict.fromkeys(c.how for c in candidates):
        chosen = [i for i, c in enumerate(candidates) if c.how == how]
        vectors_nD = np.stack(
            [c.vector_D for c in candidates if c.how == how and c.vector_D is not None]
        )
        for i, text in zip(chosen, model.decode(vectors_nD, how), strict=True):
            texts[i] = text
    return texts


def write_unaided(base: BaseLM, context: int, lengths: Sequence[int], seed: int) -> list[str]:
    """Texts the base samples when every token of its input is masked; `lengths` in tokens."""
    torch.manual_seed(seed)
    hidden = [[base.mask] * length for length in lengths]
    inputs = TokenTexts.of([str(i) for i in range(len(hidden))], hidden, base.pad, context)
    rows: list[list[int]] = []
    for start in range(0, len(inputs), 64):
        batch = inputs.gather(range(start, min(start + 64, len(inputs)))).to(base.device)
        with torch.inference_mode():
            memory_BTH = base.embed(batch.ids_BT, batch.mask_BT)
        rows += base.write(memory_BTH, context, Generation(sample=True), batch.mask_BT)
    return base.to_text(rows)


def judge_ideas(
    model: CLLM,
    judge: Judge,
    candidates: Sequence[Candidate],
    texts: Sequence[str],
    cloud_ND: Vectors,
    void_dim: int,
) -> list[Idea]:
    """Re-encode and judge every candidate's text."""
    verdicts = judge.judge(texts)
    pointed = [i for i, c in enumerate(candidates) if c.vector_D is not None]
    back: dict[int, tuple[float, bool]] = {}
    if pointed:
        points_nD = np.stack([c.vector_D for c in candidates if c.vector_D is not None])
        arrived_nD = model.encode([texts[i] or " " for i in pointed])
        trips_n, hits_n = land(points_nD, arrived_nD, cloud_ND, void_dim)
        back = {i: (float(t), bool(h)) for i, t, h in zip(pointed, trips_n, hits_n, strict=True)}
    return [
        Idea(
            id=f"{candidate.arm}-{number:05d}",
            arm=candidate.arm,
            text=text,
            verdict=verdict,
            void_id=candidate.void_id,
            vector_D=candidate.vector_D,
            round_trip=back[number][0] if number in back else None,
            hit=back[number][1] if number in back else None,
        )
        for number, (candidate, text, verdict) in enumerate(
            zip(candidates, texts, verdicts, strict=True)
        )
    ]


def land(
    points_nD: Vectors, arrived_nD: Vectors, cloud_ND: Vectors, void_dim: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Round trips (n,) and hits (n,) on the sphere of the first `void_dim` coordinates."""
    index = ExactIndex(prefix(cloud_ND, void_dim))
    arrived_nK = prefix(arrived_nD, void_dim)
    moved_n = angle(arrived_nK, prefix(points_nD, void_dim))
    nearest_n = index.search(arrived_nK, 1)[0][:, 0]
    return moved_n / max(index.median_nearest(), 1e-6), moved_n < nearest_n


def funnel(ideas: Sequence[Idea], rng: np.random.Generator) -> dict[str, Any]:
    """Counts of one arm, and its yield with an interval where the arm starts from points."""
    labels = [idea.verdict.label for idea in ideas]
    counts: dict[str, Any] = {
        "sampled": len(ideas),
        "valid": sum(idea.verdict.valid for idea in ideas),
        "duplicate": labels.count("duplicate"),
        "nonsense": labels.count("nonsense"),
        "novel": labels.count("novel"),
        "distinct": len({idea.text for idea in ideas}),
    }
    if ideas and ideas[0].hit is not None:
        share = _yield(ideas, rng)
        counts |= {
            "hit": sum(bool(i.hit) for i in ideas),
            "yield": share.mean,
            "yield_ci": share.ci,
        }
    return counts


def _yield(ideas: Sequence[Idea], rng: np.random.Generator) -> Interval:
    """Share that yields. Voids are resampled, not texts: those of one void are not independent."""
    by_place: dict[object, list[bool]] = {}
    for idea in ideas:
        place = idea.id if idea.void_id is None else idea.void_id
        by_place.setdefault(place, []).append(idea.yields)
    if len(by_place) == len(ideas):
        return yield_ci(np.array([idea.yields for idea in ideas]), rng)
    yields_V = np.array([sum(found) for found in by_place.values()])
    count_V = np.array([len(found) for found in by_place.values()])
    if np.ptp(yields_V / count_V) == 0:  # nothing to resample
        return wilson(int(yields_V.sum()), len(ideas))
    return bootstrap_of(
        lambda rows: float(yields_V[rows].sum() / count_V[rows].sum()), len(count_V), rng
    )


def best_first(ideas: Sequence[Idea]) -> list[Idea]:
    """Those that count first, then by novelty."""
    return sorted(
        ideas, key=lambda i: (not i.yields, i.verdict.label != "novel", -i.verdict.novelty)
    )


def save_ideas(path: Path, ideas: Sequence[Idea], model_hash: str) -> None:
    """Write ideas.parquet; its metadata names the model."""
    import pyarrow as pa

    rows = [
        {
            "id": idea.id,
            "void_id": idea.void_id,
            "arm": idea.arm,
            "vector": None if idea.vector_D is None else idea.vector_D.tolist(),
            "text": idea.text,
            "verdict": idea.verdict.label,
            "valid": idea.verdict.valid,
            "duplicate": idea.verdict.duplicate,
            "reasons": list(idea.verdict.reasons),
            "novelty": idea.verdict.novelty,
            "validity": idea.verdict.validity,
            "round_trip": idea.round_trip,
            "hit": idea.hit,
            "neighbours": [{"id": i, "similarity": s} for i, s in idea.verdict.nearest],
        }
        for idea in ideas
    ]
    neighbours = pa.list_(pa.struct([("id", pa.string()), ("similarity", pa.float64())]))
    schema = pa.schema(
        [("id", pa.string()), ("void_id", pa.int64()), ("arm", pa.string()),
         ("vector", pa.list_(pa.float32())), ("text", pa.string()), ("verdict", pa.string()),
         ("valid", pa.bool_()), ("duplicate", pa.bool_()), ("reasons", pa.list_(pa.string())),
         ("novelty", pa.float64()), ("validity", pa.float64()), ("round_trip", pa.float64()),
         ("hit", pa.bool_()), ("neighbours", neighbours)],
        metadata={"model_hash": model_hash},
    )  # fmt: skip
    write_parquet(path, pa.Table.from_pylist(rows, schema))


def load_ideas(path: Path, model_hash: str) -> list[Idea]:
    """Read ideas.parquet back; none where another model wrote them."""
    ideas: list[Idea] = []
    table = read_parquet(path)
    if model_of(table) != model_hash:
        return ideas
    for row in table.to_pylist():
        nearest = tuple((n["id"], n["similarity"]) for n in row["neighbours"])
        verdict = Verdict(
            label=row["verdict"], valid=row["valid"], duplicate=row["duplicate"],
            validity=row["validity"], novelty=row["novelty"],
            reasons=tuple(row["reasons"]), nearest=nearest,
        )  # fmt: skip
        vector_D = None if row["vector"] is None else np.array(row["vector"], np.float32)
        ideas.append(
            Idea(row["id"], row["arm"], row["text"], verdict, row["void_id"], vector_D,
                 row["round_trip"], row["hit"])
        )  # fmt: skip
    return ideas
