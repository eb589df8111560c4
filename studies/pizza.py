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

from cllm import pipeline
from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import Corpus, build_corpus, built_in_corpus
from cllm.errors import InputError
from cllm.files import digest, read_json, replacing, write_json
from cllm.losses import Restoring
from cllm.model import CLLM
from cllm.reading import read_rows
from cllm.run import RunFolder, training_facts
from cllm.settings import RunSettings, overridden
from cllm.training import fit
from cllm.training_texts import TrainingTexts
from cllm.words import WORD
from studies.knows import prepare
from studies.pizza_measured import Measured
from studies.pizza_picture import draw_pizza
from studies.pizza_told import KINDS, compact, in_words, summary, table
from studies.topics import Topic, most_shared

log = logging.getLogger(__name__)

BASES = ("blind", "seen")  # whether the base LLM saw the topic
QUICK_BASE = 400  # seconds: texts are to be restored well, and the preset's base is only begun
METHOD = 5  # raised when the same models would be measured otherwise


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, measure, and print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        corpus = corpus_of(options)
        if options.measured < 2:
            raise InputError("--measured must be 2 or more")
        if not 0 < options.further <= 10:
            raise InputError("--further must be above 0, and 10 at most")
        names = [name.lower() for name in options.topic or topics_of(corpus)]
        topics = [Topic.of(corpus, name) for name in dict.fromkeys(names)]
        found = [
            Experiment(corpus, topic, base, options).told()
            for topic in topics for base in dict.fromkeys(options.bases)
        ]  # fmt: skip
        told: dict[str, Any] = {"topics": [topic.name for topic in topics]}
        told["summary"] = summary(found)
        told["words"] = in_words(told["summary"])
        told["each"] = [compact(one) for one in found]
        write_json(options.out / "pizza.json", told)
        lines = [*table(told["summary"]), "", *told["words"], "",
                 *(f"{options.out / one['picture']}" for one in found)]  # fmt: skip
        print(json.dumps(told) if options.json else "\n".join(lines))


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
    p.add_argument("--preset", choices=("quick", "standard", "full"), default="quick")
    p.add_argument("--seconds", type=float, help="of training the first model [default: preset's]")
    p.add_argument("--further", type=float, default=0.5, help="of that for the second one")
    p.add_argument("--base-seconds", type=float, help="of training each base [default: preset's, "
                   f"{QUICK_BASE} for quick]")  # fmt: skip
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
            o.preset, dim=o.dim, seed=o.seed, seconds=o.seconds, aim=o.aim, changes=o.set,
            base_seconds=o.base_seconds or (QUICK_BASE if o.preset == "quick" else None),
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
        first = self.first
        seconds = {kind: self.second(kind) for kind in KINDS}
        made_from = digest(first.hash, *(m.hash for m in seconds.values()),
                           str((self.options.measured, METHOD)))  # fmt: skip
        drawn = (self.options.out / self.picture).exists()
        if drawn and kept.exists() and read_json(kept)["made_from"] == made_from:
            return read_json(kept)
        log.info("%s over a base that %s it: measuring", self.topic.name,
                 "saw" if self.base == "seen" else "never saw")  # fmt: skip
        about = {"topic": self.topic.name, "base": self.base, "picture": self.picture}

        def draw(facts: Mapping[str, Any], *drawn: Any) -> None:  # noqa: ANN401 - as Picture says
            draw_pizza(self.options.out / self.picture, about | dict(facts), *drawn)

        measured = Measured(self.topic, first, seconds, self.options.measured, self.options.seed)
        told = about | {
            "made_from": made_from,
            "texts": {name: len(getattr(self.topic, name)) for name in ("seen", "scored", "unseen")}
            | {"rest": len(self.topic.rest)},
            "words_elsewhere": self.topic.words_elsewhere,
            "restored_tokens": training_facts(self._base)["restored_tokens"],
        } | measured.told(draw)  # fmt: skip
        write_json(kept, told)
        return told

    @property
    def picture(self) -> str:
        """Below `--out`."""
        return f"{self.folder.name}/pizza.png"

    @cached_property
    def first(self) -> CLLM:
        """CLLM1: it never saw the topic."""
        run = RunFolder(self.folder / "cllm1")
        prepare(run, self.topic.rest, self._base)
        weak = self.options.allow_weak_base
        pipeline.train_model(run, self.settings, reuse=True, allow_weak=weak)
        return run.load_model()

    def second(self, kind: str) -> CLLM:
        """CLLM2: the first one trained on, with the topic alone, or with the rest as well."""
        first, folder = self.first.hash, self.folder / f"cllm2-{kind}"
        note = folder / "training.json"
        if note.exists() and read_json(note)["first"] == first:
            return CLLM.load(folder, self.first.base)
        model = RunFolder(self.folder / "cllm1").load_model()  # one of its own to train on
        settings = self.settings.train
        loop = settings.loop.model_copy(update={
            "seconds": settings.loop.seconds * self.options.further,
            "steps": max(1, round(settings.loop.steps * self.options.further)),
        })  # fmt: skip
        texts = TrainingTexts.of(model.base, self._texts(kind), settings, model.config.context)
        model.requires_grad_(True)
        task = Restoring(model, settings, texts.held_out, edits=texts.edits)
        log.info("%s: training on, %s", self.topic.name, kind)
        result = fit(task, texts.both, loop, self.folder / "training" / f"{kind}-{first[:8]}")
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

    @cached_property
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
        return Path(run.base)


if __name__ == "__main__":
    main()
