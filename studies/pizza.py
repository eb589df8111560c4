"""The pizza experiment: `cllm pizza --topic pizza --json`.

A first CLLM is trained without a topic, a second one is the first trained on, with the topic alone
or with the rest and as often the topic. Does the first one's decoder write the topic from the
second one's vectors (the article's claim), and did these vectors lie in a void of the first one's
space? With floors, a ceiling, and texts that must not count. Over a base that saw the topic and one
that did not. Goes on where it stopped.
"""

# Shapes: N texts, n texts measured, D coordinates.
from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm import pipeline
from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import Corpus, build_corpus, built_in_corpus
from cllm.errors import InputError
from cllm.field import Field
from cllm.files import digest, read_json, replacing, write_json
from cllm.losses import Restoring, nats_given, null_nats
from cllm.metrics import score_texts
from cllm.model import CLLM
from cllm.noise import text_keys
from cllm.reading import read_rows
from cllm.run import RunFolder, training_facts
from cllm.settings import RunSettings, overridden
from cllm.settling import filled
from cllm.sphere import prefix, unit
from cllm.training import fit
from cllm.training_texts import TrainingTexts
from cllm.void_balls import void_around
from cllm.voids import VoidSettings, find_voids
from cllm.words import WORD
from studies.knows import prepare
from studies.pizza_picture import draw_pizza
from studies.pizza_told import KINDS, in_words, summary
from studies.topics import Classifier, Topic, most_shared, of_another_domain, shuffled

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
BASES = ("blind", "seen")  # whether the base LLM saw the topic
RIDGE = 1e-3  # of the affine map
FITTED = 4000  # other texts that it is fitted on, at most
METHOD = 2  # raised when the same models would be measured otherwise


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, measure, and print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        corpus = corpus_of(options)
        if options.measured < 2:
            raise InputError("--measured must be 2 or more")
        names = [name.lower() for name in options.topic or topics_of(corpus)]
        topics = [Topic.of(corpus, name) for name in dict.fromkeys(names)]
        found = [
            Experiment(corpus, topic, base, options).told()
            for topic in topics for base in options.bases
        ]  # fmt: skip
        told = {"topics": [topic.name for topic in topics], "each": found}
        told["summary"] = summary(found)
        told["words"] = in_words(told["summary"])
        write_json(options.out / "pizza.json", told)
        print(json.dumps(told) if options.json else "\n".join(told["words"]))


def parser() -> argparse.ArgumentParser:
    """The experiment's options."""
    p = argparse.ArgumentParser(prog="cllm pizza", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    p.add_argument("--topic", nargs="+", help="words that titles name, a topic each; of built-in "
                   "recipes dishes [default: five whose words occur most elsewhere]")  # fmt: skip
    p.add_argument("--corpus", type=Path, help="a file of texts [default: built-in recipes]")
    p.add_argument("--texts", type=int, default=20_000, help="built-in recipes")
    p.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    p.add_argument("--aim", choices=("text", "voids"), default="voids", help="of the training")
    p.add_argument("--dim", type=int, default=32)
    p.add_argument("--seconds", type=float, default=210, help="of training the first model")
    p.add_argument("--further", type=float, default=0.5, help="of that for the second one")
    p.add_argument("--base-seconds", type=float, default=240, help="of training each base")
    p.add_argument("--set", action="append", default=[], help="any setting, as in `cllm train`")
    p.add_argument("--measured", type=int, default=300, help="texts of a kind, at most")
    p.add_argument("--allow-weak-base", action="store_true")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("runs/pizza"), help="a folder")
    return p


def corpus_of(options: argparse.Namespace) -> Corpus:
    """The file's texts, or built-in recipes."""
    if options.corpus is None:
        return built_in_corpus("plain", options.texts, options.seed)
    return build_corpus(read_rows(options.corpus), seed=options.seed)


def topics_of(corpus: Corpus) -> list[str]:
    """Where none is named."""
    if not corpus.info.get("richness"):
        raise InputError("name a topic that titles of these texts name: --topic pizza")
    return most_shared(corpus, 5)


