"""A corpus: cleaned texts without duplicates, split so that near texts stay together.

Usage: `corpus = build_corpus(read_rows(Path("recipes.jsonl.gz")))`, then
`corpus.select("train").texts`; `corpus.save(run / "corpus.parquet")` keeps it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cllm.errors import InputError
from cllm.files import digest, read_parquet, write_parquet
from cllm.near_duplicates import Near, find_near
from cllm.noise import text_keys
from cllm.reading import Reading, Row

if TYPE_CHECKING:
    from cllm.recipes import Richness

SPLITS = ("train", "validation", "test")
COLUMNS = ("id", "text", "title", "group", "split")
SUBJECT = "subject"  # a sixth, where it is known
_METADATA_KEY = b"cllm"


@dataclass(frozen=True)
class Corpus:
    """N texts, column by column; `info` says where they come from (JSON-able)."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    titles: tuple[str, ...]
    groups: tuple[str, ...]
    splits: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()  # where they are known; "" of a text without one

    def __post_init__(self) -> None:
        known = (self.subjects,) if self.subjects else ()
        lengths = [len(column) for column in (*self._columns, *known)]
        if len(set(lengths)) != 1:
            raise ValueError(f"columns of unequal length: {lengths}")

    @property
    def _columns(self) -> tuple[tuple[str, ...], ...]:
        return self.ids, self.texts, self.titles, self.groups, self.splits

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, split: str) -> Corpus:
        """The texts of one split, in order; ValueError for a split that is not in SPLITS."""
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        return self.only([each == split for each in self.splits])

    def only(self, wanted: Sequence[bool]) -> Corpus:
        """The texts that are wanted, one answer for each, in order."""
        return self.at(list(compress(range(len(self)), wanted)))

    def at(self, rows: Sequence[int]) -> Corpus:
        """The texts of these rows, in their order."""
        ids, texts, titles, groups, splits, subjects = (
            tuple(column[row] for row in rows) if column else ()
            for column in (*self._columns, self.subjects)
        )
        return Corpus(ids, texts, titles, groups, splits, self.info, subjects)

    def sample(self, n: int) -> Corpus:
        """`n` texts at most, drawn by their ids, so that the order of a file does not matter."""
        if n >= len(self):
            return self
        return self.at(sorted(np.argsort(text_keys(self.ids), kind="stable")[:n].tolist()))

    def withheld_pair(self, text: str) -> tuple[str, str] | None:
        """The withheld (dish, main) that a built-in recipe's title names; else None."""
        if "withheld" not in self.info:
            return None
        from cllm.recipes import combination

        pair = combination(text)
        return pair if pair in self._withheld else None

    def withheld_in(self, texts: Iterable[str]) -> frozenset[tuple[str, str]]:
        """The withheld combinations that some texts name."""
        return frozenset(pair for text in texts if (pair := self.withheld_pair(text)))

    @cached_property
    def _withheld(self) -> frozenset[tuple[str, str]]:
        return frozenset((dish, main) for dish, main in self.info["withheld"])

    @cached_property
    def hash(self) -> str:
        """Digest of ids, texts and splits: equal exactly where training sees the same data."""
        return digest(*self.ids, *self.texts, *self.splits)

    def save(self, path: Path) -> None:
        """Write the columns as Parquet, `info` in the schema's metadata."""
        import pyarrow as pa

        known = {SUBJECT: self.subjects} if self.subjects else {}
        schema = pa.schema(
            [(name, pa.string()) for name in (*COLUMNS, *known)],
            metadata={_METADATA_KEY: json.dumps(self.info, ensure_ascii=False)},
        )
        columns = [pa.array(column, pa.string()) for column in (*self._columns, *known.values())]
        write_parquet(path, pa.table(columns, schema))

    @classmethod
    def load(cls, path: Path) -> Corpus:
        """Read what `save` wrote; InputError where the file is missing, damaged or inconsistent."""
        table = read_parquet(path, COLUMNS, maybe=(SUBJECT,))
        ids, texts, titles, groups, splits = (
            tuple(table.column(name).to_pylist()) for name in COLUMNS
        )
        metadata = table.schema.metadata or {}
        info = json.loads(metadata.get(_METADATA_KEY, b"{}"))
        known = table.column(SUBJECT).to_pylist() if SUBJECT in table.column_names else ()
        subjects = tuple(value or "" for value in known)
        corpus = cls(ids, texts, titles, groups, splits, info, subjects)
        _check(corpus, path)
        return corpus


