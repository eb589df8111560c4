"""Which negatives make the best critic: `cllm study critic --json`.

Critics learn real texts from small edits, from random corruption, and from half of each, at equal
budget. The checker of the built-in recipes is the truth: on what decoders get wrong, which none
was trained on, beside recipes of combinations that no text has and that are right; and on each kind
of edit that was left out of a training. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.arms import from_prior
from cllm.console import one_line_errors, set_up_logging
from cllm.critic import Critic, Examples, train_critic
from cllm.errors import InputError
from cllm.files import digest, file_digest, read_json, write_json
from cllm.metrics import bootstrap
from cllm.model import CLLM
from cllm.negatives import KINDS, Negatives
from cllm.recipes import Grammar
from cllm.run import SHIPPED, RunFolder
from cllm.settings import LoopSettings
from cllm.settling import filled
from cllm.sphere import prefix
from cllm.unseen import auroc
from cllm.writing import checker_of

log = logging.getLogger(__name__)

Scores = NDArray[np.float64]

RECIPES = tuple(kind for kind in KINDS if kind != "negation")  # which recipes have none of
ARMS = {"edits": 1.0, "random": 0.0, "both": 0.5}  # share of edits among what is wrong
HELD_OUT = 400
ALARMS = 0.01  # of held-out texts that a limit refuses
METHOD = 3  # raised when the same critic would be trained or measured otherwise
PREFIXES = (8, 16)  # of held-out vectors, whose decodes go wrong


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, and print one JSON object."""
    p = argparse.ArgumentParser(
        prog="cllm study critic", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--run", type=Path, default=SHIPPED, help="of built-in recipes")
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--steps", type=int, default=2000, help="of each critic")
    p.add_argument("--texts", type=int, default=20_000, help="real ones that a critic sees at most")
    p.add_argument("--decodes", type=int, default=1500, help="that failures are looked for in")
    p.add_argument("--left-out", nargs="*", default=list(RECIPES), choices=RECIPES, help="kinds")
    p.add_argument("--out", type=Path, default=Path("runs/critic"), help="a folder")
    options = p.parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        told = Study(RunFolder(options.run), options).told()
        write_json(options.out / "critic.json", told)
        print(json.dumps(told))


class Study:
    """What all critics share: the run's texts, its decodes, and what is wrong with them."""

    def __init__(self, run: RunFolder, options: argparse.Namespace) -> None:
        checker = checker_of(corpus := run.load_trained_corpus())
        if checker is None:
            raise InputError(f"{run.path} has no checker, which says what is wrong with a text")
        self.check, self.options = checker, options
        self.model: CLLM = run.load_model()
        self.reference = run.load_reference(self.model.base)
        weights = file_digest(run.reference / "model.safetensors")
        self.made_from = digest(corpus.hash, self.model.hash, weights)
        self.train = corpus.select("train").sample(options.texts).texts
        self.held_out = corpus.select("validation").sample(HELD_OUT).texts  # choose the weights
        self.unseen = corpus.select("test").sample(HELD_OUT).texts  # are measured on
        grammar = Grammar(corpus.info["richness"], corpus.info.get("fold", 0))
        draw = np.random.default_rng(4)
        self.withheld = [grammar.sample(draw, withheld=True) for _ in range(HELD_OUT)]
        rng = np.random.default_rng(0)
        self.negatives = Negatives.of(self.train, rng)
        latents = run.load_latents(self.model)
        self.decodes = self._decodes(latents.select("train").vectors_ND,
                                     latents.select("validation").vectors_ND, rng)  # fmt: skip
        self.wrong_n = np.array([bool(self.check(text)) for text in self.decodes])
        if not 0 < self.wrong_n.sum() < len(self.wrong_n):
            raise InputError("decodes are all right, or all wrong: there is nothing to tell apart")

    def _decodes(self, train_ND: Any, held_out_MD: Any, rng: np.random.Generator) -> list[str]:  # noqa: ANN401
        """Texts of random places and of the first coordinates of held-out vectors."""
        each = self.options.decodes // (1 + len(PREFIXES))
        places = [from_prior(train_ND, each, rng)]
        for k in PREFIXES:
            cut_ND = np.zeros_like(held_out_MD[:each])
            cut_ND[:, :k] = prefix(held_out_MD[:each], k)
            places.append(cut_ND)
        return filled(self.model.decode(np.concatenate(places)))

    def told(self) -> dict[str, Any]:
        """Each arm over seeds, differences of the same seed, and edits left out."""
        arms = {arm: [self._on_failures(arm, seed) for seed in range(self.options.seeds)]
                for arm in ARMS}  # fmt: skip
        scores = {arm: np.array([one["auroc"] for one in some]) for arm, some in arms.items()}
        rng = np.random.default_rng(1)
        return {
            "decodes": len(self.decodes), "wrong": int(self.wrong_n.sum()),
            "steps": self.options.steps, "seeds": self.options.seeds,
            "failures": {
                arm: {name: _interval(np.array([one[name] for one in some]), rng)
                      for name in some[0]}
                for arm, some in arms.items()
            },
            "edits_less_random": _interval(scores["edits"] - scores["random"], rng),
            "both_less_random": _interval(scores["both"] - scores["random"], rng),
            "left_out": {kind: self._left_out(kind) for kind in self.options.left_out},
        }  # fmt: skip

    def _on_failures(self, arm: str, seed: int) -> dict[str, float]:
        """AUROC on decodes; and what a limit lets through that 99 of 100 held-out texts pass."""
        texts = [*self.decodes, *self.withheld, *self.unseen]
        decoded_n, withheld_n, unseen_n = np.split(
            self._logits(arm, RECIPES, seed, texts),
            np.cumsum([len(self.decodes), len(self.withheld)]),
        )
        least, wrong_n = np.quantile(unseen_n, ALARMS), decoded_n[self.wrong_n]
        return {
            "auroc": auroc(wrong_n, decoded_n[~self.wrong_n]),
            "auroc_withheld": auroc(wrong_n, withheld_n),
            "failures_passed": float((wrong_n >= least).mean()),
            "withheld_passed": float((withheld_n >= least).mean()),
        }

    def _left_out(self, kind: str) -> dict[str, float]:
        """AUROC on edits of one kind, of critics that have seen none of it; one seed."""
        rng, others = np.random.default_rng(2), tuple(one for one in RECIPES if one != kind)
        edited = [self.negatives.edited(text, rng, [kind]) for text in self.unseen]
        wrong = [edit[0] for edit in edited if edit and self.check(edit[0])]
        found = {}
        for arm in ARMS:
            logits_n = self._logits(arm, others, 0, [*self.unseen, *wrong])
            real_n, wrong_n = np.split(logits_n, [len(self.unseen)])
            found[arm] = auroc(wrong_n, real_n)
        return found

    def _logits(self, arm: str, kinds: Sequence[str], seed: int, texts: Sequence[str]) -> Scores:
        """Of one critic; kept in `--out`, so that a study goes on."""
        o = self.options
        kinds = kinds if ARMS[arm] else ()  # which rubbish has none of: one critic for all
        made_from = digest(self.made_from, arm, *kinds, str((seed, o.steps, o.texts, METHOD)),
                           *texts)  # fmt: skip
        kept: Path = o.out / f"{made_from}.json"
        if not kept.exists():
            log.info("critic of %s, seed %d: %s", arm, seed, ", ".join(kinds))
            logits_n = self._critic(arm, kinds, seed).logits(self.model.tokens(texts))
            write_json(kept, {"logits": logits_n.tolist()})
        return np.array(read_json(kept)["logits"])

    def _critic(self, arm: str, kinds: Sequence[str], seed: int) -> Critic:
        rng = np.random.default_rng([3, seed])
        examples, held_out = (
            Examples.made(texts, self.negatives, rng, ARMS[arm], kinds)
            for texts in (self.train, self.held_out)
        )
        loop = LoopSettings(steps=self.options.steps, lr=5e-4, evaluations=4, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            return train_critic(
                self.reference, self.model.base, examples, held_out, loop, Path(folder)
            )[0]


def _interval(values_S: np.ndarray[Any, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Over seeds; a single one has none."""
    told: dict[str, Any] = {"mean": float(values_S.mean()), "seeds": values_S.tolist()}
    return told if len(values_S) == 1 else told | {"ci": bootstrap(values_S, rng).ci}


if __name__ == "__main__":
    main()
