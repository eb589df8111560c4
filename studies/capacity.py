"""How much one vector can carry through the frozen base, if it is optimised for its text.

The "cramming" method (Kuratov et al. 2025): no encoder; one trainable vector for each text, by
gradient descent, until the frozen decoder restores it. The longest texts that come back are the
ceiling that a trained encoder is compared with. `cllm study capacity --json`
"""

# Shapes: N texts, B of a batch, T tokens, D coordinates, H width of the base, M memory positions.
from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cllm.base import Tokens
from cllm.batches import Batch, TokenTexts
from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.evaluate import nats_without
from cllm.files import write_json
from cllm.metrics import bootstrap, paired_difference
from cllm.model import CLLM
from cllm.noise import text_keys
from cllm.progress import counted
from cllm.run import SHIPPED, RunFolder

RIGHT = 0.99  # of a text's tokens, forced: it counts as carried
RATE, BETAS, DECAY = 1e-2, (0.9, 0.9), 0.01  # AdamW's, as in the paper
LENGTHS = [4, 8, 16, 24, 32, 48, 64, 80]
FEW = 6  # texts of a length: fewer say nothing
WAYS = ("slot", "decoder", "encoder")
PATIENCE = 500  # steps without a better text of the batch

Read = Callable[[Tensor], Tensor]  # vectors (B, D) to a memory (B, M, H)


