"""Whole sweeps as a user types them: on this machine, and over the three nodes of a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from nodes import Cluster, cluster_of

from cllm import pipeline
from cllm.console import INTERRUPTED
from cllm.corpus import built_in_corpus
from cllm.run import SHIPPED, RunFolder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SMALL = ["--steps", "16", "--measure", "texts", "--no-choice", "--json"]
SETTINGS = ("train.loop.batch=8", "train.loop.evaluations=8", "train.loop.report_every=1",
            "model.form=direct")  # fmt: skip
CHANGES = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = RunFolder(tmp_path / "run")
    pipeline.keep_corpus(folder, built_in_corpus("plain", 800, 0))
    pipeline.borrow_base(folder, SHIPPED / "base")
    return folder.path


def command(run: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tune.main", "--run", str(run), *SMALL, *CHANGES, *words]


def tune(run: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(run, *words), capture_output=True, text=True, timeout=600)


def outcome(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr[-3000:]
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    return ended.stderr.strip().splitlines()[-1]


def results(run: Path) -> dict[str, int]:
    """When each trial's result was written."""
    found = (run / "tune" / "trials").glob("*/result.json")
    return {str(file): file.stat().st_mtime_ns for file in found}


def test_a_sweep_prunes_reports_and_is_not_done_twice(run: Path) -> None:
    words = ["--trials", "8", "--space", "dim=4,8,16", "--space", "lr=1e-5..4e-3:log",
             "--space", "cluster_weight=0,0.1", "--controls", "1"]  # fmt: skip
    told = outcome(tune(run, *words))
    assert told["trials"] == sum(told["counts"].values()) == 8
    assert told["counts"]["failed"] == 0
    assert told["counts"]["pruned"] > 0
    assert 0 < told["saved"] < 1
    folder = run / "tune" / told["sweep"]
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    assert len(rows) == 8 + 4
    pairs = [row for row in rows if row["control"]]
    assert len({(row["point_cluster_weight"], row["point_cluster_floor"]) for row in pairs}) == 4
    assert {row["steps"] for row in pairs} == {told["best"]["steps"]}
    assert told["clustering"][0].startswith("Clustering weight 0.1 instead of 0")
    assert "weight 0 is the plain model" in told["clustering"][1]
    assert told["clustering"][0] in Path(told["report"]).read_text("utf-8")
    finished = [row for row in rows if row["state"] == "finished" and not row["control"]]
    assert told["best"]["gain_nats"] == max(row["gain_nats"] for row in finished)
    assert all(row["content_f1"] is not None for row in finished)
    assert "<h2>Trials</h2>" in Path(told["report"]).read_text("utf-8")

    before = results(run)
    again = outcome(tune(run, *words))
    assert results(run) == before
    assert again["best"]["point"] == told["best"]["point"]


def test_several_objectives_are_searched_at_once(run: Path) -> None:
    words = ["--trials", "6", "--space", "dim=4,8", "--space", "lr=1e-5..4e-3:log",
             "--objectives", "gain_nats,round_trip", "--controls", "0"]  # fmt: skip
    told = outcome(tune(run, *words))
    assert told["objectives"] == ["gain_nats", "round_trip"]
    assert told["counts"]["failed"] == 0
    assert told["counts"]["finished"] + told["counts"]["pruned"] == 6
    rows = pq.read_table(run / "tune" / told["sweep"] / "trials.parquet").to_pylist()
    finished = [row for row in rows if row["state"] == "finished"]
    assert finished
    best = told["best"]
    assert not any(
        row["gain_nats"] > best["gain_nats"] and row["round_trip"] < best["round_trip"]
        for row in finished
    )


def test_the_dimension_is_chosen_checked_and_kept_for_applying(run: Path) -> None:
    words = ["--choose", "--d-max", "8", "--separate", "4,8", "--decodes", "20", "--cap", "1",
             "--steps", "300"]  # fmt: skip
    told = outcome(tune(run, *words))
    assert told["choice"]["lengths"] == [2, 3, 4, 6, 8]
    assert [row["d"] for row in told["check"]["sizes"]] == [4, 8]
    assert {at["d"] for at in told["window"]["sizes"]} == {4, 8}
    assert len(told["words"]) == 2
    assert told["dimension"]["d"] is None or told["dimension"]["d"] <= 8
    assert {(one["d"], one["nested"]) for one in told["trained"]} == {(8, True), (4, False),
                                                                      (8, False)}  # fmt: skip
    assert all(line in Path(told["report"]).read_text("utf-8") for line in told["words"])
    models = {file: file.stat().st_mtime_ns for file in run.glob("tune/dimension/*/model/*")}
    assert len({file.parent for file in models}) == 3
    again = outcome(tune(run, *words))
    assert again["choice"] == told["choice"]
    assert all(file.stat().st_mtime_ns == made for file, made in models.items())
    kept = json.loads((run / "tune" / "tune.json").read_text())
    assert kept["choice"] == told["choice"]


