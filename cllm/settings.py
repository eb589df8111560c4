"""Every setting, in one frozen object per component, and the one size dial.

`preset("quick")` gives them all; the command line overrides single fields and
prints what it derived. 0 means "off" where a field says so.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Preset = Literal["quick", "standard", "full"]
Form = Literal["mirrored", "pooled", "direct"]


class Settings(BaseModel):
    """Frozen, and strict about unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LoopSettings(Settings):
    """The training loop, whatever it trains. Ends at `steps` or `seconds`, the earlier."""

    steps: int = Field(100_000, ge=1, description="optimizer steps at most")
    seconds: float = Field(0, ge=0, description="wall time to train for; 0 = no limit")
    batch: int = Field(64, ge=1, description="texts a step, over all workers")
    lr: float = Field(2e-3, gt=0, description="AdamW's peak learning rate")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the training spent warming up")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's; 0 = off")
    clip: float = Field(1.0, gt=0, description="gradient norm is cut to this")
    evaluations: int = Field(8, ge=1, description="held-out scores over the whole training")
    report_every: int = Field(20, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_seconds: float = Field(120, gt=0, description="seconds between checkpoints")
    seed: int = Field(0, ge=0, description="of order, noise and initial weights")


class BaseSettings(Settings):
    """A small base LLM trained from scratch (Pegasus-style: sinusoidal positions, pre-norm)."""

    vocabulary: int = Field(4000, ge=64, description="byte-level BPE tokens")
    width: int = Field(192, ge=16, description="of the token embeddings")
    layers: int = Field(2, ge=1, description="of the encoder, and of the decoder")
    feed_forward: int = Field(512, ge=16, description="width of the MLPs")
    context: int = Field(128, ge=4, description="tokens a text may have, end token included")
    mask: float = Field(0.15, ge=0, lt=1, description="mean share of masked tokens; 0 = off")
    unconditional: float = Field(0.1, ge=0, lt=1, description="share of texts masked wholly; 0 = off")
    memory_noise: float = Field(0.3, ge=0, description="Gaussian noise on token embeddings; 0 = off")
    minimum_restored: float = Field(0.99, gt=0, le=1, description="of held-out tokens, to freeze it")
    loop: LoopSettings = LoopSettings()


class ModelSettings(Settings):
    """Shape of a CLLM."""

    dim: int = Field(32, ge=2, le=4096, description="coordinates of the vector")
    form: Form = Field("mirrored", description="the article's mirrored layers, or a baseline")
    blocks: int = Field(1, ge=1, description="transformer blocks in a collapse layer")
    perceptron: bool = Field(True, description="the outermost layer is a perceptron, not attention")
    window: int = Field(128, ge=8, description="tokens that see each other where a layer is longer")


class TrainSettings(Settings):
    """What the CLLM is trained for. Weights of 0 switch a term off."""

    nested: bool = Field(True, description="trailing coordinates cut off at random")
    full_length: float = Field(0.6, gt=0, le=1, description="share of texts that keep all coordinates")
    vector_noise: float = Field(0.1, ge=0, description="angle by which vectors are moved, rad; 0 = off")
    token_noise: float = Field(0.05, ge=0, lt=1, description="share of input tokens masked; 0 = off")
    null: float = Field(0.02, ge=0, lt=1, description="share of texts that train the null vector")
    array_weight: float = Field(0.1, ge=0, description="error of the restored token embeddings")
    cluster_weight: float = Field(0.0, ge=0, description="against a uniform spread of vectors")
    cluster_floor: float = Field(0.5, ge=0, le=1, description="smallest variance kept, of uniform's")
    negative_weight: float = Field(0.0, ge=0, description="against the nearest confusable text")
    negative_temperature: float = Field(0.1, gt=0, description="of the negative term")
    loop: LoopSettings = LoopSettings()
