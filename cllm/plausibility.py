"""Which texts are worth writing: those that surprise at most once, and not against what is known.

A language model that has seen the training texts only, and no vector, finds what is new dearer
than what is not. A text may cost more than real ones do if it joins words that no text joins and
that belong together by the company they keep; what is dear in more than one place is nonsense.

    plausible = Plausibility.learn(reference, model.tokens, train_texts, held_out_texts)
    plausible(texts); plausible.save(path, made_from)   # as learning takes half a minute
"""

# Shapes: n texts, M held-out texts.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cllm.cooccurrence import Cooccurrence
from cllm.errors import InputError
from cllm.files import replacing

if TYPE_CHECKING:  # the rest is had without torch
    from cllm.batches import TokenTexts
    from cllm.reference import ReferenceLM

Tokens = Callable[[Sequence[str]], "TokenTexts"]
SURPRISE = 4.0  # nats that a text with a new pair of words may cost above the limit
REAL = 0.99  # share of held-out texts within each limit, less what SURPRISE adds


@dataclass(frozen=True)
class Plausibility:
    """Limits on what a text and its second most surprising token cost, set on held-out texts."""

    reference: ReferenceLM
    tokens: Tokens
    together: Cooccurrence | None  # None: it can tell nothing; no text may cost more than real ones
    a_token: float  # nats that held-out texts cost more for each token of theirs
    excess_M: NDArray[np.float64]  # nats that held-out texts cost beyond that, in order
    limit_second: float  # nats
    surprise: float  # nats allowed above the limit where words meet for the first time

    @classmethod
    def learn(
        cls,
        reference: ReferenceLM,
        tokens: Tokens,
        train_texts: Sequence[str],
        held_out_texts: Sequence[str],
        surprise: float = SURPRISE,
    ) -> Plausibility:
        """`surprise`: nats allowed above the limit of held-out texts."""
        texts = tokens(held_out_texts)
        nats_M, second_M = reference.costs(texts)
        tokens_M = _lengths(texts)
        a_token = max(0.0, float(np.polyfit(tokens_M, nats_M, 1)[0])) if np.ptp(tokens_M) else 0.0
        return cls(
            reference, tokens, Cooccurrence.learn(train_texts), a_token,
            excess_M=np.sort(nats_M - a_token * tokens_M),
            limit_second=float(np.quantile(second_M, REAL)),
            surprise=surprise,
        )  # fmt: skip

    @property
    def limit(self) -> float:
        """Nats beyond which a text of any length is dear."""
        return float(np.quantile(self.excess_M, REAL))

    def shares(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Share of held-out texts that cost more, for their length, (n,) in 0..1."""
        excess_n = self._costs(texts)[0]
        return 1 - np.searchsorted(self.excess_M, excess_n, side="right") / len(self.excess_M)

    def _costs(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nats beyond what tokens cost, and of the second most surprising token, (n,) each."""
        known = self.tokens(texts)
        nats_n, second_n = self.reference.costs(known)
        return nats_n - self.a_token * _lengths(known), second_n

    def __call__(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which texts are plausible, (n,)."""
        excess_n, second_n = self._costs(texts)
        above_n = excess_n - self.limit
        once_n = second_n <= self.limit_second
        if self.together is None:
            return np.asarray(once_n & (above_n <= 0))
        pmi_n = self.together(texts)
        nothing_new_n = np.isnan(pmi_n) & (above_n <= 0)
        good_n = (pmi_n >= self.together.least) & (above_n <= self.surprise)
        return np.asarray(once_n & (nothing_new_n | good_n))

    def save(self, path: Path, made_from: str) -> None:
        """Keep what was learnt, with what it was learnt from."""
        limits = [self.a_token, self.limit_second, self.surprise]
        kept: dict[str, Any] = {"made_from": made_from, "limits": limits, "excess": self.excess_M}
        kept |= self.together.arrays if self.together else {}
        with replacing(path) as new, new.open("wb") as file:
            np.savez_compressed(file, **kept)

    @classmethod
    def load(
        cls, path: Path, made_from: str, reference: ReferenceLM, tokens: Tokens
    ) -> Plausibility | None:
        """What was saved, if it was learnt from just this; InputError for a damaged file."""
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as kept:  # refuses pickles
                if str(kept["made_from"]) != made_from:
                    return None
                together = Cooccurrence.of_arrays(kept) if "words" in kept else None
                a_token, *others = map(float, kept["limits"])
                return cls(reference, tokens, together, a_token, kept["excess"], *others)
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise InputError(
                f"{path} is damaged ({error}); remove it, and it is learnt again"
            ) from error

    @property
    def limits(self) -> dict[str, float | None]:
        """What the limits are, for reports."""
        return {
            "nats": self.limit, "second": self.limit_second, "a_token": self.a_token,
            "surprise": self.surprise, "pmi": self.together.least if self.together else None,
        }  # fmt: skip


def _lengths(texts: TokenTexts) -> NDArray[np.float64]:
    return np.array([len(row) for row in texts.rows], dtype=float)
