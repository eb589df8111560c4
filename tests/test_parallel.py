"""One training, however it is split: pieces, workers, ZeRO stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor

from cllm import engines, pipeline
from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.corpus import built_in_corpus
from cllm.engines import Torch, make_engine
from cllm.errors import InputError
from cllm.losses import Restoring
from cllm.model import CLLM
from cllm.run import SHIPPED, RunFolder
from cllm.settings import LoopSettings, ParallelSettings, TrainSettings
from cllm.training import Spread, fit, train_step
from cllm.workers import ALONE, Workers

# every term, and noise of every kind
ALL_TERMS: dict[str, Any] = {
    "full_length": 0.5, "vector_noise": 0.1, "token_noise": 0.2, "null": 0.1, "front": 0.7,
    "array_weight": 0.5, "cluster_weight": 0.3, "negative_weight": 0.2,
}  # fmt: skip
STEPS = 6


def settings(steps: int = STEPS, **changes: Any) -> TrainSettings:
    loop = LoopSettings(steps=steps, batch=16, report_every=1, evaluations=2, lr=1e-3, **changes)
    return TrainSettings(**ALL_TERMS, loop=loop)


def trained(
    model: CLLM, texts: TokenTexts, folder: Path, spread: Spread, how: TrainSettings
) -> dict[str, Tensor]:
    """Final weights, after writing metrics.jsonl."""
    task = Restoring(model, how, texts, spread.workers)
    fit(task, texts, how.loop, folder, spread=spread)
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def curve(folder: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([line["loss"] for line in lines if "loss" in line])


# ---- pieces, in one process ----------------------------------------------------------


@pytest.mark.parametrize("pieces", [2, 3])
def test_a_batch_in_pieces_gives_the_same_losses_and_gradients(
    new_cllm: Callable[..., CLLM], texts: TokenTexts, pieces: int
) -> None:
    model = new_cllm()
    edits = TokenTexts(texts.names[1:], texts.rows[:-1], texts.pad, 0)
    task = Restoring(model, settings(), texts, edits=edits)
    chosen = np.arange(14)
    found, gradients = [], []
    for count in (1, pieces):
        engine = Torch(model, settings().loop)
        kept: list[Tensor] = []
        engine.optimizer.register_step_pre_hook(
            lambda *_, kept=kept: kept.extend(w.grad.clone() for w in model.parameters())
        )
        before = {name: value.clone() for name, value in model.state_dict().items()}
        parts = train_step(task, texts.parts(chosen, ALONE, count), 3, engine, lr=1e-3)
        model.load_state_dict(before)
        found.append({name: float(value) for name, value in parts.items()})
        gradients.append(kept)
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert {"array", "cluster", "negative"} <= found[0].keys()
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_activations_worked_out_twice_give_the_same_gradients(
    new_cllm: Callable[..., CLLM], texts: TokenTexts
) -> None:
    model = new_cllm()
    task = Restoring(model, settings(), texts)
    (batch,) = texts.parts(np.arange(8), ALONE)
    vectors = model.encode_tokens(texts)[:2]
    written = model.decode_tokens(vectors)
    gradients, kept = [], []
    for again in (False, True):
        if again:
            model.recompute()
        held: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, held=held: (held.append(x.numel()), x)[1], lambda x: x
        ):
            loss = task.losses(batch, 0)["loss"]
        kept.append(sum(held))
        loss.backward()
        gradients.append([w.grad.clone() for w in model.parameters()])
        model.zero_grad()
    model.base.recomputing = False  # the base is shared with other tests
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert kept[1] < 0.7 * kept[0]
    assert model.decode_tokens(vectors) == written


def test_zero_without_a_process_group_is_refused(new_cllm: Callable[..., CLLM]) -> None:
    with pytest.raises(InputError, match=r"parallel\.zero needs a process group"):
        make_engine(new_cllm(), settings().loop, ParallelSettings(zero=2), ALONE)


# ---- workers, in processes -----------------------------------------------------------


def _work(
    rank: int, count: int, folder: Path, base: Path, steps: int, how: dict[str, Any],
    halved: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """One worker of a training; the first writes the weights it ends with, and the model."""
    from torch import distributed as dist

    torch.set_num_threads(1)
    engines.HALVED = halved
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(count)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count
    )
    model, texts = started(base)
    spread = Spread(ParallelSettings(**how), Workers.here())
    weights = trained(model, texts, folder, spread, settings(steps))
    if rank == 0:
        torch.save(weights, folder / "weights")
        model.save_pretrained(folder / "model")
        np.save(folder / "vectors.npy", model.encode_tokens(texts))
    dist.destroy_process_group()


def started(base: Path) -> tuple[CLLM, TokenTexts]:
    """The same model and texts in every process."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = CLLM.from_base(BaseLM.load(base), context=24, dim=8)
    rows = [[*rng.integers(5, 60, rng.integers(4, 20)), 1] for _ in range(64)]
    texts = TokenTexts.of([f"t{i}" for i in range(64)], rows, model.base.pad, 24)
    begun = base / "begun.safetensors"  # a start is no function of the texts alone, to the last bit
    if not begun.exists():
        model.start(texts)
        save_file(model.state_dict(), begun)
    model.load_state_dict(load_file(begun))
    return model, texts


