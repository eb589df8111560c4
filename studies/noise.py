"""Noise embeddings, put to the test: `cllm study noise --json`.

Tokens have random keys; a text is noise on keys, found by search, with no gradient. Are seen and
new texts given back, at how many bits a token beside gzip and a CLLM; how fast is a look-up; what
do examples' means make of new contexts; and are words found in characters? Goes on where it
stopped.
"""

# Shapes: N texts or values, T tokens, D coordinates.
from __future__ import annotations

import argparse
import json
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import Corpus, build_corpus, built_in_corpus
from cllm.errors import InputError
from cllm.files import digest, read_json, write_json
from cllm.metrics import bootstrap, bootstrap_of, token_accuracy
from cllm.model import CLLM
from cllm.reading import read_rows
from cllm.run import SHIPPED, RunFolder
from cllm.sphere import unit
from studies.noise_keys import DIGITS, Keys
from studies.noise_texts import Chain, Examples, Vocabulary
from studies.noise_words import JOIN, Cutter, Graphs, Letters, f1, f1_counts

log = logging.getLogger(__name__)

METHOD = 1  # raised when the same texts would be measured otherwise
SIZES = (1_000, 10_000, 100_000, 1_000_000)  # keys looked up among
TURNS = 5  # of each way to look up
COORDINATE_BITS = range(2, 9)
WINDOWS = tuple((before, after) for before in range(1, 6) for after in range(1, 6))
Facts = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if options.measured < 2:
            raise InputError("--measured must be 2 or more")
        corpus = corpus_of(options)
        parts: dict[str, Callable[[], Facts]] = {
            "stored": lambda: stored(corpus, options),
            "looked_up": lambda: looked_up(options.seed),
            "mapped": lambda: mapped(corpus, options),
            "words": lambda: words(corpus, options),
        }
        asked = digest(corpus.hash, str((options.measured, options.seed, METHOD)))[:8]
        told: Facts = {"source": corpus.info.get("source", str(options.corpus))}
        for name, part in parts.items():
            kept = options.out / f"{name}-{asked}.json"
            if not kept.exists():
                log.info("noise embeddings: %s", name)
                write_json(kept, part())
            told[name] = read_json(kept)
        write_json(options.out / "noise.json", told)
        print(json.dumps(told))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(prog="cllm study noise", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--corpus", type=Path, help="a file of texts [default: built-in recipes, beside "
                   "the shipped model]")  # fmt: skip
    p.add_argument("--texts", type=int, default=20_000, help="built-in recipes")
    p.add_argument("--measured", type=int, default=300, help="held-out texts, at most")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("runs/noise"), help="a folder")
    return p


def corpus_of(options: argparse.Namespace) -> Corpus:
    """The file's texts, or built-in recipes; the shipped model has not seen their test split."""
    if options.corpus is None:
        return built_in_corpus("plain", options.texts, 0)
    return build_corpus(read_rows(options.corpus), seed=0)


def stored(corpus: Corpus, options: argparse.Namespace) -> Facts:
    """Texts given back, and bits a token: noise, gzip, and a CLLM with what it got wrong added."""
    train = corpus.select("train").texts
    test = corpus.select("test").sample(options.measured).texts
    vocabulary = Vocabulary.of(train)
    keys = Keys.drawn(len(vocabulary.pieces), np.random.default_rng([options.seed, 1]))
    chain = Chain.learnt([vocabulary.read(text) for text in train], keys)
    told: Facts = {"vocabulary": len(vocabulary.pieces), "log2_vocabulary": float(
        np.log2(len(vocabulary.pieces)))}  # fmt: skip
    for name, texts in (("seen", train[: options.measured]), ("unseen", test)):
        back, bits, tokens = 0, 0.0, 0
        for text in texts:
            ids = vocabulary.read(text)
            code = chain.encode(ids)
            back += vocabulary.text(chain.decode(code)) == text
            bits, tokens = bits + chain.bits(code), tokens + len(ids)
        told[name] = {"texts": len(texts), "recovered": back / len(texts),
                      "bits_a_token": bits / tokens, "tokens": tokens / len(texts)}  # fmt: skip
    tokens = sum(len(vocabulary.read(text)) for text in test)
    told["gzip"] = {
        name: 8 * size / tokens for name, size in {
            "each alone": sum(len(zlib.compress(text.encode(), 9)) for text in test),
            "each, training texts as its dictionary": _with_dictionary(train, test),
            "all as one": len(zlib.compress("\n".join(test).encode(), 9)),
        }.items()
    }  # fmt: skip
    if options.corpus is None:
        model = RunFolder(SHIPPED).load_model()
        told["cllm"] = _by_cllm(model, corpus, test, vocabulary)
    return told


def _with_dictionary(train: Sequence[str], test: Sequence[str]) -> int:
    """Bytes, deflated one by one with as much of the training texts as deflate looks back on."""
    known = "\n".join(train).encode()[-32_768:]
    size = 0
    for text in test:
        packer = zlib.compressobj(9, zdict=known)
        size += len(packer.compress(text.encode()) + packer.flush())
    return size


