"""How much of a text the first k coordinates of its vector carry, for every k: the curve G(d).

One nested model gives the whole curve; the shortest prefix that is enough says how large a vector
has to be (`tune.choice`).

    curve = measure_curve(model, reference, corpus, run.load_latents(model), lengths)
"""

# Shapes: N held-out texts, L lengths, D coordinates of the whole vector.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cllm.corpus import Corpus
from cllm.evaluate import nats_without
from cllm.files import read_json, write_json
from cllm.losses import nats_given
from cllm.model import CLLM
from cllm.pretrain import token_texts
from cllm.reference import ReferenceLM
from cllm.sphere import ExactIndex, angle, prefix

Floats = NDArray[np.float64]
FAR = 1e6  # where neighbours are alike, and any move is far
DECODED = 200  # texts that are written again for the round trip


@dataclass(frozen=True)
class Curve:
    """Of one model: each text's gain by length, and how far it moves when it is written again.

    Moves are angles on the sphere of the prefix over the median nearest-neighbour angle of the
    training texts there; of the first texts only.
    """

    lengths: tuple[int, ...]
    gain_LN: Floats  # nats
    moved_LN: Floats

    @property
    def round_trip_L(self) -> Floats:
        """The median move, by length (design, Metrics)."""
        return np.asarray(np.median(self.moved_LN, axis=1))

    def save(self, path: Path, made_from: str) -> None:
        """Keep it as JSON, with what it was made from."""
        values = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self).items()
        }
        write_json(path, {"made_from": made_from} | values)

    @classmethod
    def load(cls, path: Path, made_from: str) -> Curve | None:
        """What was saved, if it was made from just this."""
        if not path.exists() or (kept := read_json(path))["made_from"] != made_from:
            return None
        return cls(
            tuple(kept["lengths"]), np.array(kept["gain_LN"]), np.array(kept["moved_LN"])
        )  # fmt: skip


def curve_lengths(dim: int) -> tuple[int, ...]:
    """2, 3, 4, 6, 8, 12, … up to `dim`, which is always there: steps of a half and a third."""
    powers = [2**i for i in range(1, 13)]
    return tuple(sorted({k for p in powers for k in (p, p + p // 2) if k < dim} | {dim}))


def measure_curve(
    model: CLLM, reference: ReferenceLM | None, corpus: Corpus, train_ND: NDArray[np.float32],
    lengths: Sequence[int], split: str = "validation", limit: int = 500,
) -> Curve:  # fmt: skip
    """The curve of a model on `limit` texts of a held-out split; `train_ND`: vectors of its texts.

    Of a plain model only its whole length means anything.
    """
    part = corpus.select(split).sample(limit)
    tokens = token_texts(model.base, part, model.config.context)
    without_N = nats_without(model, reference, tokens, corpus.info.get("entropy_nats"))
    vectors_ND = model.encode_tokens(tokens)
    gains, moves = [], []
    for k in lengths:
        prefix_Nk = prefix(vectors_ND, k)
        gains.append(without_N - nats_given(model, tokens, model.lift(prefix_Nk)))
        again_ND = model.encode([text or " " for text in model.decode(prefix_Nk[:DECODED])])
        moved_N = angle(prefix(again_ND, k), prefix_Nk[:DECODED])
        unit = ExactIndex(prefix(train_ND, k)).median_nearest()
        moves.append(moved_N / unit if unit else np.full(len(moved_N), FAR))
    # as they are read again from a file
    return Curve(tuple(lengths), np.stack(gains).astype(float), np.stack(moves).astype(float))