@pytest.fixture(scope="module")
def base_folder(tiny_base: BaseLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_base.save(folder)
    return folder


@pytest.fixture(scope="module")
def alone(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, np.ndarray]:
    """The same training in one process, without DeepSpeed."""
    folder = tmp_path_factory.mktemp("alone")
    model, texts = started(base_folder)
    weights = trained(model, texts, folder, Spread(), settings())
    return weights, curve(folder)


@pytest.mark.chain
@pytest.mark.parametrize(
    ("count", "how"),
    [
        (2, {"zero": 0}), (2, {"zero": 1}), (2, {"zero": 2}), (2, {"zero": 3}),
        (2, {"zero": 2, "pieces": 2}), (2, {"zero": 2, "offload": True}), (3, {"zero": 2}),
        (4, {"zero": 2}),
    ],
)  # fmt: skip
def test_workers_train_as_one_process_does(
    alone: tuple[Any, np.ndarray], base_folder: Path, tmp_path: Path,
    count: int, how: dict[str, Any],
) -> None:  # fmt: skip
    mp.spawn(_work, (count, tmp_path, base_folder, STEPS, how), nprocs=count)
    weights, losses = alone
    np.testing.assert_allclose(curve(tmp_path), losses, rtol=1e-3)
    found = torch.load(tmp_path / "weights", weights_only=True)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-4, msg=name)
    assert len(losses) == STEPS
    reloaded, texts = (
        CLLM.load(tmp_path / "model", BaseLM.load(base_folder)),
        started(base_folder)[1],
    )
    np.testing.assert_array_equal(reloaded.encode_tokens(texts), np.load(tmp_path / "vectors.npy"))


@pytest.mark.chain
@pytest.mark.parametrize("zero", [0, 3])
def test_products_in_bfloat16_as_on_a_gpu(
    alone: tuple[Any, np.ndarray], base_folder: Path, tmp_path: Path, zero: int
) -> None:
    mp.spawn(_work, (2, tmp_path, base_folder, STEPS, {"zero": zero}, ("cpu",)), nprocs=2)
    found, losses = curve(tmp_path), alone[1]
    np.testing.assert_allclose(found, losses, rtol=0.02)
    assert not np.array_equal(found, losses)


@pytest.mark.slow
def test_two_hundred_steps_of_two_workers_follow_those_of_one_process(
    base_folder: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    trained(*started(base_folder), one, Spread(), settings(200))
    mp.spawn(_work, (2, two, base_folder, 200, {"zero": 2}), nprocs=2)
    assert len(curve(one)) == 200
    np.testing.assert_allclose(curve(two), curve(one), rtol=1e-3)


@pytest.mark.slow
def test_torchs_own_launcher_trains_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    pipeline.keep_corpus(run, built_in_corpus("plain", 1000, 0))
    pipeline.borrow_base(run, SHIPPED / "base")
    words = [
        str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2",
        "-m", "cllm.train_distributed", "--", "--run", str(run.path), "--preset", "quick",
        "--steps", "3", "--set", "model.form=direct", "--set", "parallel.zero=2",
    ]  # fmt: skip
    ended = subprocess.run(
        words, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert run.load_model().config.dim == 32
