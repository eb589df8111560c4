"""The bench of the finder runs, part by part, on clouds small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from bench import _planted, voids
from cllm.sphere import unit
from cllm.voids import Void


def small(*arguments: str) -> object:
    options = voids.parser().parse_args(list(arguments))
    options.kept, options.thick = None, [(2, 4, 400, 40, 0.001)]
    options.plants, options.bent = [(2, 3, 400, 30), (4, 6, 400, 40)], [(2, 4, 2000, 100)]
    options.evens = [(2, 3, 150, False), (2, 4, 150, True)]
    return options


def test_the_largest_void_is_the_known_one() -> None:
    found = voids.truth(small("--clouds", "2", "--first", "7"))
    assert found["clouds"] == 2
    assert found["sphere_below_0.99"] == 0
    assert found["circle_ratio_min"] == pytest.approx(1, abs=1e-3)


def test_emptied_balls_are_found_and_even_clouds_counted() -> None:
    found = voids.planted(
        small("--seeds", "1", "--first", "1", "--judged", "0", "--even-seeds", "1")
    )
    assert found["plants"] == 2
    assert found["recall"]["share"] == 1
    assert found["recall_standing"] is None
    assert found["recall_by_thickness"]["0.001"]["share"] == 1
    assert found["recall_bent"]["share"] == 1
    assert found["by_luck"] < 0.5
    assert found["even_clouds"] == 1
    assert not any("stands" in row for row in found["rows"])


def test_p_values_of_null_clouds_are_counted() -> None:
    found = voids.calibration(small("--calibrated", "2", "--nulls", "2"))
    assert set(found) == set(voids.KINDS)
    for kind in found.values():
        assert kind["clouds"] == sum(kind["histogram"]) == 2
        assert 0 <= kind["share_below_0.05"] <= 1


def test_one_size_is_timed_against_its_floor(capsys: pytest.CaptureFixture[str]) -> None:
    threads = faiss.omp_get_max_threads()
    voids.main(["--one", "2000", "--dims", "4", "--threads", "1"])
    faiss.omp_set_num_threads(threads)
    told = json.loads(capsys.readouterr().out)
    assert told["queries"] > 2000
    assert told["ratio"] == pytest.approx(told["seconds"] / told["floor_seconds"])


def test_an_interrupted_bench_goes_on_after_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = small("--seeds", "1", "--judged", "0", "--even-seeds", "1")
    options.kept = tmp_path / "kept.jsonl"
    first = voids.planted(options)
    monkeypatch.setattr(_planted, "find_voids", None)  # would fail if it were searched again
    assert voids.planted(options) == first
    assert len(options.kept.read_text().splitlines()) == 6


def test_a_plant_is_found_only_by_a_void_as_wide() -> None:
    place = np.array([0.0, 0, 1], np.float32)
    wide, narrow = (Void(0, place, radius, 2.0, 0.01, True, (0, 1)) for radius in (0.19, 0.17))
    aside = Void(0, unit(np.array([[0.0, 1, 5]]))[0], 0.3, 2.0, 0.01, True, (0, 1))
    assert _planted._found([wide, narrow, aside], place, 0.2) == [wide]


@pytest.mark.timeout(1800)  # five minutes of an idle core
@pytest.mark.slow
def test_p_values_of_null_clouds_are_uniform() -> None:
    found = voids.calibration(small("--calibrated", "40", "--first", "1000"))
    for kind, facts in found.items():
        assert facts["ks_p"] > 0.001, kind
        assert facts["share_below_0.05"] <= 0.2, kind  # 8 of 40: p = 1e-3 if it were 0.05