def _by_cllm(model: CLLM, corpus: Corpus, test: Sequence[str], vocabulary: Vocabulary) -> Facts:
    """Texts restored, and bits a token with what is wrong corrected.

    How many bits a coordinate has, validation texts choose.
    """
    chosen = corpus.select("validation").sample(len(test)).texts
    by_bits = {bits: _rounded(model, chosen, bits, vocabulary) for bits in COORDINATE_BITS}
    best = min(by_bits, key=lambda bits: by_bits[bits]["bits_a_token_corrected"])
    return {
        "dim": model.config.dim, "validation": {str(bits): one for bits, one in by_bits.items()},
        "bits_a_coordinate": best,
    } | _rounded(model, test, best, vocabulary)  # fmt: skip


def _rounded(model: CLLM, texts: Sequence[str], bits: int, vocabulary: Vocabulary) -> Facts:
    """Of vectors with so many bits a coordinate."""
    vectors_ND, steps = model.encode(texts), 2**bits - 1
    most = 3 / model.config.dim**0.5  # a unit vector's coordinates are seldom larger
    level_ND = np.round((vectors_ND.clip(-most, most) / most + 1) / 2 * steps)
    written = model.decode(unit(level_ND / steps * 2 - 1).astype(np.float32))
    read = [vocabulary.read(text) for text in texts]
    tokens, stored = sum(map(len, read)), bits * model.config.dim * len(texts)
    repairs = sum(
        _repair(ids, vocabulary.read(text), len(vocabulary.pieces))
        for ids, text in zip(read, written, strict=True)
    )
    return {
        "recovered": float(np.mean([a == b for a, b in zip(texts, written, strict=True)])),
        "bits_a_token": stored / tokens, "bits_a_token_corrected": (stored + repairs) / tokens,
    }  # fmt: skip


def _repair(ids: Sequence[int], wrong: Sequence[int], vocabulary: int) -> float:
    """Bits to say how many places are wrong, where, and which tokens stand there."""
    changes = [
        change for change in SequenceMatcher(None, wrong, ids, autojunk=False).get_opcodes()
        if change[0] != "equal"
    ]  # fmt: skip
    place = np.log2(len(ids) + 1)
    put = sum(high - low for _, _, _, low, high in changes)
    return float(place + 2 * place * len(changes) + put * np.log2(vocabulary) if changes else 1)


