"""What a service shows of a run: its texts, neighbours, voids, a flat map, and facts.

catalogue = Catalogue.of(run, milvus=None)
catalogue.nearest(vectors_nD, k=3)
"""

# Shapes: N training texts, n queries, D coordinates, V voids.
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm import __version__
from cllm.corpus import Corpus
from cllm.ideas import load_ideas
from cllm.map import fit_plane
from cllm.run import RunFolder
from cllm.sphere import ExactIndex, prefix
from cllm.store import Latents, VectorStore, collection_of, load_latents
from cllm.subjects import around, kind_of, subjects_of
from cllm.void_files import standing_voids
from cllm.voids import Void
from cllm.words import WordIndex

Vectors = NDArray[np.float32]

MOST_GROUPS = 100  # that are told


@dataclass(frozen=True)
class Near:
    """A text of the corpus near a vector."""

    id: str
    title: str
    text: str
    angle: float  # radians


@dataclass(frozen=True)
class Catalogue:
    """The training texts of a run; what was held out is not shown."""

    train: Latents
    titles: tuple[str, ...]
    subjects: tuple[str, ...]  # "" where none is known
    voids: tuple[Void, ...]
    written: Counter[int | None]  # new texts of the run, by the void they lie in
    void_dim: int
    notes: dict[str, Any]
    model_hash: str
    open_store: Callable[[], VectorStore] | None  # None: the latents themselves are searched

    @classmethod
    def of(cls, run: RunFolder, milvus: str | None) -> Catalogue:
        """InputError where the run lacks a part. Milvus is asked when it is needed."""
        corpus, latents, notes = run.load_trained_corpus(), load_latents(run.latents), run.notes()
        train, made_by = latents.select("train"), latents.model_hash
        ideas = load_ideas(run.ideas, made_by) if run.ideas.exists() else []
        written = Counter(idea.void_id for idea in ideas if idea.yields)
        open_store = None
        if milvus:
            name, dim = collection_of(corpus.hash, made_by), train.vectors_ND.shape[1]
            open_store = partial(VectorStore.open, milvus, name, made_by, dim, create=False)
        subjects = subjects_of(corpus, train.ids) or ("",) * len(train)
        return cls(
            train, _titles(corpus, train), subjects, tuple(standing_voids(run, made_by, train)),
            written, int(notes["model"]["void_dim"]), notes, made_by, open_store,
        )  # fmt: skip

    @cached_property
    def _store(self) -> VectorStore | None:
        return self.open_store() if self.open_store else None

    def require_answer(self) -> None:
        """NoAnswer where the store does not answer; InputError: it has other vectors, or none."""
        if self._store:
            self._store.count()

    def nearest(self, vectors_nD: Vectors, k: int) -> list[list[Near]]:
        """The k nearest training texts of unit vectors, nearest first."""
        if self._store:
            found = self._store.search(vectors_nD, k, 'split == "train"')
            return [[self._near(self._row_of[name], far) for name, far in hits] for hits in found]
        angle_nk, row_nk = self._index.search(vectors_nD, k)
        return [
            [self._near(row, far) for far, row in zip(angles, rows, strict=True)]
            for angles, rows in zip(angle_nk.tolist(), row_nk.tolist(), strict=True)
        ]

    def found(self, query: str, k: int) -> list[Near]:
        """Training texts that have all words of a query, in the corpus's order."""
        return [self._near(row, None) for row in self._words.rows(query)[:k].tolist()]

    def facts(self) -> dict[str, Any]:
        """What the run is: model, corpus, base, what it restores, and its voids in all."""
        kept = ("corpus", "base", "model", "reconstruction")
        return {name: self.notes[name] for name in kept if name in self.notes} | {
            "version": __version__, "model_hash": self.model_hash, "void_dim": self.void_dim,
            "texts": len(self.train),
            "store": "milvus" if self.open_store else "latents",
            "groups": [name for name, _ in Counter(self.subjects).most_common(MOST_GROUPS) if name],
        }  # fmt: skip

    def void_list(self) -> dict[str, Any]:
        """The voids that stand, emptiest first; `texts`: new ones that the run wrote in it."""
        search = self.notes.get("voids", {})
        kept = ("p_value", "radius_ratio", "chance_score", "sheet_dim", "hopkins", "uniformity")
        amidst = {void.id: around(self.subjects, void.rim) for void in self.voids}
        centre_VK = [void.centre_K for void in self.voids]
        where_V2 = self._flat(np.stack(centre_VK)) if centre_VK else []
        return {
            "void_dim": self.void_dim,
            "search": {name: search[name] for name in kept if name in search},
            "voids": [
                {
                    "id": void.id, "radius": void.radius, "score": void.score,
                    "p_value": void.p_value, "x": float(x), "y": float(y),
                    "texts": self.written[void.id], "written": void.written,
                    "groups": list(amidst[void.id]), "kind": kind_of(amidst[void.id]),
                    "rim": [_told(self._near(row, None)) for row in void.rim],
                }
                for void, (x, y) in zip(self.voids, where_V2, strict=True)
            ],
        }  # fmt: skip

    def map(self, most: int) -> dict[str, Any]:
        """Where texts lie on a plane: the two directions in which they differ most."""
        rows = np.arange(len(self.train))
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
        points_n2 = self._flat(self._prefixes[rows])
        return {
            "shown": len(rows), "of": len(self.train), "share": self._plane[1],
            "void_dim": self.void_dim,
            "points": np.round(points_n2, 4).tolist(), "rows": rows.tolist(),
        }  # fmt: skip

    def at(self, row: int) -> Near | None:
        """The text of a row of the map."""
        return self._near(row, None) if 0 <= row < len(self.train) else None

    def _near(self, row: int, far: float | None) -> Near:
        return Near(self.train.ids[row], self.titles[row], self.train.texts[row],
                    0.0 if far is None else float(far))  # fmt: skip

    def _flat(self, points_nK: Vectors) -> NDArray[np.float64]:
        return np.asarray(self._plane[0](points_nK))

    @cached_property
    def _prefixes(self) -> Vectors:
        return prefix(self.train.vectors_ND, self.void_dim)

    @cached_property
    def _plane(self) -> tuple[Any, float]:
        return fit_plane(self._prefixes)

    @cached_property
    def _index(self) -> ExactIndex:
        return ExactIndex(self.train.vectors_ND)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.train.ids)}

    @cached_property
    def _words(self) -> WordIndex:
        return WordIndex.of(self.train.texts)


def _titles(corpus: Corpus, train: Latents) -> tuple[str, ...]:
    title_of = dict(zip(corpus.ids, corpus.titles, strict=True))
    return tuple(title_of.get(name, "") for name in train.ids)


def _told(near: Near) -> dict[str, str]:
    return {"id": near.id, "title": near.title, "text": near.text}
