"""Which negatives make the best critic: `cllm study critic --json`.

Critics learn real texts from small edits, from random corruption, and from half of each, at equal
budget. The checker of the built-in recipes is the truth: on what decoders get wrong, which none
was trained on, beside recipes of combinations that no text has and that are right; on texts from
voids; and on each kind of edit that was left out of a training. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cllm.arms import from_prior
from cllm.console import one_line_errors, set_up_logging
from cllm.critic import Critic, Examples, train_critic
from cllm.errors import InputError
from cllm.files import digest, file_digest, read_json, replacing, write_json
from cllm.metrics import few, of_few
from cllm.model import CLLM
from cllm.negatives import KINDS, Negatives
from cllm.recipes import Grammar
from cllm.run import SHIPPED, SHIPPED_VOIDS, RunFolder
from cllm.settings import LoopSettings
from cllm.settling import filled
from cllm.sphere import prefix
from cllm.unseen import auroc
from cllm.writing import checker_of
from studies.void_arm import VoidArm

log = logging.getLogger(__name__)

# Shapes: N, M and n texts, S seeds, D coordinates.
Scores = NDArray[np.float64]
Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]

RECIPES = tuple(kind for kind in KINDS if kind != "negation")  # which recipes have none of
ARMS = {"edits": 1.0, "random": 0.0, "both": 0.5}  # share of edits among what is wrong
LESS = {"edits_less_random": ("edits", "random"), "both_less_random": ("both", "random"),
        "both_less_edits": ("both", "edits")}  # fmt: skip
UNTAUGHT = {f"{arm}_less_likelihood": (arm, "likelihood") for arm in ARMS}
HELD_OUT = 400
ALARMS = 0.01  # of held-out texts that a limit refuses
METHOD = 4  # raised when the same critic would be trained otherwise
PREFIXES = (8, 16)  # of test texts' vectors, whose decodes go wrong
DRAWS = 500  # of the bootstrap


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, and print one JSON object."""
    p = argparse.ArgumentParser(
        prog="cllm study critic", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--run", type=Path, default=SHIPPED, help="of built-in recipes")
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--steps", type=int, default=1000, help="of each critic")
    p.add_argument("--texts", type=int, default=20_000, help="real ones that a critic sees at most")
    p.add_argument("--decodes", type=int, default=1500, help="that failures are looked for in")
    p.add_argument("--voids", type=Path, default=SHIPPED_VOIDS, help="a run that writes from voids")
    p.add_argument("--void-decodes", type=int, default=3000, help="of its void arm")
    p.add_argument("--left-out", nargs="*", default=list(RECIPES), choices=RECIPES, help="kinds")
    p.add_argument("--left-out-seeds", type=int, default=1)
    p.add_argument("--out", type=Path, default=Path("runs/critic"), help="a folder")
    options = p.parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if min(options.seeds, options.left_out_seeds, options.steps) < 1 or options.decodes < 9:
            raise InputError("--seeds and --steps must be 1 or more, and --decodes 9 or more")
        if options.void_decodes < 2:
            raise InputError("--void-decodes must be 2 or more")
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
        self.negatives = Negatives.of(self.train, np.random.default_rng(0))
        latents = run.load_latents(self.model)
        self.decodes = self._decodes(*(latents.select(s).vectors_ND for s in ("train", "test")))
        self.wrong_n = np.array([bool(self.check(text)) for text in self.decodes])
        if not 0 < self.wrong_n.sum() < len(self.wrong_n):
            raise InputError("decodes are all right, or all wrong: there is nothing to tell apart")
        self.rubbish = [self.negatives.corrupted(text, draw) for text in self.unseen]
        self.void_texts = self._from_voids(RunFolder(options.voids))
        self.void_wrong_n = np.array([bool(self.check(text)) for text in self.void_texts], bool)

    def _decodes(self, train_ND: Vectors, held_out_MD: Vectors) -> list[str]:
        """Texts of random places and of the first coordinates of test texts' vectors."""
        rng = np.random.default_rng(5)  # places that no kind of edit was thought of by
        each = self.options.decodes // (1 + len(PREFIXES))
        places = [from_prior(train_ND, each, rng)]
        for k in PREFIXES:
            cut_ND = np.zeros_like(held_out_MD[:each])
            cut_ND[:, :k] = prefix(held_out_MD[:each], k)
            places.append(cut_ND)
        return filled(self.model.decode(np.concatenate(places)))

    def _from_voids(self, run: RunFolder) -> list[str]:
        """What the void arm of a run writes, each text once; kept in `--out`."""
        decodes, arm = self.options.void_decodes, VoidArm.of(run)
        asked = str((arm.field.rest, arm.field.least_score, decodes))
        kept: Path = self.options.out / f"voids-{digest(arm.model.hash, asked)}.json"
        if not kept.exists():
            log.info("%s: writing from voids, %d decodes", run.path, decodes)
            written, _ = arm.written(decodes, np.random.default_rng(6))
            write_json(kept, {"texts": filled(list(dict.fromkeys(written.texts)))})
        return list(read_json(kept)["texts"])

    def told(self) -> dict[str, Any]:
        """Each arm over seeds, differences of the same seed, and edits left out."""
        texts = [*self.decodes, *self.withheld, *self.unseen, *self.rubbish, *self.void_texts]
        logits = {
            arm: np.stack([self._logits(arm, RECIPES, seed, texts)
                           for seed in range(self.options.seeds)])
            for arm in ARMS
        } | self._untaught(texts)  # fmt: skip
        return {
            "decodes": len(self.decodes), "wrong": int(self.wrong_n.sum()),
            "void_texts": len(self.void_texts), "void_wrong": int(self.void_wrong_n.sum()),
            "faults": self._faults(self.decodes), "void_faults": self._faults(self.void_texts),
            "steps": self.options.steps, "seeds": self.options.seeds,
            "failures": self._on_failures(logits),
            "left_out_seeds": self.options.left_out_seeds,
            "left_out": {kind: self._left_out(kind) for kind in self.options.left_out},
        }  # fmt: skip

    def _faults(self, texts: Sequence[str]) -> dict[str, int]:
        """How many texts break which rules of the checker."""
        kinds = (sorted({fault.rule for fault in self.check(text)}) for text in texts)
        return dict(Counter(", ".join(rules) for rules in kinds if rules).most_common())

    def _untaught(self, texts: Sequence[str]) -> dict[str, Scores]:
        """What the reference LM says of texts before it learns anything wrong, (S, n) each.

        How likely they are, a token, and how usual that is among held-out texts, as the judge has.
        """
        known_C, cost_n = (self.reference.nats_a_token(self.model.tokens(some))
                           for some in (self.held_out, texts))  # fmt: skip
        rank_n = np.searchsorted(np.sort(known_C), cost_n)
        usual_n = np.minimum(rank_n, len(known_C) - rank_n) / len(known_C)
        scores = {"likelihood": -cost_n, "usual": usual_n}
        return {name: np.tile(score_n, (self.options.seeds, 1)) for name, score_n in scores.items()}

    def _on_failures(self, logits: Mapping[str, Scores]) -> dict[str, Any]:
        """Of each arm's logits (S, n) of all kinds of texts: over seeds and texts.

        AUROC on decodes; what a limit lets through that 99 of 100 held-out texts pass; and the
        arms less random corruption and less the reference LM, of the same seeds and texts.
        """
        sizes = {"wrong": int(self.wrong_n.sum()), "right": int((~self.wrong_n).sum()),
                 "withheld": len(self.withheld), "unseen": len(self.unseen),
                 "rubbish": len(self.rubbish), "void wrong": int(self.void_wrong_n.sum()),
                 "void right": int((~self.void_wrong_n).sum())}  # fmt: skip
        ends = np.cumsum(
            [len(self.decodes), *(sizes[k] for k in ("withheld", "unseen", "rubbish"))]
        )
        parts: dict[str, dict[str, Scores]] = {}
        for arm, logits_Sn in logits.items():
            decoded_Sn, withheld_Sn, unseen_Sn, rubbish_Sn, void_Sn = np.split(
                logits_Sn, ends, axis=1
            )
            parts[arm] = {
                "wrong": decoded_Sn[:, self.wrong_n], "right": decoded_Sn[:, ~self.wrong_n],
                "withheld": withheld_Sn, "unseen": unseen_Sn, "rubbish": rubbish_Sn,
                "void wrong": void_Sn[:, self.void_wrong_n],
                "void right": void_Sn[:, ~self.void_wrong_n],
            }  # fmt: skip

        def measured(rows: Mapping[str, Ints], seeds_S: Ints) -> dict[str, dict[str, Scores]]:
            found: dict[str, dict[str, Scores]] = {}
            for arm, part in parts.items():
                each = [_told_apart({k: part[k][s][rows[k]] for k in sizes}) for s in seeds_S]
                found[arm] = {name: np.array([one[name] for one in each]) for name in each[0]}
            for name, (arm, other) in (LESS | UNTAUGHT).items():
                found[name] = {one: found[arm][one] - found[other][one] for one in found[arm]}
            return found

        seeds, rng = self.options.seeds, np.random.default_rng(1)
        whole = measured({k: np.arange(n) for k, n in sizes.items()}, np.arange(seeds))
        draws = [
            measured({k: rng.integers(max(n, 1), size=n) for k, n in sizes.items()},
                     rng.integers(seeds, size=seeds))
            for _ in range(DRAWS)
        ]  # fmt: skip
        return {
            arm: {
                name: _interval(values_S, np.array([draw[arm][name].mean() for draw in draws]))
                for name, values_S in by_name.items()
            }
            for arm, by_name in whole.items()
        }

    def _left_out(self, kind: str) -> dict[str, Any]:
        """AUROC of critics that have seen none of one kind of edit, by arm, each seed.

        On edits of that kind; and on decodes, which says what the kind is worth there.
        """
        rng, others = np.random.default_rng(2), tuple(one for one in RECIPES if one != kind)
        edited = [self.negatives.edited(text, rng, [kind]) for text in self.unseen]
        wrong = [edit[0] for edit in edited if edit and self.check(edit[0])]
        found: dict[str, Any] = {"wrong": len(wrong)} | {arm: [] for arm in ARMS}
        on_decodes: dict[str, Any] = {arm: [] for arm in ARMS}
        ends = np.cumsum([len(self.unseen), len(wrong)])
        for arm in ARMS:
            for seed in range(self.options.left_out_seeds):
                logits_n = self._logits(arm, others, seed, [*self.unseen, *wrong, *self.decodes])
                real_n, wrong_n, decoded_n = np.split(logits_n, ends)
                found[arm].append(auroc(wrong_n, real_n))
                on_decodes[arm].append(auroc(decoded_n[self.wrong_n], decoded_n[~self.wrong_n]))
        for of in (found, on_decodes):
            of |= {name: _seeds_less(of[arm], of[other]) for name, (arm, other) in LESS.items()}
        return found | {"on_decodes": on_decodes}

    def _logits(self, arm: str, kinds: Sequence[str], seed: int, texts: Sequence[str]) -> Scores:
        """Of one critic, (n,)."""
        return self._critic(arm, kinds, seed).logits(self.model.tokens(texts))

    def _critic(self, arm: str, kinds: Sequence[str], seed: int) -> Critic:
        """Trained, or from `--out`, where a training that was stopped goes on as well."""
        o = self.options
        kinds = kinds if ARMS[arm] else ()  # which rubbish has none of: one critic for all
        made_from = digest(self.made_from, arm, *kinds, str((seed, o.steps, o.texts, METHOD)))
        folder: Path = o.out / made_from
        if not folder.exists():
            log.info("critic of %s, seed %d: %s", arm, seed, ", ".join(kinds))
            rng = np.random.default_rng([3, seed])
            examples, held_out = (
                Examples.made(texts, self.negatives, rng, ARMS[arm], kinds)
                for texts in (self.train, self.held_out)
            )
            loop = LoopSettings(steps=o.steps, lr=5e-4, evaluations=4, seed=seed)
            critic, result = train_critic(
                self.reference, self.model.base, examples, held_out, loop,
                o.out / "training" / made_from,
            )  # fmt: skip
            with replacing(folder) as new:
                critic.save(new)
            result.checkpoint.remove()
        return Critic.load(folder, self.model.base)


def _told_apart(logits: Mapping[str, Scores]) -> dict[str, float]:
    """Of one critic's logits: wrong and right decodes, the same of voids, withheld and unseen."""
    least = np.quantile(logits["unseen"], ALARMS)
    void = len(logits["void wrong"]) and len(logits["void right"])
    return {
        **({"auroc_voids": auroc(logits["void wrong"], logits["void right"])} if void else {}),
        "auroc": auroc(logits["wrong"], logits["right"]),
        "auroc_withheld": auroc(logits["wrong"], logits["withheld"]),
        "auroc_rubbish": auroc(logits["rubbish"], logits["unseen"]),
        "failures_passed": float((logits["wrong"] >= least).mean()),
        "withheld_passed": float((logits["withheld"] >= least).mean()),
    }


def _seeds_less(mine_S: Sequence[float], others_S: Sequence[float]) -> dict[str, Any]:
    """A difference of the same seeds, with Student's interval."""
    less = of_few(np.subtract(mine_S, others_S))
    return {"mean": less.mean, "ci": less.ci}


def _interval(values_S: Scores, draws: Scores) -> dict[str, Any]:
    """A mean over seeds; draws are of seeds and texts, stretched as few seeds are."""
    mean = float(values_S.mean())
    low, high = mean + few(len(values_S)) * (np.quantile(draws, (0.025, 0.975)) - mean)
    return {"mean": mean, "ci": [float(low), float(high)], "seeds": values_S.tolist()}


if __name__ == "__main__":
    main()
