"""Drawings of a report: what is drawn, and that nothing is where nothing was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cllm import charts
from cllm.charts import arm_chart, calibration_chart, null_chart


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)


def test_null_clouds_are_drawn_beside_the_voids_and_without_any() -> None:
    nulls = {"gaussian": [1.2, 1.3], "uniform": [1.1, 0.0]}
    found = {"null_scores": nulls, "scores": [2.0], "chance_score": 1.3}
    ((_, both),) = null_chart({"voids": found})
    ((_, alone),) = null_chart({"voids": {"null_scores": nulls, "scores": []}})
    for svg in (both, alone):
        assert {"gaussian", "uniform", "voids"} <= set(texts(svg))
    assert both.lower().count("#d55e00") > alone.lower().count("#d55e00")
    assert not list(null_chart({"voids": {"scores": [2.0]}}))


def test_yields_are_drawn_where_two_arms_have_them() -> None:
    void = {"yield": 0.5, "yield_ci": [0.4, 0.6]}
    ((_, svg),) = arm_chart({"ideas": {"void": void, "prior": void}})
    assert {"voids", "whole cloud"} <= set(texts(svg))
    assert not list(arm_chart({"ideas": {"void": void}}))


def test_calibration_is_drawn_from_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "calibration.json"
    monkeypatch.setattr(charts, "CALIBRATION", file)
    assert not list(calibration_chart())
    file.write_text(json.dumps({"gaussian": {"clouds": 40, "histogram": [2] * 20}}))
    ((title, svg),) = calibration_chart()
    assert "40 synthetic clouds" in title
    assert "gaussian" in texts(svg)
