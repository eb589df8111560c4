"""Training on a GPU: tokens a second, share of the measured matmul peak, memory by batch size.

A part of `bench.cluster`; needs torch and transformers, and DeepSpeed for the ZeRO rows.
    torchrun --nproc-per-node 1 -m bench.cluster -- --json --part gpu
"""

# Shapes: B texts, T tokens.
from __future__ import annotations

import gc
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench._context import matmul_rate, say
from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.engines import make_engine
from cllm.losses import Restoring
from cllm.model import CLLM
from cllm.settings import LoopSettings, ParallelSettings, TrainSettings
from cllm.training import train_step
from cllm.workers import Workers

T5_LARGE = {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16}
TOKENS, DIM = 128, 64
BATCHES = (16, 32, 64, 128)
STAGES = (None, 0, 2, 3)
MATMUL = 8192


def measure(steps: int, folder: Path) -> dict[str, Any]:
    """Rows by ZeRO stage and batch; {} with a reason where there is no GPU."""
    del folder
    if not torch.cuda.is_available():
        return {"rows": [], "reason": "no GPU on this machine"}
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "nccl", init_method="tcp://127.0.0.1:29511", rank=0, world_size=1
        )
    peak = matmul_rate(MATMUL, "cuda", torch.bfloat16)
    say(f"matmul peak {peak / 1e12:.0f} TFLOPS")
    rows = []
    for stage in STAGES:
        for batch in BATCHES:
            try:
                row = one(stage, batch, steps)
            except torch.cuda.OutOfMemoryError:
                rows.append({"zero": stage, "batch": batch, "out_of_memory": True})
                torch.cuda.empty_cache()
                break
            row["of_matmul_peak"] = row["flops_a_second"] / peak
            say(str(row))
            rows.append(row)
    return {"gpu": torch.cuda.get_device_name(), "matmul_tflops": peak / 1e12, "rows": rows}


def one(stage: int | None, batch: int, steps: int) -> dict[str, Any]:
    """One stage and batch: tokens and FLOPs a second, GiB at most."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    task, texts = subject(batch)
    loop = LoopSettings(batch=batch)
    engine = make_engine(task.module, loop, ParallelSettings(zero=stage), Workers.here())
    taken, flops, tokens = [], 0, 0
    for step, pieces in zip(range(steps + 5), texts.batches(batch, 0), strict=False):
        if step == 1:
            with FlopCounterMode(display=False) as counter:
                train_step(task, pieces, step, engine, 1e-4)
            flops = counter.get_total_flops()
            continue
        torch.cuda.synchronize()
        begun = time.perf_counter()
        train_step(task, pieces, step, engine, 1e-4)
        torch.cuda.synchronize()
        taken += [time.perf_counter() - begun] if step >= 5 else []
        tokens = pieces[0].whole.tokens
    seconds = float(np.median(taken))
    peak = torch.cuda.max_memory_allocated() / 2**30
    engine.release(engine.weights())  # or its buffers count in the next row
    return {
        "zero": stage, "batch": batch, "tokens_a_second": tokens / seconds,
        "flops_a_second": flops / seconds, "peak_gib": peak,
    }  # fmt: skip


def subject(batch: int) -> tuple[Restoring, TokenTexts]:
    """An untrained CLLM over a random T5-large, and random texts of full length."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        **T5_LARGE, vocab_size=32128, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1
    )
    with torch.device("cuda"):
        t5 = T5ForConditionalGeneration(config)
    base = BaseLM(t5, _NoTokenizer(), "random T5-large")
    base.__dict__["hash"] = "random"
    model = CLLM.from_base(base, context=TOKENS, dim=DIM)
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, 32000, TOKENS) for _ in range(4 * batch)]
    texts = TokenTexts.of([f"t{i}" for i in range(4 * batch)], rows, 0, TOKENS)
    held_out = replace(texts, names=texts.names[:2], rows=texts.rows[:2])
    return Restoring(model, TrainSettings(array_weight=0.5), held_out), texts


class _NoTokenizer:
    """Random token ids need none; a CLLM asks for the mask only."""

    mask_token_id = 2