@dataclass(frozen=True)
class Experiment:
    """One topic over one base: models and what they write of texts that they saw and did not."""

    corpus: Corpus
    topic: Topic
    base: str
    options: argparse.Namespace

    @cached_property
    def settings(self) -> RunSettings:
        """Of the first model and its base."""
        o = self.options
        return overridden(
            "quick", dim=o.dim, seed=o.seed, seconds=o.seconds, base_seconds=o.base_seconds,
            aim=o.aim, changes=o.set,
        )  # fmt: skip

    @cached_property
    def folder(self) -> Path:
        """Of its models, by what they are made from."""
        made_from = digest(self.corpus.hash, self.settings.model_dump_json(),
                           str(self.options.further))[:8]  # fmt: skip
        name = "-".join(WORD.findall(self.topic.name.lower()))
        return self.options.out / f"{name}-{self.base}-{made_from}"

    def told(self) -> dict[str, Any]:
        """What it came to, from the folder where it is there already."""
        kept = self.folder / "told.json"
        first = self.first()
        seconds = {kind: self.second(kind) for kind in KINDS}
        made_from = digest(first.hash, *(m.hash for m in seconds.values()),
                           str((self.options.measured, METHOD)))  # fmt: skip
        if kept.exists() and read_json(kept)["made_from"] == made_from:
            return read_json(kept)
        log.info("%s over a base that %s it: measuring", self.topic.name,
                 "saw" if self.base == "seen" else "never saw")  # fmt: skip
        told = {
            "made_from": made_from, "topic": self.topic.name, "base": self.base,
            "texts": {name: len(getattr(self.topic, name)) for name in ("seen", "scored", "unseen")}
            | {"rest": len(self.topic.rest)},
            "words_elsewhere": self.topic.words_elsewhere,
            "restored_tokens": training_facts(self._base())["restored_tokens"],
        } | Measured(self, first, seconds).told()  # fmt: skip
        write_json(kept, told)
        return told

    def first(self) -> CLLM:
        """CLLM1: it never saw the topic."""
        run = RunFolder(self.folder / "cllm1")
        prepare(run, self.topic.rest, self._base())
        weak = self.options.allow_weak_base
        pipeline.train_model(run, self.settings, reuse=True, allow_weak=weak)
        return run.load_model()

    def second(self, kind: str) -> CLLM:
        """CLLM2: the first one trained on, with the topic alone, or with the rest as well."""
        model, folder = self.first(), self.folder / f"cllm2-{kind}"
        first, note = model.hash, folder / "training.json"
        if note.exists() and read_json(note)["first"] == first:
            return CLLM.load(folder, model.base)
        settings = self.settings.train
        loop = settings.loop.model_copy(update={
            "seconds": settings.loop.seconds * self.options.further,
            "steps": max(1, round(settings.loop.steps * self.options.further)),
        })  # fmt: skip
        texts = TrainingTexts.of(model.base, self._texts(kind), settings, model.config.context)
        model.requires_grad_(True)
        task = Restoring(model, settings, texts.held_out, edits=texts.edits)
        log.info("%s: training on, %s", self.topic.name, kind)
        result = fit(task, texts.both, loop, self.folder / "training" / kind)
        model.train(False).requires_grad_(False)
        with replacing(folder) as new:
            model.save_pretrained(new)
            write_json(new / "training.json", {"first": first, "steps": result.steps})
        result.checkpoint.remove()
        return model

    def _texts(self, kind: str) -> Corpus:
        """What the second model is trained on, and kept by."""
        topic, rest = self.topic, self.topic.rest
        train, held_out = list(topic.seen), list(topic.scored)
        if kind == "mixed":
            others = rest.select("train").texts
            times = -(-len(others) // len(train))  # as many of each
            train = [*others, *(train * times)[: len(others)]]
            held_out += rest.select("validation").sample(len(held_out)).texts
        texts = (*train, *held_out)
        ids = tuple(f"{kind}-{number}" for number in range(len(texts)))
        splits = ("train",) * len(train) + ("validation",) * len(held_out)
        return Corpus(ids, texts, ("",) * len(ids), ids, splits)

    def _base(self) -> Path:
        """Of all that a model may see; or of texts of the rest alone."""
        corpus = self.topic.rest
        if self.base == "seen":
            corpus = self.topic.without_unseen(self.corpus)
        how = digest(corpus.hash, self.settings.base.model_dump_json())[:8]
        run = RunFolder(self.options.out / f"base-{how}")
        if not run.corpus.exists():
            pipeline.keep_corpus(run, corpus)
        pipeline.make_base(run, self.settings.base, reuse=True)
        return run.base


class Measured:
    """Both models, their decoders, and what is measured of them."""

    def __init__(self, of: Experiment, first: CLLM, seconds: Mapping[str, CLLM]) -> None:
        self.topic, self.first, self.seconds = of.topic, first, seconds
        self.most, self.seed = of.options.measured, of.options.seed
        self.picture = of.folder / "pizza.png"
        self.classifier = Classifier(of.topic)
        rest = of.topic.rest
        self.others = rest.select("test").sample(self.most).texts
        self.fitted = rest.select("train").sample(FITTED).texts
        self.sets = {"seen": _some(of.topic.seen, self.most),
                     "unseen": _some(of.topic.unseen, self.most)}  # fmt: skip

    def told(self) -> dict[str, Any]:
        """Arms, drift, and where texts lie."""
        test, own_nD = self.topic.rest.select("test").texts, self.first.encode(self.others)
        arms = {name: self._arms(texts) for name, texts in self.sets.items()}
        found: dict[str, Any] = {
            "classifier": {
                "hits": float(self.classifier(self.topic.unseen).mean()),
                "false_alarms": float(self.classifier(test).mean()),
            },
            "arms": arms,
            "others": {"e1_d1": self._scores(self.first, own_nD, self.others)},
            "where": self._where(arms["unseen"]),
        }
        for kind, second in self.seconds.items():
            vectors_nD = second.encode(self.others)
            found["others"][f"e2_d1 {kind}"] = self._scores(self.first, vectors_nD, self.others)
        return found

    def _arms(self, texts: Sequence[str]) -> dict[str, Any]:
        """What decoders write of the topic's texts, by arm; arms of CLLM2 by its kind."""
        first, rng = self.first, np.random.default_rng([self.seed, 8])
        own_nD = first.encode(texts)
        arms = {
            "e1_d1": self._scores(first, own_nD, texts),
            "random": self._scores(first, unit(rng.standard_normal(own_nD.shape)), texts),
        }
        for kind, second in self.seconds.items():
            vectors_nD = second.encode(texts)
            mapped_nD = _affine(second.encode(self.fitted), first.encode(self.fitted), vectors_nD)
            mixed_nD = vectors_nD[:, rng.permutation(vectors_nD.shape[1])]
            arms |= {
                f"e2_d1 {kind}": self._scores(first, vectors_nD, texts),
                f"e2_d2 {kind}": self._scores(second, vectors_nD, texts),
                f"affine {kind}": self._scores(first, mapped_nD, texts),
                f"permuted {kind}": self._scores(first, mixed_nD, texts),
            }
        return arms

    def _scores(self, decoder: CLLM, vectors_nD: Vectors, texts: Sequence[str]) -> dict[str, Any]:
        """Topic hit, content F1, BLEU, and nats over the decoder's null vector; means of n."""
        rows = decoder.decode_tokens(vectors_nD)
        written, tokens = decoder.base.to_text(rows), decoder.tokens(texts)
        scores = score_texts(texts, written, [list(row) for row in tokens.rows], rows)
        gain_n = null_nats(decoder, tokens) - nats_given(decoder, tokens, vectors_nD)
        return {
            "hit": float(self.classifier(filled(written)).mean()),
            "content_f1": float(scores.content_f1_N.mean()),
            "exact": float(scores.exact_match_N.mean()), "bleu": scores.value("bleu"),
            "gain_nats": float(gain_n.mean()), "example": [texts[0], written[0]],
        }  # fmt: skip

    def _where(self, arms: Mapping[str, Any]) -> dict[str, Any]:
        """Shares of texts, of each kind, that lie in voids of the first model's space; drawn."""
        first, rng = self.first, np.random.default_rng([self.seed, 9])
        k, rest = first.config.void_dim, self.topic.rest
        cloud_ND, held_out_MD = (
            first.encode(rest.select(s).texts) for s in ("train", "validation")
        )
        search = find_voids(prefix(cloud_ND, k), VoidSettings.quick(), rng, prefix(held_out_MD, k))
        chance = np.inf if search.chance is None else search.chance
        field = Field.of(cloud_ND, held_out_MD, k, chance, rng)
        standing = [void for void in search.voids if void.stands]
        unseen = self.sets["unseen"]
        words = int(np.median([len(text.split()) for text in unseen]))
        texts = {
            "topic": unseen, "others": self.others, "its words shuffled": shuffled(unseen, rng),
            "other words shuffled": shuffled(self.others, rng),
            "another domain": of_another_domain(self.most, words),
        }  # fmt: skip
        encoders = {"E1": first} | {f"E2 {kind}": model for kind, model in self.seconds.items()}
        vectors = {
            f"{name}, {encoder}": model.encode(some)
            for encoder, model in encoders.items() for name, some in texts.items()
        }  # fmt: skip
        least = field.least_score
        told: dict[str, Any] = {
            "void_dim": k, "voids": len(standing), "p_value": search.p_value,
            "radius_ratio": search.radius_ratio,
            "least_score": least if np.isfinite(least) else None,  # none: nothing is a void
        }  # fmt: skip
        for name, vectors_nD in vectors.items():
            seen, around = field.look(vectors_nD), void_around(vectors_nD, standing)
            told[name] = {
                "in_void": float(field.is_void(vectors_nD).mean()),
                "enclosed": float(field.encloses(vectors_nD).mean()),
                "above_threshold": float((seen.score_n > field.least_score).mean()),
                "in_found_void": float(np.mean([one is not None for one in around])),
                "median_score": float(np.median(seen.score_n)),
            }
        flat = {name: prefix(vectors_nD, k) for name, vectors_nD in vectors.items()}
        draw_pizza(self.picture, self.topic.name, prefix(cloud_ND, k), flat, standing, arms)
        return told


def _affine(from_ND: Vectors, to_ND: Vectors, vectors_nD: Vectors) -> Vectors:
    """Vectors through the affine map, by ridge regression, that fits the others."""
    with_one = [np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)
                for x in (from_ND, vectors_nD)]  # fmt: skip
    x_NE = with_one[0]
    square_EE = x_NE.T @ x_NE + RIDGE * np.eye(x_NE.shape[1])
    return unit(with_one[1] @ np.linalg.solve(square_EE, x_NE.T @ to_ND))


def _some(texts: Sequence[str], most: int) -> list[str]:
    """At most so many, whatever their order."""
    chosen = sorted(np.argsort(text_keys(list(texts)), kind="stable")[:most].tolist())
    return [texts[row] for row in chosen]


if __name__ == "__main__":
    main()
