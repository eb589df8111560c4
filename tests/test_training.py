"""The training loop: budgets, best weights, stopping, continuing, failing."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cllm import checkpoints
from cllm.batches import Batch, TokenTexts
from cllm.engines import Torch, make_optimizer, trained_weights
from cllm.errors import InputError, WorkError
from cllm.files import file_digest
from cllm.settings import LoopSettings
from cllm.training import Fit, Spread, fit, train_step

VOCABULARY = 20


class Counting:
    """A small task with dropout, so that torch's random state matters too."""

    identity = "counting"
    enough = mixed = False

    def __init__(self, scores: list[float] | None = None) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Sequential(
            nn.Embedding(VOCABULARY, 8), nn.Dropout(0.3), nn.Linear(8, VOCABULARY)
        )
        self.scores = scores
        self.steps: list[int] = []
        self.scored = 0

    def prepare(self, pieces: Sequence[Batch], step: int) -> None: ...

    def losses(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        self.steps.append(step)
        logits = self.module(batch.ids_BT[:, :-1])
        nats = nn.functional.cross_entropy(logits.flatten(0, 1), batch.ids_BT[:, 1:].flatten())
        return {"loss": nats, "cross_entropy": nats * 3}

    def score(self) -> float:
        assert not self.module.training
        self.scored += 1
        return self.scores[self.scored - 1] if self.scores else float(self.scored)


class Raising(Counting):
    """Raises a signal, or makes its loss non-finite, at one step."""

    def __init__(self, at: int, number: int | None = None) -> None:
        super().__init__()
        self.at, self.number = at, number

    def losses(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        parts = dict(super().losses(batch, step))
        if step == self.at and self.number:
            signal.raise_signal(self.number)
        elif step == self.at:
            parts["loss"] = parts["loss"] * float("nan")
        return parts


@pytest.fixture(scope="module")
def texts() -> TokenTexts:
    rng = np.random.default_rng(0)
    rows = [[*rng.integers(2, VOCABULARY, rng.integers(3, 9)), 1] for _ in range(50)]
    return TokenTexts.of([f"text{i}" for i in range(50)], rows, 0, 20)


def loop(**changes: Any) -> LoopSettings:
    return LoopSettings(
        **({"steps": 12, "batch": 8, "report_every": 2, "evaluations": 3} | changes)
    )


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(task: Counting) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in trained_weights(task.module).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


# ---- to the end ----------------------------------------------------------------------


def test_training_ends_at_its_steps_and_says_how(texts: TokenTexts, tmp_path: Path) -> None:
    task = Counting()
    ended = fit(task, texts, loop(), tmp_path)
    assert task.steps == list(range(12))
    assert ended == Fit(12, ended.seconds, 3.0, 12, ended.checkpoint)
    assert ended.seconds > 0
    assert list((tmp_path / "checkpoint").glob("step-*/best"))  # until the caller has saved
    ended.checkpoint.remove()
    assert not (tmp_path / "checkpoint").exists()


def test_training_lowers_the_loss(texts: TokenTexts, tmp_path: Path) -> None:
    fit(Counting(), texts, loop(steps=60, lr=0.03), tmp_path)
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert losses[-1] < losses[0] - 0.1


def test_a_budget_of_seconds_ends_it(texts: TokenTexts, tmp_path: Path) -> None:
    ended = fit(Counting(), texts, loop(steps=10**6, seconds=0.3, report_every=1000), tmp_path)
    assert ended.steps < 10**6
    assert ended.seconds >= 0.3
    assert ended.best_step == ended.steps  # scored at the end too


def test_scoring_is_not_counted_as_training_time(texts: TokenTexts, tmp_path: Path) -> None:
    begun, scoring = time.perf_counter(), 0.0

    class Slow(Counting):
        def score(self) -> float:
            nonlocal scoring
            torch.randn(10)  # scoring may draw numbers
            before = time.perf_counter()
            time.sleep(0.2)
            scoring += time.perf_counter() - before
            return super().score()

    ended = fit(Slow(), texts, loop(evaluations=3), tmp_path)
    assert scoring >= 0.6
    assert ended.seconds <= time.perf_counter() - begun - scoring


@pytest.mark.parametrize("scores", [[5.0, 9.0, 1.0], [9.0, 9.0, 9.0], [1.0, 2.0, 3.0]])
def test_the_best_weights_by_score_are_left(
    texts: TokenTexts, tmp_path: Path, scores: list[float]
) -> None:
    task = Counting(scores)
    seen: list[dict[str, Tensor]] = []
    plain = task.score
    task.score = lambda: (seen.append(weights(task)), plain())[1]
    ended = fit(task, texts, loop(), tmp_path)
    best = int(np.argmax(scores))
    assert ended.best_score == scores[best]
    assert ended.best_step == [4, 8, 12][best]
    assert same(weights(task), seen[best])
    assert not any(same(seen[best], other) for i, other in enumerate(seen) if i != best)


# ---- what is written down ------------------------------------------------------------


def test_metrics_hold_the_agreed_fields(texts: TokenTexts, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    fit(Counting([0.5, 0.7, 0.6]), texts, loop(), tmp_path, heard.append)
    written = lines(tmp_path)
    assert written == heard
    reports = [line for line in written if "loss" in line]
    assert [line["step"] for line in reports] == [2, 4, 6, 8, 10, 12]
    for line in reports:
        assert {"step", "epoch", "loss", "cross_entropy", "tokens_per_second", "seconds", "lr"} <= (
            set(line)
        )
        assert line["epoch"] == pytest.approx(line["step"] / texts.steps_per_epoch(8))
        assert line["cross_entropy"] == pytest.approx(3 * line["loss"])
        assert line["tokens_per_second"] > 0
    scored = {
        line["step"]: -line["validation_nats"] for line in written if "validation_nats" in line
    }
    assert scored == {4: 0.5, 8: 0.7, 12: 0.6}
    assert [line["seconds"] for line in written] == sorted(line["seconds"] for line in written)


def test_tensorboard_files_hold_the_same(texts: TokenTexts, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(Counting(), texts, loop(), tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in board.Scalars("loss")]
    written = [(line["step"], line["loss"]) for line in lines(tmp_path) if "loss" in line]
    assert [step for step, _ in shown] == [step for step, _ in written]
    np.testing.assert_allclose([v for _, v in shown], [v for _, v in written], rtol=1e-6)


def test_a_finished_training_is_kept_until_its_checkpoint_is_removed(
    texts: TokenTexts, tmp_path: Path
) -> None:
    """So that a chain killed between two trainings goes on after the first."""
    first = fit(Counting(), texts, loop(), tmp_path)
    task = Counting()
    again = fit(task, texts, loop(), tmp_path)
    assert (again.steps, again.best_step) == (first.steps, first.best_step)
    assert task.steps == []


def test_a_fresh_run_starts_the_logs_anew(texts: TokenTexts, tmp_path: Path) -> None:
    fit(Counting(), texts, loop(), tmp_path).checkpoint.remove()
    fit(Counting(), texts, loop(steps=4), tmp_path)
    assert max(line["step"] for line in lines(tmp_path)) == 4
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


# ---- stopping and going on -----------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_exactly(
    texts: TokenTexts, tmp_path: Path, number: signal.Signals
) -> None:
    straight = Counting()
    fit(straight, texts, loop(), tmp_path / "straight")

    before = signal.getsignal(number)
    with pytest.raises(WorkError, match=r"interrupted at step 6; .*checkpoint") as caught:
        fit(Raising(5, number), texts, loop(), tmp_path / "halves")
    assert str(tmp_path / "halves") in str(caught.value)
    assert signal.getsignal(number) == before

    rest = Counting()
    torch.manual_seed(99)  # whatever the new process did before
    ended = fit(rest, texts, loop(), tmp_path / "halves")
    assert rest.steps == list(range(6, 12))
    assert ended.steps == 12
    assert same(weights(rest), weights(straight))
    for ours, theirs in zip(lines(tmp_path / "halves"), lines(tmp_path / "straight"), strict=True):
        assert ours["step"] == theirs["step"]
        assert ours.get("loss") == pytest.approx(theirs.get("loss"), abs=1e-6)
        assert ours.get("lr") == pytest.approx(theirs.get("lr"))


def test_scores_before_the_stop_are_remembered(texts: TokenTexts, tmp_path: Path) -> None:
    first = Raising(5, signal.SIGTERM)
    first.scores = [9.0]
    seen: list[dict[str, Tensor]] = []
    plain = first.score
    first.score = lambda: (seen.append(weights(first)), plain())[1]
    with pytest.raises(WorkError):
        fit(first, texts, loop(), tmp_path)
    rest = Counting([1.0, 2.0])
    ended = fit(rest, texts, loop(), tmp_path)
    assert (ended.best_score, ended.best_step) == (9.0, 4)
    assert same(weights(rest), seen[0])


def test_lines_of_a_killed_run_are_not_written_twice(texts: TokenTexts, tmp_path: Path) -> None:
    """A kill leaves a checkpoint older than the last lines, and half a line."""
    with pytest.raises(WorkError):
        fit(Raising(5, signal.SIGTERM), texts, loop(), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    fit(Counting(), texts, loop(), tmp_path)
    steps = [line["step"] for line in lines(tmp_path) if "loss" in line]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_checkpoints_are_written_by_the_clock(texts: TokenTexts, tmp_path: Path) -> None:
    class Dying(Counting):
        def losses(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
            if step == 7:
                raise MemoryError  # as if the process had died
            return super().losses(batch, step)

    with pytest.raises(MemoryError):
        fit(Dying(), texts, loop(checkpoint_seconds=1e-9), tmp_path)
    rest = Counting()
    fit(rest, texts, loop(checkpoint_seconds=1e-9), tmp_path)
    assert rest.steps == list(range(7, 12))


def test_a_notice_that_the_machine_goes_leads_to_one_checkpoint(
    texts: TokenTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(
        checkpoints.Checkpoints, "save", lambda _self, _e, _m, progress: saved.append(progress.step)
    )
    task = Counting()
    spread = Spread(preempted=lambda: len(task.steps) >= 7)
    settings = loop(steps=20, report_every=5, checkpoint_seconds=1e6)
    fit(task, texts, settings, tmp_path, spread=spread)
    assert saved == [10, 20]  # at the report after the notice, and at the end


@pytest.mark.parametrize("change", ["settings", "texts", "task"])
def test_another_run_neither_goes_on_from_it_nor_destroys_it(
    texts: TokenTexts, tmp_path: Path, change: str
) -> None:
    with pytest.raises(WorkError):
        fit(Raising(5, signal.SIGTERM), texts, loop(), tmp_path)
    other = TokenTexts(texts.names[1:], texts.rows[1:], texts.pad, 0)
    task = Counting()
    task.identity = "another" if change == "task" else task.identity
    with pytest.raises(InputError, match="unfinished training"):
        fit(
            task,
            other if change == "texts" else texts,
            loop(lr=1e-4) if change == "settings" else loop(),
            tmp_path,
        )
    rest = Counting()
    fit(rest, texts, loop(), tmp_path)
    assert rest.steps == list(range(6, 12))


def test_without_resume_it_starts_anew(texts: TokenTexts, tmp_path: Path) -> None:
    with pytest.raises(WorkError):
        fit(Raising(5, signal.SIGTERM), texts, loop(), tmp_path)
    task = Counting()
    fit(task, texts, loop(), tmp_path, resume=False)
    assert task.steps == list(range(12))
    assert min(line["step"] for line in lines(tmp_path)) == 2


def test_off_the_main_thread_it_trains_without_signals(texts: TokenTexts, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(fit, Counting(), texts, loop(), tmp_path).result().steps == 12


# ---- what goes wrong -----------------------------------------------------------------


def test_a_non_finite_loss_names_step_and_texts(texts: TokenTexts, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="loss is nan at step 4") as caught:
        fit(Raising(4), texts, loop(), tmp_path)
    (batch,) = list(zip(range(5), texts.batches(8, seed=0), strict=False))[-1][1]
    for name in batch.names:
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def stopped(texts: TokenTexts, tmp_path: Path) -> Path:
    with pytest.raises(WorkError):
        fit(Raising(5, signal.SIGTERM), texts, loop(), tmp_path)
    return tmp_path


def newest(folder: Path) -> Path:
    return sorted((folder / "checkpoint").glob("step-*"))[-1]


def test_a_checkpoint_of_more_workers_is_said_to_be_that(texts: TokenTexts, stopped: Path) -> None:
    note = newest(stopped) / "progress.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"workers": 2}))
    listed = note.with_name("files-0.json")
    digests = json.loads(listed.read_text()) | {"progress.json": file_digest(note)}
    listed.write_text(json.dumps(digests))
    with pytest.raises(InputError, match=r"was written by 2 workers.*go on with 2"):
        fit(Counting(), texts, loop(), stopped)


def test_metrics_go_along_to_another_machine(
    texts: TokenTexts, stopped: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(stopped / "checkpoint", elsewhere / "checkpoint")
    for folder in (stopped, elsewhere):
        fit(Counting(), texts, loop(), folder)
    steps = [[line["step"] for line in lines(folder)] for folder in (stopped, elsewhere)]
    assert steps[0] == steps[1]
    board = EventAccumulator(str(elsewhere / "tensorboard")).Reload()
    shown = [event.step for event in board.Scalars("loss")]
    assert shown == [line["step"] for line in lines(elsewhere) if "loss" in line]


@pytest.mark.parametrize("left", [0, 40, -20])
@pytest.mark.parametrize("name", ["state.safetensors", "best/model.safetensors", "progress.json"])
def test_a_damaged_checkpoint_is_said_to_be(
    texts: TokenTexts, stopped: Path, left: int, name: str
) -> None:
    file = newest(stopped) / name
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(WorkError, match="damaged") as caught:
        fit(Counting(), texts, loop(), stopped)
    assert str(stopped / "checkpoint") in str(caught.value)
    assert "delete" in str(caught.value)


@pytest.mark.parametrize("name", ["state.safetensors", "files-0.json", "random-0.safetensors"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    texts: TokenTexts, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    settings = loop(checkpoint_seconds=1e-9)
    with pytest.raises(WorkError):
        fit(Raising(5, signal.SIGTERM), texts, settings, tmp_path)
    assert len(list((tmp_path / "checkpoint").iterdir())) == 2
    file = newest(tmp_path) / name
    file.write_bytes(file.read_bytes()[:-3])
    rest = Counting()
    fit(rest, texts, settings, tmp_path)
    assert "damaged" in caplog.text
    assert rest.steps == list(range(5, 12))
    straight = Counting()
    fit(straight, texts, loop(), tmp_path / "straight")
    assert same(weights(rest), weights(straight))


def test_a_checkpoint_half_written_by_a_killed_process_is_none(
    texts: TokenTexts, stopped: Path
) -> None:
    whole = newest(stopped)
    whole.rename(whole.with_name(f".{whole.name}"))
    rest = Counting()
    fit(rest, texts, loop(), stopped)
    assert rest.steps == list(range(12))
    assert not list((stopped / "checkpoint").glob(".step-*"))


def test_a_training_that_said_enough_is_not_continued(texts: TokenTexts, tmp_path: Path) -> None:
    class Satisfied(Counting):
        def score(self) -> float:
            self.enough = True
            return super().score()

    first = fit(Satisfied(), texts, loop(), tmp_path)
    again = Satisfied()
    assert fit(again, texts, loop(), tmp_path).steps == first.steps < loop().steps
    assert again.steps == []


def test_a_full_disk_keeps_the_old_checkpoint_and_the_run_goes_on_from_it(
    texts: TokenTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loop(checkpoint_seconds=1e-9)
    plain, calls = checkpoints.save_file, []

    def filling(weights: dict[str, Tensor], path: Path, **more: object) -> None:
        calls.append(path)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(weights, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", filling)
        with pytest.raises(WorkError, match=r"No space left.*free some disk space"):
            fit(Counting(), texts, settings, tmp_path)
    rest = Counting()
    fit(rest, texts, settings, tmp_path)
    assert rest.steps == list(range(rest.steps[0], 12))
    assert 0 < rest.steps[0] < 8
    straight = Counting()
    fit(straight, texts, settings, tmp_path / "straight")
    assert same(weights(rest), weights(straight))


# ---- the optimizer's step ------------------------------------------------------------


def test_the_gradient_is_clipped_and_small_weights_do_not_decay(texts: TokenTexts) -> None:
    task = Counting()
    optimizer = make_optimizer(task.module, loop(weight_decay=0.5))
    by_decay = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert all(weight.ndim < 2 for weight in by_decay[0.0])
    assert all(weight.ndim >= 2 for weight in by_decay[0.5])
    engine = Torch(task.module, loop(clip=1e-3))
    norms = []
    engine.optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.stack([w.grad.norm() for w in task.module.parameters()]))
    )
    train_step(task, [texts.gather(range(8))], 0, engine, lr=1e-3)
    assert float(norms[0].norm()) == pytest.approx(1e-3, rel=1e-3)


def test_frozen_weights_are_left_alone(texts: TokenTexts, tmp_path: Path) -> None:
    task = Counting()
    task.module[0].requires_grad_(False)
    before = task.module[0].weight.clone()
    fit(task, texts, loop(), tmp_path)
    assert torch.equal(task.module[0].weight, before)


def test_a_training_ends_at_its_plateau_and_cools_down_first(
    texts: TokenTexts, tmp_path: Path
) -> None:
    task = Counting(scores=[1.0] * 50)
    settings = loop(steps=400, plateau=0.1, evaluations=40, report_every=1)
    result = fit(task, texts, settings, tmp_path)
    assert result.plateau
    assert 30 < result.steps <= 100, "ends soon after it is seen"
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    assert rates[-1] < 0.1 * max(rates)
