"""Which negatives make the best critic: `cllm study critic --json`.

Critics learn real texts from small edits, from random corruption, and from half of each, at equal
budget. The checker of the built-in recipes is the truth: on what decoders get wrong, which none
was trained on, and on each kind of edit that was left out of a training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from cllm.arms import filled, from_prior
from cllm.console import one_line_errors, set_up_logging
from cllm.critic import Critic, Examples, train_critic
from cllm.errors import InputError
from cllm.files import write_json
from cllm.metrics import bootstrap
from cllm.model import CLLM
from cllm.negatives import KINDS, Negatives
from cllm.run import SHIPPED, RunFolder
from cllm.settings import LoopSettings
from cllm.sphere import prefix
from cllm.writing import checker_of

RECIPES = tuple(kind for kind in KINDS if kind != "negation")  # which recipes have none of
ARMS = ("edits", "random", "both")
HELD_OUT = 400
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
    p.add_argument("--out", type=Path, help="keep the JSON here too")
    options = p.parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        told = Study(RunFolder(options.run), options).told()
        if options.out:
            write_json(options.out, told)
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
        self.train = corpus.select("train").sample(options.texts).texts
        self.held_out = corpus.select("validation").sample(HELD_OUT).texts
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
        """AUROC of each arm over seeds, differences of the same seed, and edits left out."""
        failures = {arm: self._over_seeds(arm) for arm in ARMS}
        rng = np.random.default_rng(1)
        return {
            "decodes": len(self.decodes), "wrong": int(self.wrong_n.sum()),
            "steps": self.options.steps, "seeds": self.options.seeds,
            "failures": {arm: _interval(values, rng) for arm, values in failures.items()},
            "edits_less_random": _interval(failures["edits"] - failures["random"], rng),
            "both_less_random": _interval(failures["both"] - failures["random"], rng),
            "left_out": {kind: self._left_out(kind) for kind in self.options.left_out},
        }  # fmt: skip

    def _over_seeds(self, arm: str) -> np.ndarray[Any, Any]:
        return np.array([self._auroc(self._critic(arm, RECIPES, seed), self.decodes, ~self.wrong_n)
                         for seed in range(self.options.seeds)])  # fmt: skip

    def _left_out(self, kind: str) -> dict[str, float]:
        """AUROC on edits of one kind, of critics that have seen none of it; one seed."""
        rng, others = np.random.default_rng(2), tuple(one for one in RECIPES if one != kind)
        edited = [self.negatives.edited(text, rng, [kind]) for text in self.held_out]
        wrong = [edit[0] for edit in edited if edit and self.check(edit[0])]
        texts = [*self.held_out, *wrong]
        real_n = np.arange(len(texts)) < len(self.held_out)
        return {arm: self._auroc(self._critic(arm, others, 0), texts, real_n) for arm in ARMS}

    def _critic(self, arm: str, kinds: Sequence[str], seed: int) -> Critic:
        rng = np.random.default_rng([3, seed])
        make = self._maker(arm, kinds, rng)
        examples, held_out = (
            Examples(texts, [make(text) for text in texts]) for texts in (self.train, self.held_out)
        )
        loop = LoopSettings(steps=self.options.steps, lr=5e-4, evaluations=4, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            return train_critic(
                self.reference, self.model.base, examples, held_out, loop, Path(folder)
            )

    def _maker(
        self, arm: str, kinds: Sequence[str], rng: np.random.Generator
    ) -> Callable[[str], str]:
        def make(text: str) -> str:
            edit = None
            if arm == "edits" or (arm == "both" and rng.random() < 0.5):
                edit = self.negatives.edited(text, rng, kinds)
            return self.negatives.corrupted(text, rng) if edit is None else edit[0]

        return make

    def _auroc(self, critic: Critic, texts: Sequence[str], real_n: Any) -> float:  # noqa: ANN401
        return float(roc_auc_score(real_n, critic.logits(self.model.tokens(texts))))


def _interval(values_S: np.ndarray[Any, Any], rng: np.random.Generator) -> dict[str, Any]:
    found = bootstrap(values_S, rng)
    return {"mean": found.mean, "ci": found.ci, "seeds": values_S.tolist()}


if __name__ == "__main__":
    main()
