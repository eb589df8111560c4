"""What the arms wrote, judged: from candidates to new texts, with the evidence for each.

ideas = judge_written(model, judge, written, index)
counts = funnel(ideas, rng, written.patches(field))
"""

# Shapes: n texts of an arm, P places they were written from, S draws, D bottleneck, K prefix.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from cllm.corpus import spaced
from cllm.field import Field, Rest
from cllm.files import model_of, read_parquet, write_parquet
from cllm.judge import Judge, Verdict
from cllm.metrics import share_draws, share_of
from cllm.settling import Autoencoder, Written, filled
from cllm.sphere import ExactIndex, angle, prefix

Vectors = NDArray[np.float32]
RESTS = 200  # held-out texts that say what to put beside a prefix


@dataclass(frozen=True)
class Idea:
    """A text, where it came from, and what the judge says of it.

    `hit`: re-encoded, the text lies nearer to its starting point than to any training text.
    `round_trip`: that angle over the texts' median nearest-neighbour angle. Both on the
    sphere of the prefix; None without a starting point. `plausibility`: share of held-out texts
    that cost a reference LM more, for their length. `chosen`: 1 is what another model chose first.
    """

    id: str
    arm: str
    text: str
    verdict: Verdict
    void_id: int | None = None
    vector_D: Vectors | None = None
    round_trip: float | None = None
    hit: bool | None = None
    plausibility: float | None = None
    chosen: int | None = None

    @property
    def yields(self) -> bool:
        """Valid, no duplicate, and a hit where there is a point to hit."""
        return self.verdict.valid and not self.verdict.duplicate and self.hit is not False


def choose_rest(model: Autoencoder, judge: Judge, field: Field, held_out_MD: Vectors) -> Field:
    """The field with the `rest` that held-out texts choose: their prefixes stand for places.

    Left open, a decoder that is told too little writes loops; with the nearest text's coordinates
    it may write that text. So whichever makes more texts that are valid and no duplicates.
    """
    some_ND = held_out_MD[spaced(len(held_out_MD), RESTS)]
    if field.void_dim == field.cloud_ND.shape[1] or not len(some_ND):
        return field

    def new_share(asked: Field) -> float:
        texts = filled(model.decode(asked.completed(some_ND)))
        return float(np.mean([v.valid and not v.duplicate for v in judge.judge(texts)]))

    return max((replace(field, rest=rest) for rest in get_args(Rest)), key=new_share)


def judge_written(
    model: Autoencoder,
    judge: Judge,
    written: Written,
    index: ExactIndex,
) -> list[Idea]:
    """Re-encode and judge every text of an arm; `index` holds the prefixes of the cloud."""
    placed = written.points_nD is not None and len(written.texts)
    arrived_nD = model.encode(filled(written.texts)) if placed else None
    return judge_arrived(judge, written, arrived_nD, index)


def judge_arrived(
    judge: Judge,
    written: Written,
    arrived_nD: Vectors | None,
    index: ExactIndex,
) -> list[Idea]:
    """The same where the texts' own vectors are known; None: they have no place to come back to."""
    verdicts = judge.judge(written.texts)
    points_nD, count = written.points_nD, len(written.texts)
    trips: list[float] | list[None] = [None] * count
    hits: list[bool] | list[None] = [None] * count
    if points_nD is not None and arrived_nD is not None:
        trips, hits = land(points_nD, arrived_nD, index)
    return [
        Idea(
            id=f"{written.arm}-{number:05d}",
            arm=written.arm,
            text=text,
            verdict=verdict,
            vector_D=None if points_nD is None else points_nD[number],
            round_trip=trips[number],
            hit=hits[number],
        )
        for number, (text, verdict) in enumerate(zip(written.texts, verdicts, strict=True))
    ]


