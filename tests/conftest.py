"""Settings of the test run that hold for every module, and the tiny models many tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from cllm.base import BaseLM
    from cllm.batches import TokenTexts
    from cllm.corpus import Corpus
    from cllm.model import CLLM

# The same examples on every machine, and no failure because a shared core was busy.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")

CONTEXT = 80


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """300 built-in recipes of 70 to 73 tokens."""
    from cllm.corpus import built_in_corpus

    return built_in_corpus("plain", 300, 0)


@pytest.fixture(scope="session")
def tiny_base(corpus: Corpus) -> BaseLM:
    """An untrained Pegasus-style base; not to be changed."""
    return new_tiny_base(corpus)


@pytest.fixture(scope="session")
def tiny_t5(tiny_base: BaseLM) -> BaseLM:
    """An untrained T5 with the same tokenizer."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    config = T5Config(
        vocab_size=tiny_base.vocabulary,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        pad_token_id=tiny_base.pad,
        eos_token_id=tiny_base.eos,
        decoder_start_token_id=tiny_base.pad,
    )
    return _wrapped(T5ForConditionalGeneration(config), tiny_base, "t5")


@pytest.fixture(scope="session")
def tiny_bart(tiny_base: BaseLM) -> BaseLM:
    """An untrained BART with the same tokenizer, and with the habits of the ones on the hub."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

    torch.manual_seed(2)
    config = BartConfig(
        vocab_size=tiny_base.vocabulary,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=CONTEXT + 16,
        dropout=0.0,
        pad_token_id=tiny_base.pad,
        bos_token_id=tiny_base.pad,
        eos_token_id=tiny_base.eos,
        decoder_start_token_id=tiny_base.eos,
    )
    model = BartForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        forced_bos_token_id=7,
        forced_eos_token_id=tiny_base.eos,
        no_repeat_ngram_size=3,
        min_length=20,
        num_beams=4,
        pad_token_id=tiny_base.pad,
        eos_token_id=tiny_base.eos,
        decoder_start_token_id=tiny_base.eos,
    )
    return _wrapped(model, tiny_base, "bart")


@pytest.fixture(scope="session")
def texts(tiny_base: BaseLM, corpus: Corpus) -> TokenTexts:
    """The training texts as tokens."""
    from cllm.pretrain import token_texts

    return token_texts(tiny_base, corpus.select("train"), CONTEXT)


@pytest.fixture(scope="session")
def new_cllm(tiny_base: BaseLM, texts: TokenTexts) -> Callable[..., CLLM]:
    """Makes a started CLLM of 8 coordinates over the tiny base; `shape` as in ModelSettings."""
    import torch

    from cllm.model import CLLM

    def make(seed: int = 0, **shape: Any) -> CLLM:
        torch.manual_seed(seed)
        model = CLLM.from_base(tiny_base, context=CONTEXT, **({"dim": 8} | shape))
        model.start(texts)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tiny_cllm(new_cllm: Callable[..., CLLM]) -> CLLM:
    """One of them; not to be changed."""
    return new_cllm()


def new_tiny_base(corpus: Corpus, seed: int = 0) -> BaseLM:
    """A new untrained base for tests that train it."""
    return _new_base(corpus, base_settings(seed=seed))


def base_settings(**loop: Any) -> Any:
    """Settings of the tiny base, with fields of its training loop."""
    from cllm.settings import BaseSettings, LoopSettings

    return BaseSettings(
        vocabulary=1500,
        width=32,
        layers=1,
        feed_forward=64,
        context=CONTEXT,
        loop=LoopSettings(**loop),
    )


def _new_base(corpus: Corpus, settings: Any) -> BaseLM:
    from cllm.pretrain import new_base

    return new_base(corpus, settings, "tiny")


def _wrapped(model: Any, like: BaseLM, name: str) -> BaseLM:
    from cllm.base import BaseLM

    return BaseLM(model, like.tokenizer, name)
