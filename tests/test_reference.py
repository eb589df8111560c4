"""The reference LM: what a text costs without a vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONTEXT, base_settings

from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.reference import ReferenceLM, train_reference


def test_reference_nats_are_the_models_own_loss(tiny_base: BaseLM, texts: TokenTexts) -> None:
    reference = ReferenceLM.new(tiny_base, base_settings(), CONTEXT)
    few = TokenTexts(texts.names[:5], texts.rows[:5], texts.pad, 0)
    nats_N = reference.nats(few, batch=2)
    for row, nats in zip(few.rows, nats_N, strict=True):
        ids = torch.tensor([[tiny_base.start, *row.tolist()]])
        with torch.no_grad():
            own = reference.model(ids, labels=ids).loss.item() * len(row)
        assert nats == pytest.approx(own, rel=1e-4)


def test_trained_reference_beats_an_even_guess_and_comes_back(
    tiny_base: BaseLM, corpus: Corpus, texts: TokenTexts, tmp_path: Path
) -> None:
    settings = base_settings(steps=10, batch=16, lr=2e-2, evaluations=1)
    reference, _ = train_reference(tiny_base, corpus, settings, tmp_path / "fit")
    few = TokenTexts(texts.names[:8], texts.rows[:8], texts.pad, 0)
    nats_N = reference.nats(few)
    assert nats_N.mean() < 0.8 * np.log(tiny_base.vocabulary) * texts.tokens / len(texts)
    reference.save(tmp_path / "reference")
    again = ReferenceLM.load(tmp_path / "reference", tiny_base)
    np.testing.assert_allclose(again.nats(few), nats_N, rtol=1e-5)


def test_a_folder_without_a_safe_reference_is_refused(tiny_base: BaseLM, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cllm pretrain"):
        ReferenceLM.load(tmp_path, tiny_base)
    reference = ReferenceLM.new(tiny_base, base_settings(), CONTEXT)
    reference.save(tmp_path)
    torch.save(reference.model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no reference LM"):
        ReferenceLM.load(tmp_path, tiny_base)