def looked_up(seed: int) -> Facts:
    """Look-ups a second, by number of keys: buckets, a linear scan, and `numpy.searchsorted`.

    That one finds the nearest number, which is another question, and the floor of this one.
    """
    told = {}
    for size in SIZES:
        rng = np.random.default_rng([seed, 2, size])
        keys = Keys.drawn(size, rng)
        values_NP = rng.integers(0, 10, (20_000, DIGITS)).astype(np.int8)
        scanned_NP = values_NP[: max(5, 2_000_000 // size)]
        tens = 10 ** np.arange(DIGITS - 1, -1, -1)
        sorted_V, values_N = np.sort(keys.digits_VP @ tens), values_NP @ tens
        ways: dict[str, tuple[int, Callable[[], Any]]] = {
            "buckets": (len(values_NP), lambda keys=keys, x=values_NP: keys.nearest(x)),
            "scan": (len(scanned_NP), lambda keys=keys, x=scanned_NP: keys.scanned(x)),
            "searchsorted": (
                len(values_N), lambda known=sorted_V, x=values_N: np.searchsorted(known, x)
            ),
        }  # fmt: skip
        if not np.array_equal(keys.nearest(scanned_NP), keys.scanned(scanned_NP)):
            raise AssertionError(f"buckets miss the nearest of {size} keys")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, (count, look) in ways.items():
                begun = time.perf_counter()
                look()
                seconds[name].append((time.perf_counter() - begun) / count)
        each = {name: np.array(some) for name, some in seconds.items()}
        told[str(size)] = {f"{name}_a_second": float(1 / np.median(s)) for name, s in each.items()}
        for name in ("scan", "searchsorted"):
            ratio = each[name] / each["buckets"]
            told[str(size)][f"over_{name}"] = float(np.median(ratio))
            told[str(size)][f"over_{name}_range"] = [float(ratio.min()), float(ratio.max())]
    return told


def mapped(corpus: Corpus, options: argparse.Namespace) -> Facts:
    """A text's first part to its second: by the noise of the example whose mean is nearest."""
    rng = np.random.default_rng([options.seed, 3])
    train = corpus.select("train").texts
    vocabulary = Vocabulary.of(train)
    keys = Keys.drawn(len(vocabulary.pieces), rng)

    def halves(texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        parts = [text.partition(". ") for text in texts]
        read = [(vocabulary.read(a), vocabulary.read(b)) for a, _, b in parts]
        return [(a, b) for a, b in read if a and b]

    examples = halves(train)
    if len(examples) < 2:
        raise InputError("no text of this corpus has a first part, which ends with '. '")
    contexts, targets = zip(*examples, strict=True)
    learnt = Examples.learnt(contexts, targets, keys)
    own_E = np.argsort(learnt.order_E)  # rows of the examples as they were given
    known = {tuple(ids) for ids in contexts}
    shown = min(options.measured, len(examples))
    written = learnt.written(contexts[:shown], own_E[:shown])
    told: Facts = {"examples": len(examples), "seen": _agree(
        targets[:shown], written, vocabulary)}  # fmt: skip
    unseen = halves(corpus.select("test").sample(options.measured).texts)
    for name, some in {
        "unseen, first part seen": [pair for pair in unseen if tuple(pair[0]) in known],
        "unseen, first part new": [pair for pair in unseen if tuple(pair[0]) not in known],
    }.items():
        if len(some) < 2:
            continue
        asked, true = zip(*some, strict=True)
        rows = learnt.nearest(asked)
        told[name] = {
            "noise of the nearest": _agree(true, learnt.written(asked, rows), vocabulary),
            "target of the nearest": _agree(
                true, [targets[i] for i in learnt.order_E[rows]], vocabulary
            ),
            "target of any": _agree(
                true, [targets[i] for i in rng.integers(len(targets), size=len(true))], vocabulary
            ),
        }
    return told


def _agree(
    true: Sequence[Sequence[int]], written: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> Facts:
    """Texts given back whole, and tokens in their places."""
    exact_N = np.array([list(a) == list(b) for a, b in zip(true, written, strict=True)])
    right_N = np.array([token_accuracy(a, b) for a, b in zip(true, written, strict=True)])
    found = bootstrap(right_N, np.random.default_rng(0))
    return {
        "texts": len(true), "exact": float(exact_N.mean()), "tokens": found.mean,
        "tokens_ci": found.ci, "example": vocabulary.text(written[0])[:200],
    }  # fmt: skip


def words(corpus: Corpus, options: argparse.Namespace) -> Facts:
    """Cuts between words on new texts, F1: by noise, with graph tokens after it, and baselines."""
    train = corpus.select("train").sample(10 * options.measured).texts
    alphabet = "".join(sorted({letter for text in train for letter in text if letter.strip()}))
    keys = Keys.drawn(len(alphabet) + JOIN + 1, np.random.default_rng([options.seed, 4]))
    letters = {
        "train": Letters.of(train, alphabet),
        "validation": Letters.of(
            corpus.select("validation").sample(options.measured).texts, alphabet
        ),
        "test": Letters.of(corpus.select("test").sample(options.measured).texts, alphabet),
    }

    def score(cutter: Cutter) -> float:
        known = letters["validation"]
        return f1(f1_counts(cutter.cuts(known), known))

    cutter = max((Cutter.learnt(letters["train"], keys, *w) for w in WINDOWS), key=score)
    rng = np.random.default_rng([options.seed, 5])
    graphs = Graphs.dictionary(letters["train"], alphabet, rng)
    known = letters["validation"]
    after = graphs.searched(known, cutter.cuts(known), rng)
    alone = graphs.searched(known, np.zeros(len(known.ids_N), bool), rng)
    test = letters["test"]
    none, every = (np.full(len(test.ids_N), value) for value in (False, True))
    cut_N = cutter.cuts(test)
    found = {
        "noise": cut_N, "noise, then graph tokens": after.run(test, cut_N),
        "graph tokens alone": alone.run(test, none), "no cut (majority)": none,
        "every place": every,
        "any place, as often": rng.random(len(test.ids_N)) < letters["train"].cut_N.mean(),
    }  # fmt: skip
    counts = {name: f1_counts(cuts, test) for name, cuts in found.items()}
    told: Facts = {
        "window": [cutter.before, cutter.after], "examples": len(cutter.means_E),
        "graph_tokens": [token.named(alphabet) for token in after.sequence],
        "graph_tokens_alone": [token.named(alphabet) for token in alone.sequence],
        "dictionary": len(graphs.tokens), "cut": float(test.cut_N.mean()),
        "f1": {name: _f1_told(c) for name, c in counts.items()},
    }  # fmt: skip
    for name, less in (("noise", "every place"), ("noise, then graph tokens", "noise")):
        told[f"{name} − {less}"] = _f1_less(counts[name], counts[less])
    return told


def _f1_told(counts_n3: NDArray[np.int64]) -> Facts:
    found = bootstrap_of(lambda rows: f1(counts_n3[rows]), len(counts_n3),
                         np.random.default_rng(0))  # fmt: skip
    return {"f1": f1(counts_n3), "ci": found.ci}


def _f1_less(left_n3: NDArray[np.int64], right_n3: NDArray[np.int64]) -> Facts:
    found = bootstrap_of(
        lambda rows: f1(left_n3[rows]) - f1(right_n3[rows]), len(left_n3), np.random.default_rng(0)
    )
    return {"difference": f1(left_n3) - f1(right_n3), "ci": found.ci}


if __name__ == "__main__":
    main()
