"""A run folder with a corpus of 800 recipes and an untrained base: all that a sweep needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_run_in

from cllm.base import BaseLM
from cllm.corpus import Corpus, built_in_corpus
from cllm.run import RunFolder


@pytest.fixture(scope="session")
def recipes() -> Corpus:
    """Enough to choose by: some 40 of them are validation texts."""
    return built_in_corpus("plain", 800, 0)


@pytest.fixture
def tiny_run(tmp_path: Path, recipes: Corpus, tiny_base: BaseLM) -> RunFolder:
    return tiny_run_in(tmp_path / "run", recipes, tiny_base)
