"""What a place's surroundings are about: texts of one subject, of two, or of more.

kind_of({"soup", "stew"})   # "between"
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from cllm.corpus import Corpus
from cllm.where import NoSuchPlace

Kind = Literal["within", "between", "across"]
SHOWN = 20  # groups that a message names


def require_groups(wanted: Collection[str], known: Collection[str] | None) -> None:
    """Refuse groups that no text has, or any where none are known.

    Raises:
        NoSuchPlace: it says how groups get known, or names some that there are.
    """
    if known is None:
        raise NoSuchPlace(
            "these texts have no known groups; build the corpus from a file with a column for "
            "them (--group-column)"
        )
    if unknown := set(wanted) - set(known):
        some = ", ".join(sorted(set(known) - {""})[:SHOWN])
        raise NoSuchPlace(f"no group {min(unknown)!r}; there are {some}")


def around(subjects: Sequence[str], rows: Iterable[int]) -> tuple[str, ...]:
    """The groups of some texts, each once, by name."""
    return tuple(sorted({subjects[row] for row in rows} - {""}))


def amid(groups: Collection[str], kind: str | None, wanted: Collection[str]) -> bool:
    """Whether surroundings are of that kind, if any was asked for, with the wanted groups."""
    return kind in (None, kind_of(groups)) and set(wanted) <= set(groups)


def kind_of(subjects: Collection[str]) -> Kind | None:
    """Within one subject, between two, across more; None where none is known."""
    count = len(set(subjects) - {""})
    return None if not count else "within" if count == 1 else "between" if count == 2 else "across"


def subjects_of(corpus: Corpus, ids: Sequence[str]) -> tuple[str, ...] | None:
    """Of texts by their ids: as the corpus has them, or dishes of built-in recipes; else None.

    A text without one has "".
    """
    if corpus.subjects:
        known = dict(zip(corpus.ids, corpus.subjects, strict=True))
    elif "withheld" in corpus.info:
        from cllm.recipes import combination

        dishes = (pair[0] if (pair := combination(text)) else "" for text in corpus.texts)
        known = dict(zip(corpus.ids, dishes, strict=True))
    else:
        return None
    return tuple(known.get(name, "") for name in ids)
