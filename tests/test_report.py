"""The report: nothing invented, nothing left unescaped, all on one page."""

import base64
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllm.errors import InputError
from cllm.report import check_report, curves, differences, render, without_none, write_report

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def report():
    return {
        "corpus": {"texts": 2000, "train": 1600},
        "model": {"dim": 32, "origin": "trained here", "reductions": [{"size": 8, "shape": [8]}]},
        "reconstruction": {"n": 200, "exact_match": 0.93, "exact_match_ci": [0.9, 0.95]},
        "voids": {"count": 24, "p_value": 0.01},
        "ideas": {"void": {"sampled": 50, "valid": 40, "novel": 39, "yield": 0.7}},
        "seconds": {"train": 12.5},
        "seed": 7,
        "versions": {"cllm": "0.1.0"},
    }


def idea(text="a fennel soup", verdict="novel", **more):
    return {
        "text": text,
        "verdict": verdict,
        "reasons": ["fits the dish"],
        "nearest": [("a leek soup", 0.71), ("a bean soup", 0.6)],
        **more,
    }


def page(report, ideas=(), reconstructions=(), metrics=(), picture=""):
    return render(
        report, ideas=ideas, reconstructions=reconstructions, metrics=metrics, picture=picture
    )


def test_files_are_written_and_hold_the_numbers(tmp_path, report):
    (tmp_path / "map.png").write_bytes(PIXEL)
    path = write_report(tmp_path, report, ideas=[idea()], reconstructions=[], metrics=[])
    assert json.loads((tmp_path / "report.json").read_text()) == report
    text = path.read_text()
    assert base64.b64encode(PIXEL).decode() in text
    assert "0.930" in text
    assert "[0.900, 0.950]" in text


def test_first_line_is_the_verdict(report):
    body = page(report).split("<body>")[1].lstrip()
    assert body.startswith("<h1>93% of the held-out texts come back word for word")


def test_absent_numbers_are_absent(tmp_path, report):
    report["voids"]["hopkins"] = None
    text = write_report(tmp_path, report, ideas=[], reconstructions=[], metrics=[]).read_text()
    assert "hopkins" not in json.loads((tmp_path / "report.json").read_text())["voids"]
    row = re.search(r"<tr><td>Hopkins.*?</tr>", text, re.S)
    assert row
    assert "not measured" in row[0]
    assert not re.search(r"\b0\.0+\b", row[0])


def test_empty_report_makes_a_page():
    assert "Nothing has been measured yet." in page({})


@pytest.mark.parametrize("where", ["idea", "reason", "nearest", "original", "restored", "base"])
def test_texts_cannot_bring_markup(report, where):
    evil = "<script>alert(1)</script>"
    shown = idea(
        text=evil if where == "idea" else "a",
        reasons=[evil if where == "reason" else "b"],
        nearest=[(evil if where == "nearest" else "c", 0.5)] * 2,
    )
    pair = (evil if where == "original" else "d", evil if where == "restored" else "e")
    report["base"] = {"name": evil if where == "base" else "f"}
    text = page(report, ideas=[shown], reconstructions=[pair])
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_ten_ideas_with_their_evidence(report):
    ideas = [idea(text=f"idea number {number}.") for number in range(14)]
    text = page(report, ideas=ideas)
    assert text.count('<article class="panel idea">') == 10
    assert "idea number 9." in text
    assert "idea number 10." not in text
    assert "10 of 14" in text
    assert text.count("fits the dish") == 10
    assert text.count("a leek soup") == 10


def test_page_needs_nothing_from_outside(report):
    metrics = [{"step": step, "loss": 3.0 - step} for step in range(3)]
    text = page(report, ideas=[idea()], metrics=metrics, picture="AAAA")
    # The only addresses are names of XML vocabularies in the drawings.
    assert not re.search(r'(?:src|href|url)\s*[=(]\s*"?(?:https?:)?//', text.split("</head>")[0])
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', text)
    assert all(link == "map.png" or link.startswith("data:") for link in links)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"viods": {}}, "viods"),
        ({"seed": math.nan}, "seed is nan"),
        ({"voids": {"count": 3, "radii": [1.0, math.inf]}}, "voids.radii.1 is inf"),
        ({"voids": {"count": None}}, "voids.count is None"),
        ({"reconstruction": {"exact_match": 93.0}}, "reconstruction.exact_match"),
        ({"model": {"origin": "found"}}, "model.origin"),
        ({"ideas": {"void": {"valid": 3}}}, "ideas.void.sampled"),
    ],
)
def test_broken_reports_are_refused(report, change, complaint):
    check_report(report)
    with pytest.raises(InputError, match=re.escape(complaint)):
        check_report(report | change)


def test_a_refused_report_leaves_the_old_one(tmp_path, report):
    write_report(tmp_path, report, ideas=[], reconstructions=[], metrics=[])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError):
        write_report(tmp_path, report | {"x": 1}, ideas=[], reconstructions=[], metrics=[])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nones_go_at_every_depth():
    assert without_none({"a": None, "b": {"c": None, "d": [{"e": None}]}}) == {"b": {"d": [{}]}}


def test_differing_words_are_marked(report):
    text = page(report, reconstructions=[("fry one onion slowly", "fry two onions slowly")])
    assert "fry <del>one onion </del>slowly" in text
    assert "fry <ins>two onions </ins>slowly" in text


@given(st.text(), st.text())
def test_differences_lose_nothing(original, restored):
    left, right = differences(original, restored)
    assert "".join(piece.text for piece in left) == original
    assert "".join(piece.text for piece in right) == restored
    assert [p.text for p in left if p.kept] == [p.text for p in right if p.kept]


def test_curves_show_what_was_logged():
    metrics = [{"step": step, "loss": 1 / (step + 1), "array": math.nan} for step in range(5000)]
    metrics[10]["validation_nats"] = 3.0  # one point is no curve
    drawn = dict(curves(metrics))
    assert list(drawn) == ["Loss"]
    assert drawn["Loss"].startswith("<svg")
    assert "currentColor" in drawn["Loss"]
    assert len(drawn["Loss"]) < 60_000
    assert dict(curves(metrics)) == drawn


def test_the_emptiest_voids_are_told_with_their_texts(report):
    void = {"id": 3, "radius": 0.31, "score": 4.2, "p_value": 0.05, "enclosed": True}
    rim = [{"id": "a", "title": "leek <soup>"}]
    places = [
        void | {"stands": True, "written": False, "rim": rim},
        void | {"id": 5, "stands": True, "written": True, "rim": []},
        void | {"id": 9, "stands": False, "written": False, "rim": []},
    ]
    text = render(report, ideas=[], reconstructions=[], metrics=[], places=places)
    assert "leek &lt;soup&gt;" in text
    assert "<td>3</td>" in text
    assert "<td>5 (around a new text)</td>" in text
    assert "<td>9</td>" not in text


def test_unseen_combinations_have_a_column_where_they_are_known(report):
    assert ">unseen<" not in page(report)
    report["ideas"]["void"]["withheld"] = 7
    text = page(report)
    assert ">unseen<" in text
    assert "7 of 35" in text
