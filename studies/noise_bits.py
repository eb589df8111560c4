"""Bits a token that it takes to store texts: noise on keys, deflate, counting, and a CLLM.

told = stored(corpus, model, most=300, seed=0)
"""

# Shapes: n texts, D coordinates.
from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.corpus import Corpus
from cllm.metrics import bootstrap_of
from cllm.model import CLLM
from cllm.sphere import unit
from studies.noise_keys import Keys
from studies.noise_texts import STOP, Chain, Vocabulary, followers

COORDINATE_BITS = range(2, 9)
PLACE = 8  # bits of a place in a text, or of a length: 255 tokens at most
WINDOW = 32_768  # bytes that deflate looks back on
RAW = -15  # deflate without head and checksum
Facts = dict[str, Any]
Floats = NDArray[np.float64]


def stored(corpus: Corpus, model: CLLM | None, most: int, seed: int) -> Facts:
    """Texts given back, and bits a token with intervals over texts; tables are not counted."""
    train = corpus.select("train").texts
    seen, unseen = (
        corpus.select("train").sample(most).texts,
        corpus.select("test").sample(most).texts,
    )
    vocabulary = Vocabulary.of(train)
    sequences = [vocabulary.read(text) for text in train]
    keys = Keys.drawn(len(vocabulary.pieces), np.random.default_rng([seed, 1]))
    chain, pairs = Chain.learnt(sequences, keys), Pairs(sequences, len(vocabulary.pieces))
    size_n = np.array([len(vocabulary.read(text)) for text in unseen], float)
    told: Facts = {
        "vocabulary": len(vocabulary.pieces),
        "log2_vocabulary": float(np.log2(len(vocabulary.pieces))), "tokens": float(size_n.mean()),
    }  # fmt: skip
    for name, texts in (("seen", seen), ("unseen", unseen)):
        read = [vocabulary.read(text) for text in texts]
        codes = [chain.encode(ids) for ids in read]
        back = [vocabulary.text(chain.decode(code)) == text
                for code, text in zip(codes, texts, strict=True)]  # fmt: skip
        bits_n = np.array([chain.bits(code) for code in codes])
        own_n = np.array([len(ids) for ids in read], float)
        told[name] = {"texts": len(texts), "recovered": float(np.mean(back))} | _a_token(
            bits_n, own_n)  # fmt: skip
    known = "\n".join(train).encode()[-WINDOW:]
    ways: dict[str, Callable[[str], float]] = {
        "deflate": lambda text: 8 * len(_deflated(text)),
        "deflate, training texts as its dictionary": lambda text: 8 * len(_deflated(text, known)),
        "pairs of tokens counted": lambda text: pairs.bits(vocabulary.read(text)),
    }
    for name, bits in ways.items():
        told[name] = _a_token(np.array([bits(text) for text in unseen]), size_n)
    whole = 8 * len(_deflated("\n".join(unseen)))
    told["deflate, all as one"] = {"bits_a_token": whole / float(size_n.sum())}
    if model:
        told["cllm"] = _by_cllm(model, corpus, unseen, vocabulary)
    return told


def _a_token(bits_n: Floats, tokens_n: Floats) -> Facts:
    found = bootstrap_of(lambda rows: float(bits_n[rows].sum() / tokens_n[rows].sum()),
                         len(bits_n), np.random.default_rng(0))  # fmt: skip
    return {"bits_a_token": found.mean, "bits_a_token_ci": found.ci}


def _deflated(text: str, known: bytes = b"") -> bytes:
    packer = zlib.compressobj(9, wbits=RAW, **({"zdict": known} if known else {}))
    return packer.compress(text.encode()) + packer.flush()


class Pairs:
    """What counting alone comes to: a token given the last one, by Witten and Bell (1991)."""

    def __init__(self, sequences: Sequence[Sequence[int]], vocabulary: int) -> None:
        self.after = followers(sequences, vocabulary)
        single_V = np.ones(vocabulary)
        for after in self.after:
            for token, count in after.items():
                single_V[token] += count
        self.single_V = single_V / single_V.sum()

    def bits(self, ids: Sequence[int]) -> float:
        """Of a text and its stop."""
        found = 0.0
        for before, token in zip([STOP, *ids], [*ids, STOP], strict=True):
            after = self.after[before]
            kinds, seen = len(after), after.total()
            share = (after[token] + kinds * self.single_V[token]) / (kinds + seen) if seen else (
                self.single_V[token])  # fmt: skip
            found -= float(np.log2(share))
        return found


def _by_cllm(model: CLLM, corpus: Corpus, unseen: Sequence[str], vocabulary: Vocabulary) -> Facts:
    """Texts restored, and bits a token with what is wrong corrected.

    How many bits a coordinate has, and its range, validation texts choose.
    """
    chosen = corpus.select("validation").sample(len(unseen)).texts
    most = float(np.abs(model.encode(chosen)).max())
    by_bits = {bits: rounded(model, chosen, bits, most, vocabulary) for bits in COORDINATE_BITS}
    best = min(by_bits, key=lambda bits: by_bits[bits]["corrected"]["bits_a_token"])
    return {
        "dim": model.config.dim, "validation": {str(bits): one for bits, one in by_bits.items()},
        "bits_a_coordinate": best,
    } | rounded(model, unseen, best, most, vocabulary)  # fmt: skip


def rounded(
    model: CLLM, texts: Sequence[str], bits: int, most: float, vocabulary: Vocabulary
) -> Facts:
    """Of vectors with so many bits a coordinate, in -most..most."""
    vectors_nD, steps = model.encode(texts), 2**bits - 1
    level_nD = np.round((vectors_nD.clip(-most, most) / most + 1) / 2 * steps)
    written = model.decode(unit(level_nD / steps * 2 - 1).astype(np.float32))
    read = [vocabulary.read(text) for text in texts]
    size_n = np.array([len(ids) for ids in read], float)
    vector_n = np.full(len(texts), float(bits * model.config.dim))
    repair_n = np.array([
        repair(ids, vocabulary.read(text), len(vocabulary.pieces))
        for ids, text in zip(read, written, strict=True)
    ])  # fmt: skip
    return {
        "recovered": float(np.mean([a == b for a, b in zip(texts, written, strict=True)])),
        "vector": _a_token(vector_n, size_n), "corrected": _a_token(vector_n + repair_n, size_n),
    }  # fmt: skip


def repair(ids: Sequence[int], wrong: Sequence[int], vocabulary: int) -> float:
    """Bits that turn a wrong text into the right one: whether, how many changes, and each.

    Of each change its place, how many tokens go, how many come, and which.
    """
    changes = [
        change for change in SequenceMatcher(None, wrong, ids, autojunk=False).get_opcodes()
        if change[0] != "equal"
    ]  # fmt: skip
    if not changes:
        return 1.0
    come = sum(high - low for _, _, _, low, high in changes)
    return float(1 + PLACE + 3 * PLACE * len(changes) + come * np.log2(vocabulary))