def main(arguments: Sequence[str] | None = None) -> None:
    """Optimise vectors for texts of each length; print one JSON object."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        run = RunFolder(options.run)
        found = capacity(run.load_model(), run, options)
        if options.out:
            write_json(options.out, found)
        print(json.dumps(found))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(
        prog="cllm study capacity", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--run", type=Path, default=SHIPPED, help="with a model and its base")
    p.add_argument("--texts", type=int, default=32, help="held-out texts, of the validation split")
    p.add_argument(
        "--lengths", type=int, nargs="+", default=LENGTHS, help="tokens that texts are cut to"
    )
    p.add_argument("--steps", type=int, default=2000, help="most, for a batch of texts")
    p.add_argument("--starts", type=int, default=2, help="random ones of each optimised slot")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="keep the JSON here too")
    return p


def capacity(model: CLLM, run: RunFolder, options: argparse.Namespace) -> dict[str, Any]:
    """By the base alone and through the CLLM's decoder; words of texts and random tokens.

    `slot`: the vector is the one memory position, of the base's width, that its decoder sees.
    `encoder`: a CLLM's vector, of d coordinates, as its trained encoder makes it; `decoder`: the
    same one optimised, through the CLLM's frozen decoder: what that adds is the encoder's gap, of
    `whole_texts` alone a fair one: the encoder has seen no text that does not end.
    """
    if options.texts < FEW or options.starts < 1:
        raise InputError(f"--texts must be {FEW} or more, and --starts 1 or more")
    everything = run.load_corpus()
    corpus = everything.select("validation")
    order_N = np.argsort(text_keys(corpus.ids), kind="stable")  # whatever a file's order
    rows = model.base.tokenize(corpus.texts)
    torch.manual_seed(options.seed)
    lengths = [n for n in sorted(set(options.lengths)) if n <= model.config.context]
    if not lengths or min(lengths) < 2:
        raise InputError(f"--lengths must be 2 to {model.config.context}, the model's context")
    told: dict[str, Any] = {
        "texts": options.texts, "dim": model.config.dim, "width": model.base.width,
        "steps": options.steps, "seed": options.seed, "carried": RIGHT,
    }  # fmt: skip
    rng = np.random.default_rng(options.seed)
    reference = run.find_reference(model.base)

    def at(numbers: Sequence[int], of: Tokens, entropy: float | None) -> dict[str, Any]:
        names = [corpus.ids[i] for i in numbers]
        texts = TokenTexts.of(names, of, model.base.pad, model.config.context)
        return _at(model, texts, nats_without(model, reference, texts, entropy), options)

    first = order_N[: options.texts].tolist()
    told["whole_texts"] = at(first, [rows[i] for i in first], everything.info.get("entropy_nats"))
    known = sorted({token for row in rows for token in row} - {model.base.eos})
    drawn = [[*rng.choice(known, len(row) - 1).tolist(), model.base.eos] for row in rows]
    for what, some in (("texts", rows), ("random", drawn)):
        by_length = []
        for n in counted(lengths, f"lengths, {what}"):
            long = [i for i in order_N if len(some[i]) > n][: options.texts]
            if len(long) < FEW:
                continue  # cut texts only: shorter ones would make a length look easier
            begun = [some[i][:n] for i in long]  # no end token: a text does not end there
            entropy = n * math.log(len(known)) if what == "random" else None
            by_length.append(at(long, begun, entropy))
        told[f"of_{what}"] = by_length
        told[f"most_{what}"] = {way: most_carried(by_length, way) for way in WAYS}
    return told


def most_carried(by_length: Sequence[Mapping[str, Any]], way: str) -> int:
    """The longest texts of which half come back, as half of all shorter ones do; 0 for none."""
    carried = takewhile(lambda one: one[way]["carried"] >= 0.5, by_length)
    return max((one["tokens"] for one in carried), default=0)


def _at(
    model: CLLM, texts: TokenTexts, without_N: NDArray[np.float64], options: argparse.Namespace
) -> dict[str, Any]:
    batch = texts.gather(range(len(texts))).to(model.device)
    base, count = model.base, len(batch)
    encoded_BD = torch.from_numpy(model.encode_tokens(texts)).to(model.device)

    def through_decoder(vectors_BD: Tensor) -> Tensor:
        return model.decode_array(F.normalize(vectors_BD, dim=-1))

    def slots_BH() -> Tensor:
        noise_BH = torch.randn(count, base.width, device=model.device)
        return noise_BH * float(model.spread) + model.mean.mean(0)

    ways: dict[str, tuple[list[Tensor], Read, int]] = {
        "slot": ([slots_BH() for _ in range(options.starts)], lambda x_BH: x_BH[:, None],
                 options.steps),
        "decoder": ([encoded_BD], through_decoder, options.steps),
        "encoder": ([encoded_BD], through_decoder, 0),
    }  # fmt: skip
    found: dict[str, Any] = {"tokens": texts.tokens // count, "texts": count}
    nats: dict[str, NDArray[np.float64]] = {}
    rng = np.random.default_rng(0)
    for way, (starts, read, steps) in ways.items():
        right_B, nats_B = optimised(model, batch, starts[0], read, steps)
        for start in starts[1:]:
            other_B, cost_B = optimised(model, batch, start, read, steps)
            better_B = _better(other_B, cost_B, right_B, nats_B)
            right_B = torch.where(better_B, other_B, right_B)
            nats_B = torch.where(better_B, cost_B, nats_B)
        nats[way] = nats_B.double().cpu().numpy()
        gain = bootstrap(without_N - nats[way], rng)
        accuracy = bootstrap(right_B.cpu().numpy(), rng)
        found[way] = {
            "carried": float((right_B >= RIGHT).float().mean()),
            "accuracy": accuracy.mean, "accuracy_ci": accuracy.ci,
            "gain_nats": gain.mean, "gain_ci": gain.ci,
            "nats_per_dim": gain.mean / starts[0].shape[1],
        }  # fmt: skip
    gap = paired_difference(nats["encoder"], nats["decoder"], rng)
    return found | {"gap_nats": gap.mean, "gap_ci": gap.ci}


def optimised(
    model: CLLM, batch: Batch, start_BD: Tensor, read: Read, steps: int
) -> tuple[Tensor, Tensor]:
    """Each text's best forced accuracy (B,) and its nats there, over the steps and the start.

    Texts do not know of each other: losses are added up, and each has a vector of its own.
    """
    vectors_BD = start_BD.clone().requires_grad_(steps > 0)
    best_B, nats_B = _scores(model, batch, read(vectors_BD.detach()))
    if not steps:
        return best_B, nats_B
    optimizer = torch.optim.AdamW([vectors_BD], lr=RATE, betas=BETAS, weight_decay=DECAY)
    improved = 0
    for step in range(steps):
        nats_BT = model.base.cross_entropy(read(vectors_BD), batch.ids_BT, batch.mask_BT)
        optimizer.zero_grad()
        nats_BT.sum().backward()
        optimizer.step()
        if step % 25 == 24:
            right_B, cost_B = _scores(model, batch, read(vectors_BD.detach()))
            better_B = _better(right_B, cost_B, best_B, nats_B)
            best_B = torch.where(better_B, right_B, best_B)
            nats_B = torch.where(better_B, cost_B, nats_B)
            improved = step if bool(better_B.any()) else improved
            if bool((best_B == 1).all()) or step - improved >= PATIENCE:
                break
    return best_B, nats_B


def _better(right_B: Tensor, cost_B: Tensor, best_B: Tensor, nats_B: Tensor) -> Tensor:
    """Which of the texts are restored better, (B,): more tokens right, or as many for less."""
    return (right_B > best_B) | ((right_B == best_B) & (cost_B < nats_B - 0.01))


@torch.no_grad()
def _scores(model: CLLM, batch: Batch, memory_BMH: Tensor) -> tuple[Tensor, Tensor]:
    """Forced accuracy and nats of each text, (B,)."""
    logits_BTV = model.base.logits(memory_BMH, batch.ids_BT)
    right_BT = (logits_BTV.argmax(-1) == batch.ids_BT) & batch.mask_BT
    nats_BT = F.cross_entropy(logits_BTV.transpose(1, 2), batch.ids_BT, reduction="none")
    return right_BT.sum(1) / batch.mask_BT.sum(1), (nats_BT * batch.mask_BT).sum(1)
