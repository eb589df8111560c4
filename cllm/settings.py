"""Every setting, in one frozen object per component, and the one size dial.

`preset("quick")` gives them all; the command line overrides single fields and
prints what it derived. 0 means "off" where a field says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cllm.errors import InputError

ADAPTING_LR = 2e-4  # within what T5's and BART's authors advise

Preset = Literal["quick", "standard", "full"]
Form = Literal["mirrored", "pooled", "direct"]
Aim = Literal["text", "voids"]
EDITS = 3  # steps of an editor
PASSAGE = 32  # words of a passage, where there are two levels
VOID_DIM = 8  # coordinates that voids are sought in, where the model is trained for voids
LEAST_FOR_VOIDS = 8  # coordinates of a model that is trained for voids


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
    plateau: float = Field(
        0.0, ge=0,
        description="ends, cooled down, once the last third of the steps has raised the held-out "
        "score by less than this, nats a text; 0 = off",
    )  # fmt: skip
    weight_decay: float = Field(0.01, ge=0, description="AdamW's; 0 = off")
    clip: float = Field(1.0, gt=0, description="gradient norm is cut to this")
    evaluations: int = Field(8, ge=1, description="held-out scores over the whole training")
    report_every: int = Field(20, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_seconds: float = Field(120, gt=0, description="seconds between checkpoints")
    seed: int = Field(0, ge=0, description="of order, noise and initial weights")

    def for_share(self, share: float) -> LoopSettings:
        """The same for a share of its time and steps."""
        steps = max(1, round(self.steps * share))
        return self.model_copy(update={"seconds": self.seconds * share, "steps": steps})


class ParallelSettings(Settings):
    """How one training is spread over workers, and what it does to fit into their memory."""

    zero: Literal[0, 1, 2, 3] | None = Field(
        None, description="DeepSpeed's ZeRO stage; none = plain torch, one worker"
    )
    offload: bool = Field(False, description="optimizer states in main memory (ZeRO 1 to 3)")
    pieces: int = Field(1, ge=1, description="a worker's share of a batch, one after the other")
    checkpointing: bool = Field(False, description="activations are worked out twice, not kept")

    @model_validator(mode="after")
    def _fits(self) -> ParallelSettings:
        if self.offload and not self.zero:
            raise ValueError("parallel.offload needs parallel.zero of 1, 2 or 3")
        return self

    def deepspeed(self, loop: LoopSettings, *, pinned: bool) -> dict[str, Any]:
        """DeepSpeed's configuration; batches are ours, so a micro batch counts as one.

        It leaves weights in float32: it would cast those that it trains and not the frozen base.
        """
        zero: dict[str, Any] = {"stage": self.zero}
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": self.pieces,
            "gradient_clipping": loop.clip,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }


class BaseSettings(Settings):
    """A small base LLM trained from scratch (Pegasus-style: sinusoidal positions, pre-norm)."""

    vocabulary: int = Field(4000, ge=64, description="byte-level BPE tokens")
    width: int = Field(192, ge=16, description="of the token embeddings")
    layers: int = Field(2, ge=1, description="of the encoder, and of the decoder")
    feed_forward: int = Field(512, ge=16, description="width of the MLPs")
    context: int = Field(128, ge=4, description="tokens a text may have, end token included")
    mask: float = Field(0.45, ge=0, lt=1, description="mean share of masked tokens; 0 = off")
    unconditional: float = Field(
        0.1, ge=0, lt=1, description="share of texts masked wholly; 0 = off"
    )
    memory_noise: float = Field(
        1.0, ge=0, description="Gaussian noise on token embeddings, of their spread; 0 = off"
    )
    minimum_restored: float = Field(
        0.99, gt=0, le=1, description="of held-out tokens, to freeze it"
    )
    rank: int = Field(
        256, ge=0, le=4096,
        description="principal components the decoder learns to write from; 0 = off",
    )  # fmt: skip
    loop: LoopSettings = LoopSettings()
    low_rank_loop: LoopSettings = LoopSettings(batch=32, lr=1e-3)


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
    full_length: float = Field(
        0.7, gt=0, le=1, description="share of texts that keep all coordinates"
    )
    score_prefixes: bool = Field(
        False, description="held-out texts are scored by every length alike, not by all coordinates"
    )
    prefix_weight: float = Field(0.2, gt=0, le=1, description="weight of a text cut to a prefix")
    prefixes: tuple[int, ...] = Field(
        (), description="lengths that vectors are cut to; none = the powers of two"
    )
    front: float = Field(
        0.0, ge=0,
        description="first tokens that a prefix answers for, for each coordinate; 0 = all alike",
    )  # fmt: skip
    swaps: float = Field(
        0.0, ge=0, lt=1, description="share of training texts with words swapped; 0 = off"
    )
    vector_noise: float = Field(
        0.1, ge=0, description="angle by which vectors are moved, rad; 0 = off"
    )
    token_noise: float = Field(0.0, ge=0, lt=1, description="share of input tokens masked; 0 = off")
    null: float = Field(0.02, ge=0, lt=1, description="share of texts that train the null vector")
    passage_share: float = Field(
        1.0, gt=0, le=1,
        description="of a text's passages that are written in a step, over two levels: the rest "
        "is paid for by these",
    )  # fmt: skip
    array_weight: float = Field(0.5, ge=0, description="error of the restored token embeddings")
    cluster_weight: float = Field(0.0, ge=0, description="against a uniform spread of vectors")
    cluster_floor: float = Field(
        0.5, ge=0, le=1, description="smallest variance kept, of uniform's"
    )
    mixed: bool = Field(
        False, description="batches of mixed lengths; always where cluster_weight is above 0"
    )
    negative_weight: float = Field(
        0.0, ge=0, description="against the nearest confusable text of a batch"
    )
    negative_copies: bool = Field(
        True, description="a nearly real copy of each text is among these; off: other texts alone"
    )
    negative_temperature: float = Field(0.1, gt=0, description="of the negative term")
    loop: LoopSettings = LoopSettings()


class RunSettings(Settings):
    """All of it, for the whole chain."""

    base: BaseSettings = BaseSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    parallel: ParallelSettings = ParallelSettings()
    reference_seconds: float = Field(0, ge=0, description="for the reference LM; 0 = as the CLLM")
    passage: int = Field(
        0, ge=0, description="words of a passage, where these have vectors too; 0 = one level"
    )
    passage_dim: int = Field(64, ge=2, le=4096, description="coordinates of a passage's vector")
    editor: int = Field(
        0, ge=0, le=16, description="steps of an editor that rewrites restored arrays; 0 = none"
    )
    void_dim: int = Field(
        0, ge=0, description="coordinates in which voids are sought; 0 = chosen on validation"
    )
    ideas: int = Field(200, ge=1, description="decodes an arm, those of settling included")
    evaluated: int = Field(1000, ge=2, description="held-out texts scored at most")
    quick_voids: bool = Field(False, description="a quarter of the void search")
    seed: int = Field(0, ge=0, description="of everything")

    @model_validator(mode="after")
    def _fits(self) -> RunSettings:
        if self.void_dim == 1 or self.void_dim > self.model.dim:
            raise ValueError(f"void_dim is {self.void_dim}; it must be 0, or 2 to {self.model.dim}")
        for k in self.train.prefixes:
            if not 2 <= k < self.model.dim:
                raise ValueError(f"train.prefixes has {k}; each must be 2 to {self.model.dim - 1}")
        if self.passage and (self.train.token_noise or self.train.swaps):
            raise ValueError(
                "a masked token may be the end of a passage, and swapped words are not looked for "
                "in long texts: with passages, train.token_noise and train.swaps must be 0"
            )
        if self.train.passage_share < 1 and not self.passage:
            raise ValueError(
                f"train.passage_share is {self.train.passage_share:g}, and a text of one level has "
                "no passages; leave it at 1, or give --levels 2"
            )
        if self.editor and self.model.form != "mirrored":
            raise ValueError(f"an editor rewrites arrays, and a {self.model.form} model has none")
        if self.base.rank == 1:
            raise ValueError("base.rank is 1; it must be 0, or 2 and more")
        return self


def aimed(dim: int, aim: Aim) -> TrainSettings:
    """What a CLLM is trained for: to restore texts, or to leave room for those not written yet.

    `voids`: a prefix answers for how a text opens, which names its subject, so that a subject
    that no text has falls on an empty place; words are swapped, so that the decoder learns to
    write such subjects. It restores less well at the same time (docs/voids.md).
    """
    if aim == "text":
        return TrainSettings()
    return TrainSettings(
        prefixes=(min(VOID_DIM, dim // 2),), prefix_weight=1.0, full_length=0.6,
        front=0.7, swaps=0.4,
    )  # fmt: skip


def preset(
    name: Preset, *, dim: int | None = None, seed: int = 0, aim: Aim = "text"
) -> RunSettings:
    """The one dial: `quick` minutes, `standard` below three hours on two cores, `full` a day."""
    size = _SIZES[name]
    dim = 32 if dim is None else dim
    loop = LoopSettings(seed=seed)

    def for_minutes(minutes: float, **changed: float) -> LoopSettings:
        return loop.model_copy(update={"seconds": minutes * 60.0, **changed})

    return RunSettings(
        base=BaseSettings(
            width=size.width, layers=size.layers, feed_forward=2 * size.width,
            loop=for_minutes(size.denoising, lr=3e-3),
            low_rank_loop=for_minutes(size.low_rank, batch=32, lr=1e-3),
        ),
        model=ModelSettings(dim=dim, blocks=size.blocks),
        train=aimed(dim, aim).model_copy(
            update={"loop": for_minutes(size.training, batch=32, evaluations=12)}
        ),
        quick_voids=name == "quick",
        evaluated=500 if name == "quick" else 1000,
        ideas=300 if name == "quick" else 2000,
        seed=seed,
    )  # fmt: skip


class _Size(NamedTuple):
    """Minutes of the base's two stages and of the CLLM (and the reference LM); widths, depths."""

    denoising: float
    low_rank: float
    training: float
    width: int
    layers: int
    blocks: int


