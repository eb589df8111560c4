"""Texts between two subjects, from voids that both enclose: `cllm study crossing --json`.

One model learns two subjects. Texts are written from voids with texts of both on their rim, and,
at equal decodes, from voids within one subject, from great circles between texts of the two, and by
the base LLM alone. A text counts if each subject's own critic, which never saw the other, takes it
for real, and it is like no known one. Without files: recipes of wet dishes and of dry ones. Goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm import discovery, pipeline
from cllm.artefacts import finished, identity, remember
from cllm.cli_corpus import read_corpus
from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import Corpus, build_corpus
from cllm.critic import Critic
from cllm.critics import RATE, learnt
from cllm.errors import InputError
from cllm.files import replacing, write_json
from cllm.metrics import wilson
from cllm.reading import Row
from cllm.recipes import Grammar, combination
from cllm.run import RunFolder
from cllm.sampler import Sampler
from cllm.sampling import Request, Tally
from cllm.settings import RunSettings, overridden
from cllm.settling import Written
from cllm.sphere import slerp
from cllm.unaided import unaided
from cllm.where import Where

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

WET = ("soup", "stew", "curry", "risotto")  # words of dishes that stand for one subject
TAIL = 0.01  # of a subject's held-out texts that its critic refuses
VOID_DIM = 8  # coordinates that voids are sought in: more take hours
MIDDLE = (0.3, 0.7)  # of a great circle
PICKED = 10  # texts that are shown
BOTH = (0.2, 0.8)  # chances of the first subject between which a text's words are of both


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, write, judge, and print one JSON object."""
    o = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if bool(o.first) != bool(o.second):
            raise InputError("give --first and --second, or neither for built-in recipes")
        corpus = of_two(o)
        settings = overridden(
            "quick", dim=o.dim, seed=o.seed, seconds=o.seconds, base_seconds=o.base_seconds,
            aim="voids", changes=[f"void_dim={VOID_DIM}"],
        )  # fmt: skip
        run = RunFolder(o.out)
        trained(run, corpus, settings)
        told = crossed(run, corpus, settings, o)
        write_json(o.out / "crossing.json", told)
        print(json.dumps(told))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(
        prog="cllm study crossing", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--first", type=Path, help="texts of one subject")
    p.add_argument("--second", type=Path, help="of another")
    p.add_argument("--texts", type=int, default=4000, help="of each subject at most")
    p.add_argument("--dim", type=int, default=64)
    p.add_argument("--seconds", type=float, default=900, help="of the CLLM, and the reference LM")
    p.add_argument("--base-seconds", type=float, default=600, help="of the base, both stages")
    p.add_argument("--critic-steps", type=int, default=600, help="of each subject's critic")
    p.add_argument("--decodes", type=int, default=1000, help="of each arm")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("runs/crossing"), help="a run folder")
    return p


def of_two(options: argparse.Namespace) -> Corpus:
    """Texts of both subjects, as many of each as there are of the smaller one at most."""
    o = options
    if o.first:
        parts = {path.name.partition(".")[0]: read_corpus(path, "text", 100, 0).texts
                 for path in (o.first, o.second)}  # fmt: skip
        if len(parts) < 2:
            raise InputError("--first and --second are of one name; rename one of the files")
    else:
        parts = {"wet": [], "dry": []}  # type: ignore[dict-item]
        for text in Grammar("plain").generate(4 * o.texts, 0):
            pair = combination(text)
            wet = pair is not None and any(word in pair[0] for word in WET)
            parts["wet" if wet else "dry"].append(text)  # type: ignore[attr-defined]
    count = min(o.texts, *map(len, parts.values()))
    rng = np.random.default_rng(0)
    rows = [Row(text=texts[row], subject=name) for name, texts in parts.items()
            for row in rng.permutation(len(texts))[:count]]  # fmt: skip
    return build_corpus(rows, seed=0)


