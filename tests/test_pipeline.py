"""Choices that the chain makes by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cllm import pipeline
from cllm.batches import TokenTexts
from cllm.model import CLLM
from cllm.run import RunFolder

NULL, REFERENCE = 30.0, 25.0  # nats a text without its vector


@pytest.fixture
def chosen(
    new_cllm: Callable[..., CLLM],
    texts: TokenTexts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., int]:
    """The prefix that is chosen where prefixes leave these nats."""

    def choose(by_prefix: dict[int, float], *, reference: bool = True, nested: bool = True) -> int:
        class Reference:
            def nats(self, texts: TokenTexts) -> np.ndarray:
                return np.full(len(texts), REFERENCE)

        def nats(_model: CLLM, texts: TokenTexts, k: int) -> np.ndarray:
            return np.full(len(texts), by_prefix[k])

        model = new_cllm(dim=32)
        model.config.nested = nested
        run = RunFolder(tmp_path)
        if reference:
            (run.base / "reference").mkdir(parents=True)
        monkeypatch.setattr(RunFolder, "load_reference", lambda *_: Reference())
        monkeypatch.setattr(pipeline, "text_nats", nats)
        monkeypatch.setattr(pipeline, "null_nats", lambda _, texts: np.full(len(texts), NULL))
        return pipeline.choose_void_dim(run, model, texts)

    return choose


def test_voids_are_sought_in_the_shortest_prefix_that_gains(chosen: Callable[..., int]) -> None:
    assert chosen({2: 1.0, 4: 26.0, 8: 24.0, 16: 9.0}) == 8


def test_two_coordinates_are_never_enough(chosen: Callable[..., int]) -> None:
    assert chosen({2: 1.0, 4: 2.0, 8: 3.0, 16: 4.0}) == 4


def test_a_gain_counts_from_the_cheaper_of_null_vector_and_reference(
    chosen: Callable[..., int],
) -> None:
    assert chosen({2: 0.0, 4: 28.0, 8: 27.0, 16: 9.0}, reference=False) == 4


@pytest.mark.parametrize("nested", [True, False])
def test_without_a_prefix_that_gains_the_whole_vector_is_taken(
    chosen: Callable[..., int], nested: bool
) -> None:
    nats = 99.0 if nested else 1.0  # a plain model is never asked
    assert chosen(dict.fromkeys((2, 4, 8, 16), nats), nested=nested) == 32
