"""A classifier that tells real texts from nearly real ones: what a model learns is the boundary.

critic = train_critic(reference, base, examples, held_out, loop, folder); critic.logits(tokens)
"""

# Shapes: B texts of a batch, T tokens, n texts.
from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from cllm import pipeline
from cllm.base import BaseLM
from cllm.batches import Batch, TokenTexts
from cllm.errors import InputError
from cllm.files import digest, file_digest, replacing
from cllm.negatives import Negatives
from cllm.progress import training_progress
from cllm.reference import ReferenceLM
from cllm.run import RunFolder
from cllm.settings import LoopSettings, RunSettings
from cllm.training import Report, Task, fit
from cllm.writing import checker_of

log = logging.getLogger(__name__)

RATE = 5e-4  # of learning
SCORED = 400  # held-out texts, as many real as wrong
METHOD = "1"  # raised when the same texts would give another critic
REAL, WRONG = "real ", "wrong "  # how names of texts begin


@dataclass(frozen=True)
class Examples:
    """Real texts and wrong ones; as many of each teach best."""

    real: Sequence[str]
    wrong: Sequence[str]

    def tokens(self, base: BaseLM, context: int) -> TokenTexts:
        """All of them, real ones first; their names say which they are."""
        texts = [*self.real, *self.wrong]
        kinds = [REAL] * len(self.real) + [WRONG] * len(self.wrong)
        names = [f"{kind}{number}" for number, kind in enumerate(kinds)]
        return TokenTexts.of(names, base.tokenize(texts), base.pad, context)


class Critic:
    """The reference LM with one logit, read at a text's end: above 0 is real.

    It begins with what the LM knows: what is wrong with a text surprises it somewhere.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - of transformers
        self.model = model

    @classmethod
    def new(cls, reference: ReferenceLM, base: BaseLM, seed: int) -> Critic:
        """Untrained but for the reference LM's own layers."""
        from transformers import GPT2ForSequenceClassification

        torch.manual_seed(seed)
        config = copy.deepcopy(reference.model.config)
        config.num_labels, config.pad_token_id = 1, base.pad
        model = GPT2ForSequenceClassification(config)
        model.transformer.load_state_dict(reference.model.transformer.state_dict())
        return cls(model)

    @classmethod
    def load(cls, folder: Path, base: BaseLM) -> Critic:
        """From a folder that `save` wrote; InputError where it holds no critic of that base."""
        from transformers import GPT2ForSequenceClassification

        try:
            model: Any = GPT2ForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True
            )
            if model.config.vocab_size != base.vocabulary:
                raise ValueError("it has another vocabulary than the base")
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{folder} holds no critic of {base.name} ({error})") from error
        return cls(model.eval().requires_grad_(False).to(base.device))

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder."""
        self.model.save_pretrained(folder)

    def of_batch(self, batch: Batch) -> Tensor:
        """A logit for each text, (B,)."""
        logits: Tensor = self.model(batch.ids_BT, attention_mask=batch.mask_BT.long()).logits
        return logits[:, 0]

    @torch.inference_mode()
    def logits(self, texts: TokenTexts, batch: int = 256) -> NDArray[np.float64]:
        """How real each text seems, (n,): above 0 rather real than wrong."""
        found_n = np.zeros(len(texts))
        device = next(self.model.parameters()).device
        for chosen_B, part in texts.in_order(batch):
            found_n[chosen_B] = self.of_batch(part.to(device)).cpu().numpy()
        return found_n


class Telling(Task):
    """Task: tell real texts from wrong ones."""

    def __init__(self, critic: Critic, held_out: TokenTexts) -> None:
        self.critic, self.held_out = critic, held_out
        self.module: nn.Module = critic.model.train().requires_grad_(True)
        self.identity = digest(str(critic.model.config))

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002 - no noise here
        """Binary cross-entropy, a share of the whole batch's mean."""
        logits_B = self.critic.of_batch(batch)
        wanted_B = torch.tensor(are_real(batch.names), device=logits_B.device)
        nats = F.binary_cross_entropy_with_logits(logits_B, wanted_B, reduction="sum")
        return {"loss": nats / batch.whole.texts}

    def score(self) -> float:
        """Minus the nats a held-out text."""
        logits_n = self.critic.logits(self.held_out)
        signs_n = 2 * np.array(are_real(self.held_out.names)) - 1
        return -float(np.logaddexp(0, -signs_n * logits_n).mean())


def are_real(names: Sequence[str]) -> list[float]:
    """1 for each that is real, by its name."""
    return [float(name.startswith(REAL)) for name in names]


def train_critic(
    reference: ReferenceLM, base: BaseLM, examples: Examples, held_out: Examples,
    loop: LoopSettings, folder: Path, report: Report | None = None,
) -> Critic:  # fmt: skip
    """Train one; the weights of the best held-out score are taken."""
    critic, context = Critic.new(reference, base, loop.seed), reference.model.config.n_positions
    critic.model.to(base.device)
    task = Telling(critic, held_out.tokens(base, context))
    fit(task, examples.tokens(base, context), loop, folder, report).checkpoint.remove()
    critic.model.eval().requires_grad_(False)
    return critic


def make_critic(run: RunFolder, settings: RunSettings, *, reuse: bool = False) -> None:
    """Train the critic that judges texts without a checker; kept inside the base's folder.

    It learns real texts from small edits of them, for half the time that the CLLM has.
    """
    corpus = run.load_corpus()
    if checker_of(corpus):
        log.info("these texts have a checker, and need no critic")
        return
    base = run.load_base()
    reference, budget = run.load_reference(base), settings.train.loop
    loop = budget.model_copy(update={
        "seconds": budget.seconds / 2, "steps": max(1, budget.steps // 2), "lr": RATE,
    })  # fmt: skip
    weights = file_digest(run.reference / "model.safetensors")
    made_from = pipeline.identity(loop, base.hash, corpus.hash, weights, METHOD)
    if reuse and pipeline.finished(run.critic, made_from):
        return
    begun, rng = time.perf_counter(), np.random.default_rng([settings.seed, 7])
    train = corpus.select("train").texts
    held_out = corpus.select("validation").sample(SCORED).texts
    maker = Negatives.of(train, rng)
    examples, scored = (
        Examples(texts, [maker.wrong(text, rng) for text in texts]) for texts in (train, held_out)
    )
    with training_progress("critic") as report:
        folder = run.path / "training" / "critic"
        critic = train_critic(reference, base, examples, scored, loop, folder, report)
    with replacing(run.critic) as new:
        critic.save(new)
        pipeline.remember(new, made_from, loop, {})
    run.time("critic", begun)
