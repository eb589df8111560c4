"""Do two levels carry long texts better than one level, or passages: `cllm study levels --json`.

A vector for the text over vectors of its passages, against one over the text as far as one context
goes, and against independent vectors of the passages, of as many coordinates in all. Each arm has
its own base of the same size and time. Without --corpus: menus, each of recipes with one main
ingredient. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cllm import discovery, pipeline
from cllm.cli_corpus import read_corpus
from cllm.console import one_line_errors, set_up_logging
from cllm.content import content_f1, content_items, lemmas
from cllm.corpus import Corpus, build_corpus
from cllm.critics import make_critic
from cllm.errors import InputError
from cllm.evaluate import nats_without
from cllm.files import read_json, write_json
from cllm.ideas import Idea, load_ideas
from cllm.losses import text_nats
from cllm.metrics import Interval, bootstrap, paired_difference
from cllm.passages import passages, passages_of
from cllm.pretrain import token_texts
from cllm.reading import Row
from cllm.recipes import Grammar, check, combination
from cllm.run import RunFolder
from cllm.settings import RunSettings, overridden

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

TWO, ALONE, CUT = ARMS = ("two levels", "passages alone", "cut")
PER_TEXT = ("content_f1", "words_f1", "gain_nats", "order")
MOST_RECIPES = 6  # of a menu
VOID_DIM = 8  # coordinates that voids are sought in, in every arm: more take hours
METHOD = 5  # raised when the same would be measured otherwise


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, measure it on test texts, and print one JSON object."""
    o = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if min(o.texts, o.dim, o.passage) < 2 or o.seeds < 1 or o.first_seed < 0:
            raise InputError("--texts, --dim and --passage must be 2 or more, --seeds 1 or more, "
                             "--first-seed 0 or more")  # fmt: skip
        corpus = read_corpus(o.corpus, "text", 100, 0) if o.corpus else menus(o.texts, 0)
        corpus = long_ones(corpus, o)
        arms: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        # arms of a seed one after the other: the same busy machine
        for seed in range(o.first_seed, o.first_seed + o.seeds):
            for arm, told_of in arms.items():
                told_of.append(measured(arm, seed, corpus, o))
        told = summary(arms) | facts_of(corpus, o)
        write_json(o.out / "levels.json", told)
        print(json.dumps(told) if o.json else "\n".join(table(told)))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(
        prog="cllm study levels", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    p.add_argument("--corpus", type=Path, help="long texts [default: menus of built-in recipes]")
    p.add_argument("--texts", type=int, default=4000, help="at most")
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--first-seed", type=int, default=0, help="of these; levels.json is of those "
                   "asked for last")  # fmt: skip
    p.add_argument("--dim", type=int, default=64, help="coordinates of a text, in all")
    p.add_argument("--passage", type=int, default=32, help="words of one")
    p.add_argument("--seconds", type=float, default=600, help="of an arm's CLLM, levels included")
    p.add_argument("--base-seconds", type=float, default=300, help="of its base, both stages")
    p.add_argument("--reference-seconds", type=float, help="of its reference LM [default: as the "
                   "CLLM]")  # fmt: skip
    p.add_argument("--measured", type=int, default=300, help="test texts at most")
    p.add_argument("--decodes", type=int, default=500, help="from voids")
    p.add_argument("--void-seeds", type=int, default=1, help="seeds whose voids are sought: it "
                   "takes minutes")  # fmt: skip
    p.add_argument("--out", type=Path, default=Path("runs/levels"), help="a folder")
    return p


def menus(count: int, seed: int) -> Corpus:
    """Texts of two to six built-in recipes, all with the same main ingredient."""
    rng, of_main = np.random.default_rng(seed), defaultdict(list)
    for text in Grammar("plain").generate(4 * count, seed):
        if pair := combination(text):
            of_main[pair[1]].append(text)
    rows = []
    for some in of_main.values():
        while len(some) >= MOST_RECIPES:
            chosen = [some.pop() for _ in range(int(rng.integers(2, MOST_RECIPES + 1)))]
            rows.append(Row(text=" ".join(chosen)))
    kept = [rows[row] for row in rng.permutation(len(rows))[:count]]
    return build_corpus(kept, near_duplicate=1.0, seed=seed)


