"""The bench of the finder runs, part by part, on clouds small enough for a test."""

from __future__ import annotations

import json

import faiss
import pytest

from bench import voids


def small(*arguments: str) -> object:
    options = voids.parser().parse_args(list(arguments))
    options.plants, options.evens = [(2, 3, 400, 30), (4, 6, 400, 40)], [(2, 3, 150)]
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