_SIZES: dict[Preset, _Size] = {
    "quick": _Size(1, 1, 3.5, 128, 2, 1),
    "standard": _Size(30, 25, 50, 192, 2, 1),
    "full": _Size(120, 120, 600, 256, 3, 2),
}


def overridden(
    name: str,
    *,
    dim: int | None = None,
    seed: int = 0,
    seconds: float | None = None,
    steps: int | None = None,
    base_seconds: float | None = None,
    base_steps: int | None = None,
    form: str | None = None,
    nested: str = "on",
    aim: str = "text",
    levels: int = 1,
    editor: bool = False,
    changes: Sequence[str] = (),
    adapting: bool = False,
) -> RunSettings:
    """A preset with a command's own values in place; InputError names what does not fit.

    `changes` are lines like "train.cluster_weight=0.1", for any field there is. `adapting` a hub
    model takes a learning rate that does not wipe out what it knows.
    """
    if name not in _SIZES:
        raise InputError(f"no preset {name!r}; there are {', '.join(_SIZES)}")
    if nested not in ("on", "off"):
        raise InputError(f"--nested is {nested!r}; it must be on or off")
    if aim not in get_args(Aim):
        raise InputError(f"--aim is {aim!r}; it must be text or voids")
    if aim == "voids" and (nested == "off" or (dim or 32) < LEAST_FOR_VOIDS):
        raise InputError(
            f"--aim voids needs a nested vector of {LEAST_FOR_VOIDS} coordinates or more"
        )
    own: dict[str, object] = {"train.nested": nested == "on"}
    if adapting:
        own |= {"base.loop.lr": ADAPTING_LR, "base.low_rank_loop.lr": ADAPTING_LR}
    if form:
        own["model.form"] = form
    own |= {"passage": PASSAGE, "train.swaps": 0.0} if levels == 2 else {}
    own |= {"editor": EDITS} if editor else {}
    own |= _limits("train.loop", seconds, steps)
    for stage in ("base.loop", "base.low_rank_loop"):  # half the time each
        own |= _limits(stage, base_seconds and base_seconds / 2, base_steps)
    own |= dict(map(change, changes))
    try:
        values = preset(name, dim=dim, seed=seed, aim=cast("Aim", aim)).model_dump()
        for place, value in own.items():
            _put(values, place, value)
        return RunSettings.model_validate(values)
    except ValidationError as error:
        raise InputError(first_fault(error)) from error