def test_failed_trials_are_told_and_do_not_stop_the_others(run: Path) -> None:
    words = ["--search", "grid", "--scheduler", "none", "--space", "dim=4"]
    told = outcome(tune(run, *words, "--space", "train.loop.lr=1e-3,1e30"))
    assert told["counts"] == {"finished": 1, "pruned": 0, "failed": 1}
    rows = pq.read_table(run / "tune" / told["sweep"] / "trials.parquet").to_pylist()
    (failed,) = (row for row in rows if row["state"] == "failed")
    assert "look at these texts, or train with a lower `lr`" in failed["error"]

    ended = tune(run, *words, "--space", "train.loop.lr=1e30")
    assert ended.returncode == 1
    assert "none of 1 trials finished" in last_line(ended)
    (table,) = set(run.glob("tune/*/trials.parquet")) - {
        run / "tune" / told["sweep"] / "trials.parquet"
    }
    assert pq.read_table(table).num_rows == 1, "what failed can be looked at"


def test_without_room_for_one_trial_it_is_said_at_once(run: Path) -> None:
    ended = tune(run, "--cpus", "99", "--wait", "1", "--space", "dim=4")
    assert ended.returncode == 2
    assert "one trial" in last_line(ended)
    assert "99 CPU" in last_line(ended)


def trial_of(driver: int) -> int | None:
    """The process that trains for a sweep, once it does."""
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if "ImplicitFunc.train" in " ".join(process.cmdline()):
                return int(process.pid)
    return None


def test_a_trial_whose_process_is_killed_is_tried_again(run: Path) -> None:
    words = ["--search", "grid", "--space", "dim=4", "--controls", "0", "--steps", "400",
             "--set", "train.loop.checkpoint_seconds=1"]  # fmt: skip
    driver = subprocess.Popen(
        command(run, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    begun = time.monotonic()
    while not list(run.glob("tune/trials/*/training/**/progress.json")):
        assert time.monotonic() - begun < 400, "no checkpoint came"
        assert driver.poll() is None
        time.sleep(0.1)
    victim = trial_of(driver.pid)
    assert victim
    os.kill(victim, signal.SIGKILL)
    out, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err[-3000:]
    told = json.loads(out)
    assert told["counts"] == {"finished": 1, "pruned": 0, "failed": 0}
    (row,) = pq.read_table(run / "tune" / told["sweep"] / "trials.parquet").to_pylist()
    assert row["went_on"], "the second try began anew"


GRID = ["--scheduler", "none", "--search", "grid", "--space", "seed=0,1,2,3"]
OPTUNA = ["--trials", "4", "--space", "lr=1e-4..4e-3:log"]  # and pruned by ASHA


@pytest.mark.parametrize(("search", "by"), [(GRID, signal.SIGKILL), (OPTUNA, signal.SIGTERM)])
def test_a_driver_that_ends_goes_on_and_repeats_no_finished_trial(
    run: Path, tmp_path: Path, search: list[str], by: signal.Signals
) -> None:
    words = ["--space", "dim=4", "--controls", "0", *search]
    with (tmp_path / "stderr").open("w") as said:
        driver = subprocess.Popen(
            command(run, *words), stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
    try:
        begun = time.monotonic()
        while len(results(run)) < 2:
            assert time.monotonic() - begun < 400, "no trial finished"
            assert driver.poll() is None
            time.sleep(0.1)
        if by == signal.SIGTERM:
            os.kill(driver.pid, by)
            assert driver.wait(60) == 1
            assert (tmp_path / "stderr").read_text().splitlines()[-1] == f"cllm: {INTERRUPTED}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    before = results(run)
    told = outcome(tune(run, *words))
    after = results(run)
    assert sum(told["counts"].values()) == 4
    assert told["counts"]["failed"] == 0
    assert told["counts"]["finished"] == len(after)
    assert search is OPTUNA or len(after) == 4
    assert {name: after[name] for name in before} == before, "a finished trial was run again"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with cluster_of(workers=2) as nodes:
        yield nodes


def test_trials_of_several_workers_are_pruned_on_a_cluster(run: Path, cluster: Cluster) -> None:
    words = ["-m", "tune.main", "--run", str(run), *SMALL, *CHANGES, "--workers", "2"]
    # one at a time, so that the second has one to be compared with
    space = ["--search", "grid", "--space", "dim=16,2", "--keep", "2", "--cpus", "2"]
    # and long enough that a score is told before the next one is there
    words += ["--set", "train.loop.lr=1e-4", "--steps", "96"]
    ended = cluster.run([*words, *space], seconds=700)
    told = outcome(ended)
    assert told["trials"] == 2
    assert told["counts"]["failed"] == 0, ended.stderr[-2000:]
    ways = sorted((run / "tune" / told["sweep"]).glob("*/result.json"))
    assert told["counts"]["pruned"] == 1, [way.read_text()[:3000] for way in ways]
    assert told["best"]["content_f1"] >= 0