def spaced(total: int, most: int) -> NDArray[np.int64]:
    """`most` rows at most, from all over: the first ones of a file may be of one subject."""
    return np.linspace(0, total - 1, min(total, most)).round().astype(np.int64)


def _check(corpus: Corpus, path: Path) -> None:
    for name, column in zip(COLUMNS, corpus._columns, strict=True):
        row = next((i for i, value in enumerate(column) if not isinstance(value, str)), None)
        if row is not None:
            raise InputError(f"{path}: column {name} holds no text in row {row}; build it again")
    wrong = set(corpus.splits) - set(SPLITS)
    if wrong:
        raise InputError(f"{path}: unknown split {min(wrong)!r}; there are {', '.join(SPLITS)}")
    _require_unique(corpus.ids, str(path))


def build_corpus(
    rows: Iterable[Row],
    *,
    near_duplicate: float = 0.8,
    group_at: float = 0.6,
    split: tuple[float, float, float] = (0.9, 0.05, 0.05),
    seed: int = 0,
) -> Corpus:
    """Drop repeated and nearly repeated texts (the first stays) and split the rest.

    `near_duplicate` is the Jaccard similarity of word 3-shingles from which a text counts as
    nearly repeated; 1.0 turns this and the grouping off. Texts linked by a similarity of
    `group_at` or more form a group, named after its smallest id, and fall in one split. The
    split depends on (seed, group) alone: not on the machine, nor on the order of the rows.

    InputError for no text, one text, all texts equal, fewer than three, and repeated ids.
    """
    _check_split(split, near_duplicate, group_at)
    every = list(rows)
    by_text: dict[str, Row] = {}
    for row in every:
        by_text.setdefault(row.text, row)
    first = list(by_text.values())
    ids = [row.id or digest(row.text) for row in first]
    _require_three(len(every), len(first), 0)
    _require_unique(ids, "the corpus")
    if near_duplicate < 1.0:
        near = find_near([row.text for row in first], near_duplicate, min(group_at, near_duplicate))
    else:
        near = Near(kept=tuple(range(len(first))), groups=tuple(range(len(first))))
    _require_three(len(every), len(near.kept), len(first) - len(near.kept))
    kept_ids = [ids[i] for i in near.kept]
    groups = _group_names(kept_ids, near.groups)
    info = _origin(rows, len(every)) | {
        "exact_duplicates": len(every) - len(first),
        "near_duplicates": len(first) - len(near.kept),
        "groups": len(set(groups)),
        "near_duplicate": near_duplicate,
        "group_at": group_at,
        "split": list(split),
        "seed": seed,
    }
    return Corpus(
        ids=tuple(kept_ids),
        texts=tuple(first[i].text for i in near.kept),
        titles=tuple(_title(first[i]) for i in near.kept),
        groups=tuple(groups),
        splits=tuple(_splits(groups, split, seed)),
        info=info,
        subjects=tuple(first[i].subject for i in near.kept)
        if any(row.subject for row in first) else (),
    )  # fmt: skip


