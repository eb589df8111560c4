"""A classifier that tells real texts from nearly real ones: what a model learns is the boundary.

critic, _ = train_critic(reference, base, examples, held_out, loop, folder)
critic.logits(tokens)
"""

# Shapes: B texts of a batch, T tokens, n texts.
from __future__ import annotations

import copy
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

from cllm.base import BaseLM
from cllm.batches import Batch, TokenTexts
from cllm.errors import InputError
from cllm.files import digest
from cllm.negatives import KINDS, Negatives
from cllm.reference import ReferenceLM
from cllm.settings import LoopSettings
from cllm.training import Fit, Report, Task, fit

REAL, WRONG = "real ", "wrong "  # how names of texts begin


@dataclass(frozen=True)
class Examples:
    """Real texts, and each of them made wrong."""

    real: Sequence[str]
    wrong: Sequence[str]

    @classmethod
    def made(
        cls, texts: Sequence[str], maker: Negatives, rng: np.random.Generator, edits: float = 1.0,
        kinds: Sequence[str] = KINDS,
    ) -> Examples:  # fmt: skip
        """As `Negatives.wrong` has it."""
        return cls(texts, [maker.wrong(text, rng, edits, kinds) for text in texts])

    def tokens(self, base: BaseLM, context: int) -> TokenTexts:
        """All of them, real ones first; their names say which they are.

        Without those that do not differ once they are cut to the context.
        """
        both = [_tokens(texts, base, context).rows for texts in (self.real, self.wrong)]
        pairs = [pair for pair in zip(*both, strict=True) if not np.array_equal(*pair)]
        rows = [row.tolist() for kind in zip(*pairs, strict=True) for row in kind]
        kinds = [REAL] * len(pairs) + [WRONG] * len(pairs)
        names = [f"{kind}{number}" for number, kind in enumerate(kinds)]
        return TokenTexts.of(names, rows, base.pad, context)


def _tokens(texts: Sequence[str], base: BaseLM, context: int) -> TokenTexts:
    names = [str(row) for row in range(len(texts))]
    return TokenTexts.of(names, base.tokenize(list(texts)), base.pad, context)


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

    def of_texts(self, texts: Sequence[str], base: BaseLM) -> NDArray[np.float64]:
        """`logits` of texts, as the base that it was trained with tokenises them."""
        return self.logits(_tokens(texts, base, self.model.config.n_positions))

    @torch.inference_mode()
    def logits(self, texts: TokenTexts, batch: int = 256) -> NDArray[np.float64]:
        """How real each text seems, (n,): above 0 rather real than wrong.

        Of a text that is longer than it has places for, as in training, what comes first.
        """
        texts = texts.shortened(self.model.config.n_positions)
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
) -> tuple[Critic, Fit]:  # fmt: skip
    """Train one; the weights of the best held-out score are taken."""
    critic, context = Critic.new(reference, base, loop.seed), reference.model.config.n_positions
    critic.model.to(base.device)
    scored, train = held_out.tokens(base, context), examples.tokens(base, context)
    if not len(scored) or not len(train):
        raise InputError("no text can be made wrong: they are too short, or hold no word")
    result = fit(Telling(critic, scored), train, loop, folder, report)
    critic.model.eval().requires_grad_(False)
    return critic, result