def first_fault(error: ValidationError) -> str:
    """The first setting that does not fit, why, and what was given."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    given = f" (given: {first['input']!r})" if place else ""
    return f"{place or 'settings'}: {first['msg']}{given}"


def describe(settings: RunSettings, *, base: bool = True) -> str:
    """What a preset came to, in one line; `base` off: the base LLM is there already."""
    b, m, t = settings.base, settings.model, settings.train
    own = (
        f"base {b.width} wide, {b.layers}+{b.layers} layers, "
        f"{_budget(b.loop)} and {_budget(b.low_rank_loop)}; "
    )
    return (
        f"{own if base else ''}"
        f"CLLM {m.form}, d = {m.dim}, {'nested' if t.nested else 'plain'}, {_budget(t.loop)}, "
        f"batch {t.loop.batch}, lr {t.loop.lr:g}; "
        f"{settings.ideas} decodes an arm; seed {settings.seed}"
    )


def _budget(loop: LoopSettings) -> str:
    return f"{loop.seconds:g} s" if loop.seconds else f"{loop.steps} steps"


def _limits(loop: str, seconds: float | None, steps: int | None) -> dict[str, object]:
    """Own limits replace the preset's: steps alone lift the time limit."""
    if steps:
        return {f"{loop}.steps": steps, f"{loop}.seconds": seconds or 0.0}
    return {f"{loop}.seconds": seconds} if seconds else {}


def change(
    line: str, option: str = "--set", like: str = "train.cluster_weight=0.1"
) -> tuple[str, object]:
    """The setting's place and value of a line like "train.cluster_weight=0.1"; InputError."""
    place, equals, value = line.partition("=")
    if not equals:
        raise InputError(f"{option} {line!r} has no '='; write it like {like}")
    try:
        return place.strip(), json.loads(value)
    except ValueError:
        return place.strip(), value.strip()  # a word


def _put(values: dict[str, Any], place: str, value: object) -> None:
    *sections, field = place.split(".")
    if field == "seed":
        raise InputError(f"--set {place}: give the seed of everything with --seed")
    inner = values
    for section in sections:
        inner = inner.get(section, {}) if isinstance(inner, dict) else {}
    if not isinstance(inner, dict) or field not in inner or isinstance(inner[field], dict):
        known = sorted(inner) if isinstance(inner, dict) and inner else sorted(values)
        raise InputError(f"no setting {place!r}; there are {', '.join(known)}")
    inner[field] = value