def trained(run: RunFolder, corpus: Corpus, settings: RunSettings) -> None:
    """Base, reference LM, CLLM, vectors and voids of the whole, as far as they are not there."""
    pipeline.require_same_texts(run, corpus)
    pipeline.keep_corpus(run, corpus)
    pipeline.make_base(run, settings.base, reuse=True)
    pipeline.make_reference(run, settings, reuse=True)
    pipeline.train_model(run, settings, allow_weak=True, reuse=True)
    if not run.latents.exists() or run.load_latents().model_hash != run.load_model().hash:
        pipeline.embed_corpus(run, replace=True)
    if "chance_score" not in run.notes().get("voids", {}):
        discovery.search_voids(run, settings.seed, quick=True)


@dataclass(frozen=True)
class Taste:
    """A subject's critic, and the line that 99 of 100 of its held-out texts pass."""

    logits: Callable[[Sequence[str]], Floats]
    least: float

    def passes(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which texts it takes for real."""
        return self.logits(texts) >= self.least


def taste_of(run: RunFolder, corpus: Corpus, subject: str, options: argparse.Namespace) -> Taste:
    """Of a subject's real texts alone; its critic is kept."""
    base, folder = run.load_base(), run.path / "critics" / subject
    mine = corpus.only([one == subject for one in corpus.subjects])
    reference, train = run.load_reference(base), mine.select("train").texts
    loop = overridden("quick", seed=options.seed).train.loop.model_copy(
        update={"seconds": 0.0, "steps": options.critic_steps, "lr": RATE}
    )
    made_from = identity(loop, mine.hash, base.hash)
    if not finished(folder, made_from):
        rng, place = np.random.default_rng([options.seed, 26]), folder.with_name(f".{subject}")
        critic, result = learnt(train, reference, base, loop, rng, place, f"critic of {subject}")
        with replacing(folder) as new:
            critic.save(new)
            remember(new, made_from, loop, {"steps": result.steps})
        result.checkpoint.remove()
    logits = partial(Critic.load(folder, base).of_texts, base=base)
    held_out = mine.select("validation").texts
    return Taste(logits, float(np.quantile(logits(held_out), TAIL)))


def crossed(
    run: RunFolder, corpus: Corpus, settings: RunSettings, options: argparse.Namespace
) -> dict[str, Any]:
    """Counts of each arm, and texts of voids that both subjects enclose."""
    names = sorted(set(corpus.subjects))
    tastes = {name: taste_of(run, corpus, name, options) for name in names}
    sampler = Sampler.of(run)
    arms = written(sampler, corpus, options)
    of_first = chance_of(corpus, names[0])
    told: dict[str, Any] = {"subjects": names, "texts": len(corpus), "arms": {}}
    told["held out"] = {
        name: passed([t for t, s in zip(test.texts, test.subjects, strict=True) if s == name],
                     tastes)
        for test in [corpus.select("test")] for name in names
    }  # fmt: skip
    taken = {arm: Taken.of(texts, sampler, tastes) for arm, (texts, _) in arms.items()}
    for arm, (texts, decodes) in arms.items():
        told["arms"][arm] = {"decodes": decodes} | counted(texts, taken[arm], of_first)
    told["accepted a decode, between less"] = {
        arm: less(told["arms"]["between"], other)
        for arm, other in told["arms"].items() if arm != "between"
    }  # fmt: skip
    crossing = arms["between"][0]
    chosen = [text for text, good in zip(crossing, taken["between"].accepted_n, strict=True)
              if good]  # fmt: skip
    worst = np.min([taste.logits(chosen) for taste in tastes.values()], axis=0) if chosen else []
    best = np.argsort(-np.asarray(worst), kind="stable")[:PICKED]
    some = np.random.default_rng(0).permutation(len(crossing))[:PICKED]
    told["best"] = [chosen[row] for row in best]  # of those that are accepted
    told["random"] = [crossing[row] for row in some]
    return told | {"seed": settings.seed, "dim": options.dim}


def less(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Difference of two arms' accepted texts a decode (Newcombe 1998, method 10).

    Texts count as independent, which those of one void are not quite.
    """
    a, b = (wilson(one["accepted"], max(1, one["decodes"])) for one in (mine, other))
    mean = a.mean - b.mean
    low = mean - np.hypot(a.mean - a.low, b.high - b.mean)
    return {"mean": mean, "ci": [low, mean + np.hypot(a.high - a.mean, b.mean - b.low)]}


def written(
    sampler: Sampler, corpus: Corpus, options: argparse.Namespace
) -> dict[str, tuple[list[str], int]]:
    """Texts of each arm, each once, and decodes."""
    o, found = options, {}
    for arm, where in (("between", Where(groups="between")), ("within", Where(groups="within"))):
        tally = Tally()
        request = Request(where, n=o.decodes, seed=o.seed, decodes=o.decodes)
        texts = [sample.idea.text for sample in sampler.sample(request, tally)]
        found[arm] = (list(dict.fromkeys(texts)), tally.decodes)
    train = sampler.places.train
    subject_N = np.array(sampler.places.subjects)
    rng = np.random.default_rng([o.seed, 27])
    ends = [rng.choice(np.flatnonzero(subject_N == name), o.decodes)
            for name in sorted(set(corpus.subjects))]  # fmt: skip
    first_nD, last_nD = (train.vectors_ND[rows] for rows in ends)
    share_n = rng.uniform(*MIDDLE, o.decodes)
    middle_nD = np.concatenate([
        slerp(a[None], b[None], share[None])
        for a, b, share in zip(first_nD, last_nD, share_n, strict=True)
    ])  # fmt: skip
    circle = Written("great circle", tuple(sampler.model.decode(middle_nD)), None, o.decodes)
    alone = unaided(sampler.model, train.texts)(o.decodes, o.seed)
    for arm, some in (("great circle", circle), ("base alone", alone)):
        likely = some.only(sampler.likely).texts  # as the voids' are
        found[arm] = (list(dict.fromkeys(filter(str.strip, likely))), o.decodes)
    return found


@dataclass(frozen=True)
class Taken:
    """Which of an arm's texts each critic passes, and which are like no known one, (n,)."""

    passes: dict[str, NDArray[np.bool_]]
    new_n: NDArray[np.bool_]

    @classmethod
    def of(cls, texts: Sequence[str], sampler: Sampler, tastes: Mapping[str, Taste]) -> Taken:
        """Ask all of them."""
        verdicts = sampler.places.judge.judge(list(texts))
        none_n = np.zeros(0, bool)
        return cls(
            {name: taste.passes(texts) if texts else none_n for name, taste in tastes.items()},
            np.array([not verdict.duplicate for verdict in verdicts], bool),
        )

    @property
    def accepted_n(self) -> NDArray[np.bool_]:
        """Both critics pass them, and they are new."""
        return np.asarray(np.all([*self.passes.values(), self.new_n], axis=0))


def counted(
    texts: Sequence[str], taken: Taken, of_first: Callable[[Sequence[str]], Floats]
) -> dict[str, Any]:
    """Who passes them, how many are like no known one, and whose words they have."""
    if not texts:
        return {"texts": 0, "accepted": 0}
    chance, accepted_n = of_first(texts), taken.accepted_n
    both_words = (chance > BOTH[0]) & (chance < BOTH[1])
    return {
        "texts": len(texts), "new": int(taken.new_n.sum()), "accepted": int(accepted_n.sum()),
        "accepted_ci": wilson(int(accepted_n.sum()), len(texts)).ci,
        "passed": {name: int(passes_n.sum()) for name, passes_n in taken.passes.items()},
        "words of both": int(both_words.sum()),
        "accepted, words of both": int((accepted_n & both_words).sum()),
    }  # fmt: skip


def passed(texts: Sequence[str], tastes: Mapping[str, Taste]) -> dict[str, float]:
    """Shares of real unseen texts that each critic passes."""
    return {name: float(taste.passes(texts).mean()) for name, taste in tastes.items()}


def chance_of(corpus: Corpus, subject: str) -> Callable[[Sequence[str]], Floats]:
    """How likely a text's words are of that subject: logistic regression on real training texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train = corpus.select("train")
    words = TfidfVectorizer(sublinear_tf=True).fit(train.texts)
    model = LogisticRegression(max_iter=1000).fit(
        words.transform(train.texts), [one == subject for one in train.subjects]
    )
    return lambda texts: np.asarray(model.predict_proba(words.transform(texts))[:, 1])


if __name__ == "__main__":
    main()
