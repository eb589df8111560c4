"""A topic of a corpus: its texts apart from the rest, who hits it, and texts that must not count.

topic = Topic.of(corpus, "pizza"); topic.rest, topic.unseen
hits = Classifier.learn(topic)(texts)
"""

# Shapes: N texts of the corpus, n texts, W words.
from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from cllm.content import singular
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.noise import text_keys
from cllm.words import WORD, words_of

Mask = NDArray[np.bool_]

FEWEST = 50  # texts of a topic, and of the rest
PARTS = (0.6, 0.7)  # of a topic: up to here trained on, up to here scored by, then never seen
FALSE_ALARMS = 0.01  # of held-out other texts that the classifier may take for the topic's
DOCUMENTED = ("argparse", "asyncio", "collections", "concurrent.futures", "datetime", "decimal",
              "difflib", "email.message", "fractions", "functools", "http.client", "inspect",
              "itertools", "json", "logging", "os", "pathlib", "random", "shutil", "socket",
              "statistics", "string", "subprocess", "tarfile", "textwrap", "threading",
              "unittest", "urllib.request", "zipfile")  # fmt: skip


@dataclass(frozen=True)
class Topic:
    """A corpus in two: texts of a topic, and the rest."""

    name: str
    rest: Corpus
    seen: tuple[str, ...]  # a second model is trained on them
    scored: tuple[str, ...]  # and kept by them
    unseen: tuple[str, ...]

    @classmethod
    def of(cls, corpus: Corpus, name: str) -> Topic:
        """By title, of built-in recipes by dish; near texts stay together.

        The rest has no text that is near one of the topic's. InputError: fewer than FEWEST texts
        on it, or too few that are not.
        """
        inside_N = _on(corpus, name)
        inside = corpus.only(inside_N.tolist())
        near = set(inside.groups)
        rest = corpus.only([group not in near for group in corpus.groups])
        if len(inside) < FEWEST:
            raise InputError(
                f"{len(inside)} texts are on {name!r}; {FEWEST} or more say something: choose a "
                "topic that more titles name"
            )
        if any(len(rest.select(split)) < FEWEST for split in ("train", "validation", "test")):
            raise InputError(
                f"{len(inside)} of {len(corpus)} texts are on {name!r}, and {len(rest)} neither on "
                f"it nor near it: too few for {FEWEST} of each split; choose a narrower topic, or "
                "give more texts"
            )
        place_n = text_keys(inside.groups) / 2**64
        first, last = PARTS
        parts = (place_n < first, (place_n >= first) & (place_n < last), place_n >= last)
        seen, scored, unseen = (inside.only(part.tolist()).texts for part in parts)
        if not (seen and scored and unseen):
            raise InputError(f"the texts on {name!r} are too much alike to be split")
        return cls(name, rest, seen, scored, unseen)

    def without_unseen(self, corpus: Corpus) -> Corpus:
        """The whole corpus but for what no model may see, and what is near it."""
        unseen = set(self.unseen)
        pairs = zip(corpus.texts, corpus.groups, strict=True)
        near = {group for text, group in pairs if text in unseen}
        return corpus.only([group not in near for group in corpus.groups])

    @property
    def words_elsewhere(self) -> float:
        """Share of its words, but for its name's, that texts of the rest use, too."""
        known = {word for text in self.rest.texts for word in _words(text)}
        own = [word for text in self.unseen for word in _words(unnamed(text, self.name))]
        return sum(word in known for word in own) / max(1, len(own))


def _on(corpus: Corpus, name: str) -> Mask:
    """Which texts are on a topic, (N,): by title, or by the text where that has none."""
    if corpus.info.get("richness"):
        from cllm.recipes import combination

        pairs = [combination(text) for text in corpus.texts]
        return np.array([pair is not None and pair[0] == name.lower() for pair in pairs])
    wanted = words_of(name)
    if not wanted:
        raise InputError(f"the topic {name!r} holds no word")
    titles = [title or text for title, text in zip(corpus.titles, corpus.texts, strict=True)]
    return np.array([wanted <= words_of(title) for title in titles])


def most_shared(corpus: Corpus, count: int) -> list[str]:
    """Dishes of built-in recipes, with texts enough, whose words occur most elsewhere."""
    from cllm.recipes import combination

    share: dict[str, float] = {}
    for dish in sorted({pair[0] for text in corpus.texts if (pair := combination(text))}):
        with suppress(InputError):
            share[dish] = Topic.of(corpus, dish).words_elsewhere
    if len(share) < count:
        raise InputError(f"{len(share)} dishes have texts enough, of {count}; give more --texts")
    return sorted(share, key=lambda dish: -share[dish])[:count]


def unnamed(text: str, name: str) -> str:
    """A text without the words of the topic's name, in either number."""
    own = words_of(name)
    return " ".join(word for word in _words(text) if singular(word) not in own)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


class Classifier:
    """Tells a topic's texts from others by their words, but for its name's."""

    def __init__(self, topic: Topic) -> None:
        """Logistic regression on TF-IDF, of texts that the second model sees, too."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        self.name = topic.name
        others = topic.rest.select("train").texts
        words = TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True)
        self._told = make_pipeline(words, LogisticRegression(C=10, class_weight="balanced"))
        real = [True] * len(topic.seen) + [False] * len(others)
        self._told.fit(self._plain([*topic.seen, *others]), real)
        held_out_n = self._logits(topic.rest.select("validation").texts)
        self.least = float(np.quantile(held_out_n, 1 - FALSE_ALARMS))

    def __call__(self, texts: Sequence[str]) -> Mask:
        """Which texts hit the topic, (n,)."""
        return self._logits(texts) > self.least

    def _logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(self._told.decision_function(self._plain(texts)))

    def _plain(self, texts: Sequence[str]) -> list[str]:
        return [unnamed(text, self.name) for text in texts]


def shuffled(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The same words in another order: no texts, wherever they lie."""
    return [" ".join(rng.permutation(text.split())) for text in texts]


def of_another_domain(count: int, words: int) -> list[str]:
    """English on another subject: what Python's own library says of itself, cut to some words."""
    found: dict[str, None] = {}
    for module in map(import_module, DOCUMENTED):
        for value in vars(module).values():
            told = inspect.getdoc(value) if callable(value) else None
            if told and len(told.split()) >= words // 2:
                found[" ".join(told.split()[:words])] = None
    texts = list(found)
    return [texts[row] for row in np.argsort(text_keys(texts), kind="stable")[:count]]