def built_in_corpus(richness: Richness, n: int, seed: int, fold: int = 0) -> Corpus:
    """`n` recipes drawn from the built-in grammar ("plain" or "rich"), less exact repetitions.

    Near-duplicates stay: the draws are independent, and their distribution, whose entropy is
    known, is what a model is measured against. `info` adds richness, entropy_nats (of one
    recipe) and withheld, the [dish, main] pairs that are valid but never drawn: those of `fold`.
    """
    from cllm.recipes import RICHNESSES, Grammar

    if richness not in RICHNESSES:
        raise InputError(f"no richness {richness!r}; there are {', '.join(RICHNESSES)}")
    grammar = Grammar(richness, fold)
    rows = [Row(text=text) for text in grammar.generate(n, seed)]
    corpus = build_corpus(rows, near_duplicate=1.0, seed=seed)
    extra = {
        "source": f"built-in recipes ({richness})",
        "near_duplicates_off": "draws are independent and differ by construction",
        "richness": richness,
        "fold": fold,
        "entropy_nats": grammar.entropy_nats,
        "withheld": [list(pair) for pair in sorted(grammar.withheld)],
    }
    return replace(corpus, info=corpus.info | extra)


def _origin(rows: Iterable[Row], usable: int) -> dict[str, Any]:
    if not isinstance(rows, Reading):
        return {"source": "", "rows": usable, "bad_rows": 0}
    return {
        "source": rows.path.name,
        "sha256": rows.sha256,
        "rows": rows.count,
        "bad_rows": len(rows.bad),
    }


def _title(row: Row) -> str:
    """The title given, or the text's own."""
    return row.title or title_in(row.text)


def title_in(text: str) -> str:
    """The title that a text of the form "title: A pie. …" begins with; else ""."""
    if not text.startswith("title: "):
        return ""
    return text.removeprefix("title: ").partition(".")[0].strip()


def _group_names(ids: Sequence[str], groups: Sequence[int]) -> list[str]:
    """The smallest id of each group: the same whatever the order of the rows."""
    names: dict[int, str] = {}
    for name, group in zip(ids, groups, strict=True):
        names[group] = min(names.get(group, name), name)
    return [names[group] for group in groups]


def _splits(groups: list[str], split: Sequence[float], seed: int) -> list[str]:
    """The split of each text, from the hash of its group; none is left empty."""
    members = Counter(groups)
    if len(members) < len(SPLITS):  # all texts near each other: only texts can be told apart
        groups = [f"{group}/{i}" for i, group in enumerate(groups)]
        members = Counter(groups)
    place = {group: int(digest(str(seed), group), 16) / 2**64 for group in members}
    chosen = {group: _split_at(at, split) for group, at in place.items()}
    for empty in SPLITS:
        if empty not in chosen.values():
            crowded = Counter(chosen.values()).most_common(1)[0][0]
            movable = (group for group in members if chosen[group] == crowded)
            chosen[min(movable, key=lambda group: (members[group], place[group]))] = empty
    return [chosen[group] for group in groups]


def _split_at(place: float, split: Sequence[float]) -> str:
    train, validation, _ = split
    return SPLITS[0 if place < train else 1 if place < train + validation else 2]


def _check_split(split: Sequence[float], near_duplicate: float, group_at: float) -> None:
    if len(split) != len(SPLITS) or min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
        raise InputError(f"split is {tuple(split)}; give three shares above 0 that sum to 1")
    for name, value in (("near_duplicate", near_duplicate), ("group_at", group_at)):
        if not 0 < value <= 1:
            raise InputError(f"{name} is {value}; it must lie above 0 and be at most 1")


def _require_three(rows: int, left: int, near: int) -> None:
    if left >= len(SPLITS):
        return
    if rows == 0:
        found = "the corpus is empty"
    elif rows == 1:
        found = "the corpus holds one text"
    elif left == 1 and near == 0:
        found = f"all {rows} texts of the corpus are equal"
    else:
        found = f"only {left} of {rows} texts differ enough ({near} nearly repeat another one)"
    keep = "; near-duplicates stay with near_duplicate = 1" if near else ""
    raise InputError(
        f"{found}; train, validation and test need at least one different text each{keep}"
    )


def _require_unique(ids: Sequence[str], where: str) -> None:
    name, count = Counter(ids).most_common(1)[0] if ids else ("", 0)
    if count > 1:
        raise InputError(f"{where}: id {name!r} stands {count} times; ids must be unique")
