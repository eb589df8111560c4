"""What a training on a cluster will need, before it is paid for: memory, hours, storage, cost.

    cllm plan --base google/flan-t5-xl --dim 64 --texts 1e8 --gpus 64 --gpu h100

Sizes, FLOPs and activations are counted on the real modules, without their memory (torch's meta
device); time is FLOPs over the GPU's peak and an efficiency; prices are those of gpus.yaml.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cllm.base import BaseLM
from cllm.console import one_line_errors, set_up_logging, show_facts
from cllm.errors import InputError
from cllm.model import CLLM
from cllm.settings import ModelSettings

GPUS = Path(__file__).with_name("gpus.yaml")
GPU_FACTS = {
    "memory_gib", "bf16_tflops", "link_gb_s", "network_gb_s", "dollars_per_hour", "efficiency",
    "measured",
}  # fmt: skip
GIB = 2**30
BF16, FP32 = 2, 4
ROW_BYTES = 60  # of an id, a split and Parquet's overhead, beside vector and text
NODE_GPUS = 8  # that a fast link joins
VOID_DIM, VOID_QUERIES = 8, 33_000  # of one search; few more with more texts (docs/scaling.md)
SEARCHES = 58  # the cloud and 19 null clouds of three kinds
CORE_DISTANCES = 3e8  # a second, of so many coordinates, of a core (the same)
TEXT_BYTES, TOKEN_BYTES = 260, 13  # in a training worker: Python's objects; characters and an id
KEY_BYTES = 16  # of a text in an embedding's driver: 8, and as many to sort them
SPARE_GIB = 4  # CUDA context, fragmentation, buckets

# Published shapes, so that no download is needed: width, layers of encoder and decoder, feed
# forward, heads, width of a head, vocabulary, gated. From the models' config.json on the hub.
T5_SHAPES: Mapping[str, tuple[int, int, int, int, int, int, bool]] = {
    "google-t5/t5-small": (512, 6, 2048, 8, 64, 32128, False),
    "google-t5/t5-base": (768, 12, 3072, 12, 64, 32128, False),
    "google-t5/t5-large": (1024, 24, 4096, 16, 64, 32128, False),
    "google/flan-t5-small": (512, 8, 1024, 6, 64, 32128, True),
    "google/flan-t5-base": (768, 12, 2048, 12, 64, 32128, True),
    "google/flan-t5-large": (1024, 24, 2816, 16, 64, 32128, True),
    "google/flan-t5-xl": (2048, 24, 5120, 32, 64, 32128, True),
    "google/flan-t5-xxl": (4096, 24, 10240, 64, 64, 32128, True),
}


@dataclass(frozen=True)
class Job:
    """What is to be trained, on how much."""

    base: str
    texts: float
    gpus: int
    gpu: str
    tokens: int = 128  # of a text, and of the context
    epochs: float = 3
    batch: int = 64  # texts a GPU and step
    shape: ModelSettings = field(default_factory=ModelSettings)
    checkpointing: bool = False
    prices: Path = GPUS


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what a job comes to, as tables or one JSON object."""
    o = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        job = Job(
            o.base, o.texts, o.gpus, o.gpu, o.tokens, o.epochs, o.batch,
            ModelSettings(dim=o.dim, form=o.form, blocks=o.blocks), o.checkpointing, o.prices,
        )  # fmt: skip
        told = plan(job)
    if o.json:
        print(json.dumps(told))
        return
    for section, facts in told.items():
        if isinstance(facts, dict):
            print(f"\n{section.replace('_', ' ')}")
            show_facts(_flat(facts))
        else:
            show_facts({section: facts})


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(prog="cllm plan", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--base", required=True, help=f"{', '.join(T5_SHAPES)}, or a model's folder")
    p.add_argument("--texts", type=float, required=True, help="such as 1e8")
    p.add_argument("--gpus", type=int, required=True)
    p.add_argument("--gpu", default="h100", help="a name in the price table")
    p.add_argument("--dim", type=int, default=32, help="coordinates of the vector")
    p.add_argument("--form", choices=("mirrored", "pooled", "direct"), default="mirrored")
    p.add_argument("--blocks", type=int, default=1, help="transformer blocks in a collapse layer")
    p.add_argument("--tokens", type=int, default=128, help="of a text")
    p.add_argument("--epochs", type=float, default=3)
    p.add_argument("--batch", type=int, default=64, help="texts a GPU and step")
    p.add_argument("--checkpointing", action="store_true", help="activations are recomputed")
    p.add_argument("--prices", type=Path, default=GPUS, help="table of GPUs, to be edited")
    p.add_argument("--json", action="store_true", help="one JSON object")
    return p


def _flat(facts: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in facts.items():
        found |= _flat(value, f"{name}: ") if isinstance(value, dict) else {above + name: value}
    return found


def plan(job: Job) -> dict[str, Any]:
    """Sizes (bytes, FLOPs), memory by ZeRO stage, time and cost, as one nested dict."""
    gpu, storage = _gpu(job)
    if job.texts < 1 or job.gpus < 1 or job.tokens < 4 or job.epochs <= 0 or job.batch < 1:
        raise InputError(
            "--texts, --gpus, --epochs and --batch must be positive, --tokens 4 or more"
        )
    model = skeleton(job)
    counted = count(model, job.tokens, checkpointing=job.checkpointing)
    frozen, trained = model.base.parameters, model.parameters_count
    step_flops, embed_flops = counted["step_flops"], counted["embed_flops"]
    rate = gpu["bf16_tflops"] * 1e12 * gpu["efficiency"]
    share = communication_share(job, trained, job.batch * step_flops / rate, gpu)
    train_hours = job.texts * job.epochs * step_flops / (rate * job.gpus) / 3600 / (1 - share)
    embed_hours = job.texts * embed_flops / (rate * job.gpus) / 3600
    cost = (train_hours + embed_hours) * job.gpus * gpu["dollars_per_hour"]
    matrices = job.texts * job.tokens * model.base.width * BF16
    vectors = job.texts * (FP32 * job.shape.dim + ROW_BYTES)
    return {
        "parameters": {"base_frozen": frozen, "cllm_trained": trained},
        "flops_a_text": {"training": step_flops, "embedding": embed_flops},
        "memory_gib_a_gpu": memory(job, frozen, trained, counted, gpu["memory_gib"]),
        "host_memory_gib": {  # every training worker holds the whole corpus
            "training_worker": job.texts * (TEXT_BYTES + TOKEN_BYTES * job.tokens) / GIB,
            "embedding_driver": job.texts * KEY_BYTES / GIB,
        },
        "tokens_a_second": rate * job.gpus / step_flops * job.tokens * (1 - share),
        "communication_share": share,
        "steps": job.texts * job.epochs / (job.batch * job.gpus),
        "hours": {"training": train_hours, "embedding": embed_hours},
        "cost_dollars": cost,
        "storage_gb": {
            "token_matrices": matrices / 1e9,
            "token_matrices_dollars_a_month": matrices / 1e9 * storage["dollars_per_gb_month"],
            "encoding_again_share": counted["encoder_flops"] / step_flops,
            "vectors_parquet": vectors / 1e9,
            "milvus": job.texts * (FP32 * job.shape.dim + ROW_BYTES) * 1.2 / 1e9,
        },
        "voids": void_search(job),
        "assumed": {"efficiency": gpu["efficiency"], "measured": gpu["measured"]},
    }


def memory(
    job: Job, frozen: int, trained: int, counted: Mapping[str, int], there: float
) -> dict[str, Any]:
    """GiB a GPU by ZeRO stage: the frozen base, states of what is trained, activations.

    Weights are in float32, the base's too; only products are in bfloat16.
    """
    base, live = frozen * FP32 / GIB, counted["activation_bytes"] / GIB
    found: dict[str, Any] = {"base": base, "activations_a_text": live, "there": there}
    for stage in range(4):
        states = states_bytes(trained, counted["largest_layer"], job.gpus, stage) / GIB
        fit = min(job.batch, max(0, int((there - SPARE_GIB - base - states) / live)))
        found[f"zero_{stage}"] = {
            "states": states,
            "texts_at_a_time": fit,
            "pieces_of_a_batch": -(-job.batch // fit) if fit else None,
            "whole": base + states + live * fit,
        }
    return found


def communication_share(
    job: Job, trained: int, compute_seconds: float, gpu: Mapping[str, Any]
) -> float:
    """Of a training step's seconds, those that gradients and weights travel; none are hidden.

    ZeRO 0 to 2 send each worker's gradients once and its weights once (Rajbhandari et al. 2020,
    section 7), in float32, over the slowest link between workers.
    """
    speed = gpu["link_gb_s"] if job.gpus <= NODE_GPUS else gpu["network_gb_s"]
    sent = 2 * FP32 * trained * (job.gpus - 1) / job.gpus
    seconds = sent / (speed * 1e9)
    return float(seconds / (seconds + compute_seconds))


def void_search(job: Job) -> dict[str, float]:
    """What a search for voids over shards needs, with its null clouds."""
    cloud = job.texts * FP32 * min(job.shape.dim, VOID_DIM) / GIB
    return {
        "core_hours": SEARCHES * VOID_QUERIES * job.texts / CORE_DISTANCES / 3600,
        "shards_gib": cloud,
        "finder_gib": cloud,  # it keeps the coordinates (`cluster.voids.ShardedIndex`)
    }


def states_bytes(trained: int, largest_layer: int, gpus: int, stage: int) -> float:
    """Weights, gradients and Adam's states of a GPU in float32, bytes (Rajbhandari et al. 2020).

    Stages 2 and 3 by DeepSpeed's own estimators, whose weights and gradients have 16 bits each:
    what they lack to 32 is added.
    """
    if stage == 0:
        return 16.0 * trained
    if stage == 1:
        return 8.0 * trained + 12.0 * trained / gpus
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # only its sums are wanted
    try:
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
    except ImportError:  # the same sums, where it is not installed
        shared = 18.0 * trained / gpus
        return shared + (4.0 * trained if stage == 2 else 8.0 * largest_layer)
    if stage == 2:
        _, bytes_ = estimate_zero2_model_states_mem_needs(
            trained, num_gpus_per_node=gpus, num_nodes=1, cpu_offload=False,
            additional_buffer_factor=1,
        )  # fmt: skip
        return float(bytes_) + 2.0 * trained
    _, bytes_, _ = estimate_zero3_model_states_mem_needs(
        trained, largest_layer, num_gpus_per_node=gpus, num_nodes=1, cpu_offload=False,
        cpu_offload_params=False, zero_init=True, additional_buffer_factor=1,
    )  # fmt: skip
    return float(bytes_) + 4.0 * largest_layer


# ---- counting --------------------------------------------------------------------------


def skeleton(job: Job) -> CLLM:
    """Base and CLLM without memory. InputError: nobody knows the base's shape."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5Config

    if job.base in T5_SHAPES:
        width, layers, inner, heads, each, vocabulary, gated = T5_SHAPES[job.base]
        config: Any = T5Config(
            d_model=width, num_layers=layers, num_decoder_layers=layers, d_ff=inner,
            num_heads=heads, d_kv=each, vocab_size=vocabulary, decoder_start_token_id=0,
            feed_forward_proj="gated-gelu" if gated else "relu",
        )  # fmt: skip
    else:
        try:
            config = AutoConfig.from_pretrained(job.base)
        except (OSError, ValueError) as error:
            raise InputError(
                f"the shape of {job.base!r} is unknown ({str(error).splitlines()[0]}); give a "
                f"folder with its config.json, or one of {', '.join(T5_SHAPES)}"
            ) from error
    with torch.device("meta"):
        # other kinds of attention look at a mask's values, and here are none
        bare = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager")
        base = BaseLM(bare, None, job.base)
        base.__dict__["hash"] = "none: it has no weights"
        model = CLLM.from_base(base, context=job.tokens, **job.shape.model_dump())
    return model


def count(model: CLLM, tokens: int, *, checkpointing: bool = False) -> dict[str, int]:
    """FLOPs and bytes of one text of so many tokens, counted while a step runs on nothing."""
    if checkpointing:
        model.recompute()
    with torch.device("meta"):
        ids_BT = torch.zeros(1, tokens, dtype=torch.long)
        mask_BT = torch.ones(1, tokens, dtype=torch.bool)
    encoder, embedding, step = (FlopCounterMode(display=False) for _ in range(3))

    def embed() -> Tensor:  # without a mask, whose values it would ask for
        return cast(Tensor, model.base.encoder(input_ids=ids_BT).last_hidden_state)

    with encoder, torch.no_grad():
        embed()
    with embedding, torch.no_grad():
        model.encode_array(embed(), mask_BT)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        whole = x if x._base is None else x._base  # a view keeps what it is a view of
        if not isinstance(whole, nn.Parameter):
            kept[id(whole)] = whole.numel() * BF16
        return x

    with step:
        with torch.no_grad():
            array_BTH = embed()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            vectors_BD = model.encode_array(array_BTH, mask_BT)
            memory_BMH = model.decode_array(vectors_BD)
            loss = model.base.cross_entropy(memory_BMH, ids_BT, mask_BT).sum()
        loss.backward()
    return {
        "encoder_flops": encoder.get_total_flops(),
        "embed_flops": embedding.get_total_flops(),
        "step_flops": step.get_total_flops(),
        "activation_bytes": sum(kept.values()),
        "largest_layer": max(
            sum(p.numel() for p in layer.parameters(recurse=False)) for layer in model.modules()
        ),
    }


def _gpu(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        table = yaml.safe_load(job.prices.read_text("utf-8"))
        gpu, storage = table[job.gpu], table["storage"]
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{job.prices} cannot be read ({error})") from error
    except KeyError as error:
        known = ", ".join(name for name in table if name != "storage")
        raise InputError(
            f"no GPU {job.gpu!r} in {job.prices}; there are {known}; add yours to that file"
        ) from error
    if missing := GPU_FACTS - gpu.keys():
        raise InputError(f"{job.gpu!r} in {job.prices} has no {', '.join(sorted(missing))}")
    return gpu, storage
