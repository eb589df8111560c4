"""An autoencoder and a cloud with a void that are known exactly; a command in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from cllm.base import BaseLM
from cllm.cli import app
from cllm.console import one_line_errors
from cllm.corpus import Corpus
from cllm.field import Field
from cllm.model import CLLM
from cllm.passages import passages_of
from cllm.sphere import unit

Vectors = np.ndarray


class Spelled:
    """An autoencoder that loses nothing: a vector's text is its coordinates."""

    decodes = 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        return unit(np.array([[float(x) for x in text.split()] for text in texts]))

    def decode(self, vectors_ND: Vectors, how: object = None) -> list[str]:
        self.decodes += len(vectors_ND)
        return [" ".join(f"{x:.6f}" for x in row) for row in vectors_ND]


def ringed(seed: int, count: int) -> Vectors:
    """Points evenly over S² but for a cap, which is the void."""
    cloud = unit(np.random.default_rng(seed).standard_normal((count, 3)))
    return cloud[cloud[:, 2] < 0.8]


def ringed_field() -> Field:
    return Field.of(ringed(1, 1500), ringed(2, 300), 3, 1.8, np.random.default_rng(0))


def command(*words: str) -> int:
    """`cllm` with these words; its exit status."""
    with pytest.raises(SystemExit) as ended, one_line_errors():
        app(list(words))
    return int(ended.value.code or 0)


def stopping(does: Callable[..., Any], after: int) -> Callable[..., Any]:
    """The same, until it was done so many times: then the process is killed, as it were."""
    done = 0

    def once_more(*how: Any, **more: Any) -> Any:
        nonlocal done
        if done == after:
            raise KeyboardInterrupt
        done += 1
        return does(*how, **more)

    return once_more


def killed_and_on(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, kept: int, left: int,
    run: Callable[[], None],
) -> None:  # fmt: skip
    """It is killed once that was done `kept` times; again it has `left` of them to do, no more."""
    for times, ends in ((kept, pytest.raises(SystemExit)), (left, nullcontext())):
        with monkeypatch.context() as counted, ends:
            counted.setattr(where, name, stopping(getattr(where, name), times))
            run()


def level_of(base: BaseLM, corpus: Corpus, words: int) -> CLLM:
    """An untrained CLLM of passages of the training texts, of 16 coordinates."""
    torch.manual_seed(0)
    some = passages_of(corpus.select("train"), words)
    model = CLLM.from_base(base, context=24, dim=16)
    model.start(base.texts(some.ids, base.tokenize(some.texts), 24))
    return model