def long_ones(corpus: Corpus, options: argparse.Namespace) -> Corpus:
    """Texts of two passages or more, so many at most, by their ids."""
    counts = [len(passages(text, options.passage)) for text in corpus.texts]
    some = corpus.only([count > 1 for count in counts]).sample(options.texts)
    for split in ("train", "validation", "test"):
        if len(some.select(split)) < 2:
            raise InputError(f"only {len(some)} texts have two passages or more: too few to split")
    return some


def facts_of(corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """What was measured: texts, their passages, coordinates, times."""
    counts = [len(passages(text, options.passage)) for text in corpus.texts]
    return {
        "texts": len(corpus), "passages": float(np.mean(counts)), "dim": options.dim,
        "dim_alone": alone_dim(corpus, options), "words_a_passage": options.passage,
        "seconds": options.seconds, "base_seconds": options.base_seconds,
        "reference_seconds": options.reference_seconds,
        "source": options.corpus.name if options.corpus else "menus of built-in recipes",
    }  # fmt: skip


def alone_dim(corpus: Corpus, options: argparse.Namespace) -> int:
    """Coordinates of a passage where passages stand alone: as many in all, on average."""
    counts = [len(passages(text, options.passage)) for text in corpus.select("train").texts]
    return max(2, round(options.dim / float(np.mean(counts))))


def measured(arm: str, seed: int, corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Of each test text content F1, gain and order; and the yield from voids. Kept once known."""
    name = f"{arm.replace(' ', '-')}-{seed}"
    run, o = RunFolder(options.out / name), options
    kept = run.path / "levels.json"
    settings = settings_of(arm, seed, corpus, o)
    with_voids = arm != ALONE and seed < o.void_seeds  # a passage's void is no text's
    made_of = [corpus.hash, settings.model_dump_json(), o.passage, o.measured,
               o.decodes * with_voids, METHOD]  # fmt: skip
    if kept.exists() and (told := read_json(kept))["made_of"] == made_of:
        return dict(told)
    log.info("%s, seed %d", arm, seed)
    trained(run, passages_of(corpus, o.passage) if arm == ALONE else corpus, settings)
    texts = corpus.select("test").sample(o.measured)
    told = restored(run, texts, o) | {"made_of": made_of}
    told |= {"recipes": [text.count("title:") for text in texts.texts] if not o.corpus else None,
             "beyond": [len(row) > settings.base.context
                        for row in run.load_base().tokenize(texts.texts)]}  # fmt: skip
    if arm == CUT:
        told |= {"cut": run.load_model().as_cut(texts.texts)}
    told["trained"] = {"restored_tokens": run.notes()["base"]["restored_tokens"]} | {
        level: run.notes()[level]["steps"] for level in ("passages", "model")
        if level in run.notes()
    }  # fmt: skip
    if with_voids:
        if o.corpus:
            make_critic(run, settings, reuse=True)
        pipeline.embed_corpus(run, replace=True)
        discovery.search_voids(run, seed, quick=True)
        discovery.write_ideas(run, seed, o.decodes, controls=False)
        told["void"] = run.notes()["ideas"]["void"] | (
            {} if o.corpus else right_menus(load_ideas(run.ideas, run.load_model().hash))
        )
    write_json(kept, told)
    return told


def right_menus(ideas: Sequence[Idea]) -> dict[str, int]:
    """Different texts from voids that are menus by the grammar; of these the new ones."""
    right = {idea.text: idea for idea in ideas if idea.arm == "void" and is_menu(idea.text)}
    return {"right": len(right), "right and new": sum(
        not idea.verdict.duplicate and idea.hit is not False for idea in right.values()
    )}  # fmt: skip


def is_menu(text: str) -> bool:
    """Two recipes or more, each right by the grammar, all of one main ingredient."""
    before, *recipes = text.split("title:")
    recipes = [f"title:{recipe}".strip() for recipe in recipes]
    if before.strip() or len(recipes) < 2 or any(map(check, recipes)):
        return False
    return len({pair and pair[1] for pair in map(combination, recipes)}) == 1


def settings_of(arm: str, seed: int, corpus: Corpus, options: argparse.Namespace) -> RunSettings:
    """The quick preset's models with this study's times and coordinates."""
    o = options
    dim = alone_dim(corpus, o) if arm == ALONE else o.dim
    changes = [f"void_dim={min(VOID_DIM, dim)}", *([f"passage={o.passage}"] if arm == TWO else [])]
    if o.reference_seconds:
        changes.append(f"reference_seconds={o.reference_seconds}")
    return overridden(
        "quick", dim=dim, seed=seed, seconds=o.seconds, base_seconds=o.base_seconds,
        levels=2 if arm == TWO else 1, changes=changes,
    )  # fmt: skip


def trained(run: RunFolder, corpus: Corpus, settings: RunSettings) -> None:
    """Base, reference LM and CLLM of an arm, as far as they are not there."""
    pipeline.keep_corpus(run, corpus)
    pipeline.make_base(run, settings.base, passage=settings.passage, reuse=True)
    pipeline.make_reference(run, settings, reuse=True)
    pipeline.train_model(run, settings, allow_weak=True, reuse=True)


@dataclass(frozen=True)
class Restored:
    """Texts as they came back, and nats of each given its vectors, and without, (N,)."""

    texts: list[str]
    given_N: Floats
    without_N: Floats


def restored(run: RunFolder, texts: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Numbers of each test text, by what came back of it, whole."""
    of_passages = run.load_corpus().ids[0].endswith("/0")
    found = joined(run, texts, options.passage) if of_passages else whole(run, texts)
    pairs = list(zip(texts.texts, found.texts, strict=True))
    order = [order_kept(passages(a, options.passage), passages(b, options.passage))
             for a, b in pairs]  # fmt: skip
    return {
        "content_f1": [content_f1(content_items(a), content_items(b)) for a, b in pairs],
        "words_f1": [content_f1(lemmas(a), lemmas(b)) for a, b in pairs],
        "given": found.given_N.tolist(), "without": found.without_N.tolist(),
        "order": order, "examples": pairs[:5], "texts": list(texts.texts),
    }  # fmt: skip


def whole(run: RunFolder, texts: Corpus) -> Restored:
    """Each from its one vector."""
    model = run.load_model()
    tokens = token_texts(model.base, texts, model.config.context)
    without_N = nats_without(model, run.find_reference(model.base), tokens, None)
    return Restored(model.reconstruct(texts.texts), text_nats(model, tokens), without_N)


def joined(run: RunFolder, texts: Corpus, words: int) -> Restored:
    """Each from the vectors of its passages, one after the other."""
    model, parts = run.load_model(), passages_of(texts, words)
    tokens = token_texts(model.base, parts, model.config.context)
    without_n = nats_without(model, run.find_reference(model.base), tokens, None)
    row_of = {name: row for row, name in enumerate(texts.ids)}
    row_n = np.array([row_of[name.rpartition("/")[0]] for name in parts.ids])
    of_text: list[list[str]] = [[] for _ in range(len(texts))]
    for row, text in zip(row_n, model.reconstruct(parts.texts), strict=True):
        of_text[row].append(text)
    given_N, without_N = (
        np.bincount(row_n, nats_n, len(texts)) for nats_n in (text_nats(model, tokens), without_n)
    )
    return Restored([" ".join(some) for some in of_text], given_N, without_N)


def order_kept(real: Sequence[str], found: Sequence[str]) -> float:
    """Kendall's tau between places of found passages and of the real ones they are most like.

    1: the order is kept; 0: chance, or fewer than two came back.
    """
    sets = [set(one.lower().split()) for one in real]
    nearest = []
    for one in found:
        said = set(one.lower().split())
        alike = [len(said & other) / max(1, len(said | other)) for other in sets]
        if alike and max(alike) > 0:
            nearest.append(int(np.argmax(alike)))
    if len(set(nearest)) < 2:
        return 0.0
    return float(stats.kendalltau(range(len(nearest)), nearest).statistic)


def summary(arms: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means of each arm, and two levels less each other arm, over seeds and texts.

    Without vectors a text costs what the cheaper of two LMs says, that of whole texts and that of
    passages, and a menu no more than its recipes one by one, whose entropy is known; of a cut text
    the gain is its opening's, which compares with no whole text's.
    """
    told: dict[str, Any] = {"arms": {}, "two levels less": {}}
    without = np.minimum(*(np.array([one["without"] for one in arms[a]]) for a in (TWO, ALONE)))
    if recipes := arms[TWO][0]["recipes"]:
        known_N = Grammar("plain").entropy_nats * np.array(recipes)
        if known_N.mean() < without.mean():
            without = np.broadcast_to(known_N, without.shape)
    values: dict[str, dict[str, Floats]] = {}
    for arm, seeds in arms.items():
        of = {
            name: np.array([one[name] for one in seeds])
            for name in ("content_f1", "words_f1", "order", "given")
        }
        cost = np.array([one["without"] for one in seeds]) if arm == CUT else without
        values[arm] = of | {"gain_nats": cost - of.pop("given")}
    for arm, of in values.items():
        told["arms"][arm] = {name: shown(bootstrap(v, _rng())) for name, v in of.items()}
        told["arms"][arm]["trained"] = [one["trained"] for one in arms[arm]]
        if voids := [one["void"] for one in arms[arm] if "void" in one]:
            told["arms"][arm]["void"] = voids
        told["arms"][arm]["examples"] = arms[arm][0]["examples"]
    for arm in (ALONE, CUT):
        told["two levels less"][arm] = {
            name: shown(paired_difference(values[TWO][name], values[arm][name], _rng()))
            for name in PER_TEXT
            if arm == ALONE or name != "gain_nats"
        }
    told["two levels less"]["what a context holds"] = {
        name: shown(paired_difference(values[TWO][name], at_most(arms[CUT], name), _rng()))
        for name in ("content_f1", "words_f1")
    }
    beyond = np.array(arms[CUT][0]["beyond"], bool)  # by the tokens that it would have
    if beyond.any():
        told["two levels less cut, texts beyond a context"] = {"texts": int(beyond.sum())} | {
            name: shown(paired_difference(*(values[arm][name][:, beyond] for arm in (TWO, CUT)),
                                          _rng()))
            for name in ("content_f1", "words_f1")
        }  # fmt: skip
    return told


def at_most(cut: Sequence[dict[str, Any]], name: str) -> Floats:
    """What one level over cut texts could have kept at best: the texts as they are cut, (S, N)."""
    items = content_items if name == "content_f1" else lemmas
    return np.array([
        [content_f1(items(whole), items(opening))
         for whole, opening in zip(one["texts"], one["cut"], strict=True)] for one in cut
    ])  # fmt: skip


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def shown(interval: Interval) -> dict[str, Any]:
    """As it stands in JSON."""
    return {"mean": interval.mean, "ci": interval.ci}


def table(told: dict[str, Any]) -> list[str]:
    """Markdown: arms, then differences."""
    lines = [f"| arm | {' | '.join(PER_TEXT)} | new texts from voids |",
             "|" + "---|" * (len(PER_TEXT) + 2)]  # fmt: skip
    for arm, of in told["arms"].items():
        new = ", ".join(f"{one.get('right and new', one['novel'])} of {one['sampled']}"
                        for one in of.get("void", []))  # fmt: skip
        lines.append(f"| {arm} | {' | '.join(_cell(of[name]) for name in PER_TEXT)} | {new} |")
    for arm, of in told["two levels less"].items():
        cells = [_cell(of[name]) if name in of else "" for name in PER_TEXT]
        lines.append(f"| two levels − {arm} | {' | '.join(cells)} | |")
    return lines


def _cell(value: dict[str, Any]) -> str:
    low, high = value["ci"]
    return f"{value['mean']:.3g} [{low:.3g}, {high:.3g}]"


if __name__ == "__main__":
    main()
