"""Noise embeddings, put to the test: `cllm study noise --json`.

Tokens have random keys; a text is noise on keys, found by search, with no gradient. Are seen and
new texts given back, at how many bits a token beside gzip and a CLLM; how fast is a look-up; what
do examples' means make of new contexts; and are words found in characters? Goes on where it
stopped.
"""

# Shapes: N values or characters, n texts, V keys, P digits.
from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import Corpus, build_corpus, built_in_corpus
from cllm.errors import InputError
from cllm.files import digest, read_json, write_json
from cllm.metrics import bootstrap, bootstrap_of, token_accuracy
from cllm.reading import read_rows
from cllm.run import SHIPPED, RunFolder
from studies.noise_bits import stored
from studies.noise_keys import DIGITS, PLACES, Keys, costs
from studies.noise_texts import By, Examples, Vocabulary, nearest_of
from studies.noise_told import in_words
from studies.noise_words import (
    JOIN,
    Cutter,
    Graphs,
    Letters,
    f1,
    f1_counts,
    next_of,
    pairs_cut,
)

log = logging.getLogger(__name__)

METHOD = 2  # raised when the same texts would be measured otherwise
EXAMPLES = 10_000  # of first and second parts, at most
SIZES = (1_000, 10_000, 100_000, 1_000_000)  # keys looked up among
TURNS = 5  # of each way to look up
WINDOWS = tuple((before, after) for before in range(1, 6) for after in range(1, 6))
LESS = (  # differences that are told
    ("noise", "every place"), ("noise", "pairs of characters counted"),
    ("noise", "what the nearest example says"), ("noise, then graph tokens", "noise"),
    ("noise, then graph tokens", "graph tokens alone"),
    ("graph tokens alone", "pairs of characters counted"),
)  # fmt: skip
Facts = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if options.measured < 2:
            raise InputError("--measured must be 2 or more")
        corpus = corpus_of(options)
        model = None if options.corpus else RunFolder(SHIPPED).load_model()
        parts: dict[str, Callable[[], Facts]] = {
            "stored": lambda: stored(corpus, model, options.measured, options.seed),
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
        told["words_told"] = in_words(told)
        write_json(options.out / "noise.json", told)
        print(json.dumps(told) if options.json else "\n".join(told["words_told"]))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(prog="cllm study noise", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
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


def looked_up(seed: int) -> Facts:
    """Look-ups a second, by number of keys: buckets, a linear scan, and `numpy.searchsorted`.

    All at once, and one by one. `searchsorted` finds the nearest number, which is another
    question, and the floor of this one.
    """
    return {str(size): _looked_up(size, np.random.default_rng([seed, 2, size])) for size in SIZES}


def _looked_up(size: int, rng: np.random.Generator) -> Facts:
    keys = Keys.drawn(size, rng)
    values_NP = rng.integers(0, 10, (20_000, DIGITS)).astype(np.int8)
    scanned_NP = values_NP[: max(5, 2_000_000 // size)]
    near, scanned = keys.nearest(scanned_NP), keys.scanned(scanned_NP)
    cost_2N = [costs(keys.digits_VP[found], scanned_NP) for found in (near, scanned)]
    if not np.allclose(*cost_2N):
        raise AssertionError(f"buckets miss the nearest of {size} keys")
    sorted_V, values_N = np.sort(keys.digits_VP @ PLACES), values_NP @ PLACES
    one_by_one = values_NP[:200, None]
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "buckets": (len(values_NP), lambda: keys.nearest(values_NP)),
        "scan": (len(scanned_NP), lambda: keys.scanned(scanned_NP)),
        "searchsorted": (len(values_N), lambda: nearest_of(sorted_V, values_N)),
        "buckets, one by one": (len(one_by_one), lambda: [keys.nearest(x) for x in one_by_one]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, (count, look) in ways.items():
            begun = time.perf_counter()
            look()
            seconds[name].append((time.perf_counter() - begun) / count)
    each = {name: np.array(some) for name, some in seconds.items()}
    told: Facts = {f"{name}, a second": float(1 / np.median(s)) for name, s in each.items()}
    for name, other in (("buckets", "scan"), ("buckets", "searchsorted"),
                        ("buckets, one by one", "scan")):  # fmt: skip
        ratio = each[other] / each[name]
        told[f"{name} over {other}"] = float(np.median(ratio))
        told[f"{name} over {other}, range"] = [float(ratio.min()), float(ratio.max())]
    return told


def mapped(corpus: Corpus, options: argparse.Namespace) -> Facts:
    """A text's first part to its second: by the noise of the example that is nearest."""
    rng = np.random.default_rng([options.seed, 3])
    vocabulary = Vocabulary.of(corpus.select("train").texts)
    keys = Keys.drawn(len(vocabulary.pieces), rng)

    def halves(texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        parts = [text.partition(". ") for text in texts]
        read = [(vocabulary.read(a), vocabulary.read(b)) for a, _, b in parts]
        return [a for a, b in read if a and b], [b for a, b in read if a and b]

    contexts, targets = halves(corpus.select("train").sample(EXAMPLES).texts)
    asked, true = halves(corpus.select("test").sample(options.measured).texts)
    if min(len(contexts), len(asked)) < 2:
        raise InputError("no text of this corpus has a first part, which ends with '. '")
    learnt = Examples.learnt(contexts, targets, keys)
    seen = rng.permutation(len(contexts))[: options.measured]
    seen_contexts, seen_targets = ([some[i] for i in seen] for some in (contexts, targets))
    any_ = [targets[i] for i in rng.integers(len(targets), size=len(true))]
    told: Facts = {
        "examples": len(contexts), "distinct contexts": len(set(map(tuple, contexts))),
        "seen, own noise": _agree(seen_targets, learnt.written(seen_contexts, seen), vocabulary),
        "unseen, target of any": _agree(true, any_, vocabulary),
    }  # fmt: skip
    ways: tuple[By, ...] = ("mean", "mean and variance", "noise")
    for by in ways:
        rows = learnt.nearest(seen_contexts, by)
        told[f"seen, noise by {by}"] = _agree(
            seen_targets, learnt.written(seen_contexts, rows), vocabulary
        )
        rows = learnt.nearest(asked, by)
        told[f"unseen, noise by {by}"] = _agree(true, learnt.written(asked, rows), vocabulary)
        told[f"unseen, target by {by}"] = _agree(true, [targets[i] for i in rows], vocabulary)
    return told


def _agree(
    true: Sequence[Sequence[int]], written: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> Facts:
    """Texts given back whole, and tokens in their places."""
    pairs = list(zip(true, written, strict=True))
    right_n = np.array([token_accuracy(a, b) for a, b in pairs])
    found = bootstrap(right_n, np.random.default_rng(0))
    return {
        "texts": len(true), "exact": float(np.mean([list(a) == list(b) for a, b in pairs])),
        "tokens": found.mean, "tokens_ci": found.ci,
        "example": vocabulary.text(written[0])[:200],
    }  # fmt: skip


def words(corpus: Corpus, options: argparse.Namespace) -> Facts:
    """Cuts between words on new texts, F1: by noise, with graph tokens after it, and baselines."""
    train = corpus.select("train").sample(10 * options.measured).texts
    alphabet = "".join(sorted({letter for text in train for letter in text if letter.strip()}))
    size = len(alphabet) + JOIN + 1
    keys = Keys.drawn(size, np.random.default_rng([options.seed, 4]))
    seen = Letters.of(train, alphabet)
    known, test = (
        Letters.of(corpus.select(split).sample(options.measured).texts, alphabet)
        for split in ("validation", "test")
    )

    def score(cutter: Cutter) -> float:
        return f1(f1_counts(cutter.cuts(known), known))

    cutter = max((Cutter.learnt(seen, keys, *window) for window in WINDOWS), key=score)
    rng = np.random.default_rng([options.seed, 5])
    graphs = Graphs.dictionary(seen, alphabet, rng)
    after = graphs.searched(known, cutter.cuts(known))
    alone = graphs.searched(known, np.zeros(len(known.ids_N), bool))
    every = np.ones(len(test.ids_N), bool)
    cut_N, pairs = cutter.cuts(test), pairs_cut(seen, size)[1]
    found = {
        "noise": cut_N, "what the nearest example says": cutter.cut_E[cutter.nearest(test)],
        "noise, then graph tokens": after.run(test, cut_N),
        "graph tokens alone": alone.run(test, ~every), "no cut (majority)": ~every,
        "every place": every, "pairs of characters counted": pairs[test.ids_N, next_of(test)],
        "any place, as often": rng.random(len(test.ids_N)) < seen.cut_N.mean(),
    }  # fmt: skip
    counts = {name: f1_counts(cuts, test) for name, cuts in found.items()}
    told: Facts = {
        "window": [cutter.before, cutter.after], "examples": len(cutter.mean_E),
        "windows whose mean is known": cutter.known(test), "cut": float(test.cut_N.mean()),
        "dictionary": len(graphs.tokens),
        "graph_tokens": [token.named(alphabet) for token in after.sequence],
        "graph_tokens_alone": [token.named(alphabet) for token in alone.sequence],
        "f1": {
            name: bootstrapped(lambda rows, c=each: f1(c[rows]), len(each))
            for name, each in counts.items()
        },
    }  # fmt: skip
    for name, less in LESS:
        told[f"{name} − {less}"] = bootstrapped(
            lambda rows, a=counts[name], b=counts[less]: f1(a[rows]) - f1(b[rows]),
            len(counts[name]),
        )
    return told


def bootstrapped(score: Callable[[Any], float], texts: int) -> Facts:
    """Over texts."""
    found = bootstrap_of(score, texts, np.random.default_rng(0))
    return {"mean": found.mean, "ci": found.ci}


if __name__ == "__main__":
    main()