def places_of(ideas: Sequence[Idea], dim: int) -> Vectors:
    """Where ideas were written from, (n, D); those from no place are left out."""
    places = [idea.vector_D for idea in ideas if idea.vector_D is not None]
    return np.array(places, np.float32).reshape(-1, dim)


def land(
    points_nD: Vectors, arrived_nD: Vectors, index: ExactIndex
) -> tuple[list[float], list[bool]]:
    """Round trips and hits, one a point, on the sphere of the prefix that `index` holds."""
    dims = index.cloud_ND.shape[1]
    arrived_nK = prefix(arrived_nD, dims)
    moved_n = angle(arrived_nK, prefix(points_nD, dims))
    nearest_n = index.search(arrived_nK, 1)[0][:, 0]
    trips_n = moved_n / max(index.median_nearest(), 1e-6)
    return trips_n.tolist(), (moved_n < nearest_n).tolist()


def funnel(
    ideas: Sequence[Idea], rng: np.random.Generator, place_n: Sequence[str]
) -> dict[str, Any]:
    """Counts of one arm, and its yield with an interval (`new_share`: without points to hit).

    `place_n` says where each text was written; texts of one place are not independent.
    """
    labels = [idea.verdict.label for idea in ideas]
    counts: dict[str, Any] = {
        "sampled": len(ideas),
        "valid": sum(idea.verdict.valid for idea in ideas),
        "duplicate": labels.count("duplicate"),
        "nonsense": labels.count("nonsense"),
        "novel": labels.count("novel"),
        "distinct": len({idea.text for idea in ideas}),
    }
    if not ideas:
        return counts
    name = "new_share"
    if ideas[0].hit is not None:
        name = "yield"
        counts["hit"] = sum(bool(idea.hit) for idea in ideas)
    share = share_of(_by_place(ideas, place_n), rng)
    valid = share_of(_by_place(ideas, place_n, [idea.verdict.valid for idea in ideas]), rng)
    return counts | {name: share.mean, f"{name}_ci": share.ci, "valid_ci": valid.ci}


def lift(
    void: Sequence[Idea], void_places: Sequence[str],
    density: Sequence[Idea], density_places: Sequence[str], rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    """Yield of the void arm over the density arm's, with its interval; none without texts of both.

    Half a text is added, for counts of 0.
    """
    arms = [_by_place(void, void_places), _by_place(density, density_places)]
    if not all(map(len, arms)):
        return {}
    (hits, texts), (other_hits, other_texts) = (counts_P2.sum(0) for counts_P2 in arms)
    ratio = (hits + 0.5) / (texts + 1) / ((other_hits + 0.5) / (other_texts + 1))
    mine_S, theirs_S = (share_draws(counts_P2, rng) for counts_P2 in arms)
    ratio_S = np.maximum(mine_S, 0.5 / (texts + 1)) / np.maximum(theirs_S, 0.5 / (other_texts + 1))
    low, high = np.quantile(ratio_S, (0.025, 0.975))
    return {"lift": float(ratio), "lift_ci": [float(low), float(high)]}


def _by_place(
    ideas: Sequence[Idea], place_n: Sequence[str], hit_n: Sequence[bool] | None = None
) -> NDArray[np.int64]:
    """Texts that yield (or `hit_n`), and all, of each place, (P, 2)."""
    places: dict[str, list[int]] = {}
    for row, (idea, place) in enumerate(zip(ideas, place_n, strict=True)):
        counted = places.setdefault(place, [0, 0])
        counted[0] += idea.yields if hit_n is None else hit_n[row]
        counted[1] += 1
    return np.array(list(places.values()), np.int64).reshape(-1, 2)


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
            "plausibility": idea.plausibility,
            "chosen": idea.chosen,
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
         ("hit", pa.bool_()), ("plausibility", pa.float64()), ("chosen", pa.int64()),
         ("neighbours", neighbours)],
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
                 row["round_trip"], row["hit"], row.get("plausibility"), row.get("chosen"))
        )  # fmt: skip
    return ideas
