"""What a place's surroundings are about: texts of one subject, of two, or of more.

kind_of({"soup", "stew"})   # "between"
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from cllm.corpus import Corpus
from cllm.errors import InputError

Kind = Literal["within", "between", "across"]
NO_GROUPS = (
    "these texts have no known groups; build the corpus from a file with a column for them "
    "(--group-column)"
)
SHOWN = 20  # groups that a message names


def require_groups(wanted: Collection[str], known: Collection[str]) -> None:
    """Refuse groups that no text has. InputError: names one, and some that there are."""
    if unknown := set(wanted) - set(known):
        some = ", ".join(sorted(set(known) - {""})[:SHOWN])
        raise InputError(f"no group {min(unknown)!r}; there are {some}")


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
