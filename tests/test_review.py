"""People mark ideas blind: the sheet, the files they save, and what comes of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import command

from cllm import review
from cllm.errors import InputError
from cllm.ideas import Idea
from cllm.judge import Verdict
from cllm.review import (
    Marks,
    Sheet,
    _kappa,
    draw_sheet,
    outcome,
    reviewed,
    take_marks,
    write_page,
)
from cllm.run import SHIPPED, RunFolder
from cllm.scoreboard import agreement_in_words


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(SHIPPED, folder.path)
    return folder


def saved(path: Path, sheet: Sheet, by: str, **more: Any) -> Path:
    marks = {name: {"valid": True, "new": i % 2 == 0, "useful": i % 3 == 0}
             for i, name in enumerate(sheet.ideas)}  # fmt: skip
    path.write_text(json.dumps({"review": sheet.id, "rater": by, "marks": marks} | more))
    return path


def test_a_sheet_holds_texts_of_all_arms_and_does_not_tell_them(run: RunFolder) -> None:
    sheet = draw_sheet(run, 5, seed=0)
    again = draw_sheet(run, 5, seed=0)
    assert list(again.ideas) == list(sheet.ideas)
    assert sheet.id != draw_sheet(run, 5, seed=1).id
    arms = [idea.arm for idea in sheet.ideas.values()]
    assert max(map(arms.count, arms)) == 5
    assert len(set(arms)) > 3
    assert arms != sorted(arms), "in no order of arms"
    page = write_page(run, sheet).read_text("utf-8")
    told = page.split('<script type="application/json" id="sheet">')[1].split("</script>")[0]
    items = json.loads(told)["items"]
    assert [item["name"] for item in items] == list(sheet.ideas)
    assert all(item.keys() == {"name", "text", "known"} for item in items)
    assert not any(idea.id in page for idea in sheet.ideas.values())
    assert "http" not in page.replace("http-equiv", "")


def test_marks_are_kept_by_name_and_reported(run: RunFolder, tmp_path: Path) -> None:
    assert reviewed(run, np.random.default_rng(0)) is None
    with pytest.raises(InputError, match="begin one with `cllm review`"):
        take_marks(run, [tmp_path / "none.json"])
    sheet = draw_sheet(run, 5, seed=0)
    write_page(run, sheet)
    assert reviewed(run, np.random.default_rng(0)) is None
    take_marks(run, [saved(tmp_path / "a", sheet, "ann"), saved(tmp_path / "b", sheet, "Bob B.")])
    take_marks(run, [saved(tmp_path / "a", sheet, "ann")])  # again: in place of the first
    told = reviewed(run, np.random.default_rng(0))
    assert told is not None
    assert told["raters"] == 2
    assert told["texts"] == len(sheet.ideas)
    assert told["agreement"].keys() == {"new", "new_ci", "useful", "useful_ci"}, (
        "of valid all are one answer"
    )
    assert told["agreement"]["new_ci"] == [1, 1]
    run.ideas.unlink()
    assert reviewed(run, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"review": "another"}, "is of another review"), ({"rater": ""}, "rater"),
     ({"rater": "../../x"}, "rater"), ({"marks": {"strange": {}}}, "'strange' is no text"),
     ({"marks": []}, "marks"), ({"marks": {}}, "marks no text"), ({"more": 1}, "more")],
)  # fmt: skip
def test_a_file_that_is_none_of_this_review_is_refused(
    run: RunFolder, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    sheet = draw_sheet(run, 3, seed=0)
    write_page(run, sheet)
    good, bad = saved(tmp_path / "a", sheet, "ann"), saved(tmp_path / "b", sheet, "bob", **changes)
    with pytest.raises(InputError, match=words):
        take_marks(run, [good, bad])
    assert not (run.path / review.FOLDER).exists(), "none is kept where one is refused"
    good.write_text("no JSON")
    with pytest.raises(InputError, match="cannot be read"):
        take_marks(run, [good])


def test_marks_of_two_people_whose_names_look_alike_are_both_kept(
    run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sheet = draw_sheet(run, 3, seed=0)
    write_page(run, sheet)
    take_marks(run, [saved(tmp_path / "a", sheet, "ann b"), saved(tmp_path / "b", sheet, "ann.b")])
    told = reviewed(run, np.random.default_rng(0))
    assert told is not None
    assert told["raters"] == 2
    write_page(run, draw_sheet(run, 4, seed=0))
    assert "marks of the review before this one" in caplog.text


def test_marks_of_earlier_ideas_are_left_out_and_said(
    run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sheet = draw_sheet(run, 3, seed=0)
    write_page(run, sheet)
    take_marks(run, [saved(tmp_path / "a", sheet, "ann")])
    shutil.copy(SHIPPED.parent / "voids" / "ideas.parquet", run.ideas)
    with pytest.raises(InputError, match="of another model"):
        draw_sheet(run, 3, seed=0)
    shutil.copy(SHIPPED / "ideas.parquet", run.ideas)
    (run.path / review.SHEET).write_text(json.dumps({"id": "x", "n": 3, "seed": 0}))
    (run.path / review.FOLDER / sheet.id).rename(run.path / review.FOLDER / "x")
    assert reviewed(run, np.random.default_rng(0)) is None
    assert "of earlier ideas" in caplog.text
    with pytest.raises(InputError, match="begin anew"):
        take_marks(run, [tmp_path / "a"])


def idea(arm: str, number: int, valid: bool = True) -> Idea:
    verdict = Verdict("novel", valid, not valid, 1.0, 1.0, (), ())
    return Idea(f"{arm}-{number}", arm, f"text {number} of {arm}", verdict)


def test_preferences_are_between_arms_and_agreement_is_beyond_chance() -> None:
    ideas = {
        f"{arm}{i}": idea(arm, i, valid=i < 30) for arm in ("void", "prior") for i in range(40)
    }
    even = {name: int(one.id.split("-")[1]) % 2 == 0 for name, one in ideas.items()}
    sheet = Sheet("s", 40, 0, ideas)

    def marked(rater: str, contrary: bool = False) -> Marks:
        return Marks(review="s", rater=rater, marks={
            name: {"valid": one.verdict.valid, "new": even[name] != contrary,
                   "useful": one.arm == "void" and one.verdict.valid}
            for name, one in ideas.items()
        })  # fmt: skip

    told = outcome(sheet, [marked("a"), marked("b", contrary=True)], np.random.default_rng(0))
    assert told["arms"]["void"]["valid"] == pytest.approx(0.75)
    low, high = told["arms"]["void"]["valid_ci"]
    assert 0.55 < low < 0.75 < high < 0.95
    assert told["preference"]["prior"]["useful"] == pytest.approx(0.75)
    assert told["preference"]["prior"]["useful_ci"][0] > 0.5
    assert told["agreement"]["valid"] == pytest.approx(1)
    assert told["agreement"]["new"] == pytest.approx(-1)
    assert told["with_judge"]["valid"] == pytest.approx(1)
    assert abs(told["with_judge"]["new"]) < 0.1
    low, high = told["with_judge"]["new_ci"]
    assert low <= told["with_judge"]["new"] <= high < 0.5
    assert "valid 1.00 [1.00, 1.00], new -1.00 [" in agreement_in_words({"review": told})
    alone = outcome(sheet, [marked("a")], np.random.default_rng(0))
    assert alone["agreement"] == {}
    assert "each other" not in agreement_in_words({"review": alone})


def test_agreement_is_cohens_and_leaves_out_what_one_has_not_marked() -> None:
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    first, second = rng.random(60) < 0.6, rng.random(60) < 0.5
    second[:30] = first[:30]
    with_gaps = np.where(np.arange(60) < 50, first, np.nan)
    expected = cohen_kappa_score(first[:50], second[:50])
    assert _kappa(with_gaps, second.astype(float)) == pytest.approx(expected)
    assert np.isnan(_kappa(np.ones(5), np.ones(5)))


def test_the_commands_make_the_page_and_show_what_it_came_to(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> dict[str, Any]:
        assert command(*words, "--run", str(run.path), "--json") == 0
        return json.loads(capsys.readouterr().out)

    begun = told("review", "--n", "4")
    assert (run.path / "review.html").exists()
    sheet = draw_sheet(run, 4, seed=0)
    assert begun["review"] == sheet.id
    files = [saved(tmp_path / f"{name}.json", sheet, name) for name in ("ann", "bob")]
    came_to = told("review", *(word for file in files for word in ("--marks", str(file))))
    assert came_to["raters"] == 2
    assert told("report")["review"]["agreement"] == came_to["agreement"]
    page = (run.path / "report.html").read_text("utf-8")
    assert "2 people marked" in page
    assert "agreement with each other" in page
    assert command("review", "--run", str(run.path), "--marks", str(run.path / "report.json")) == 2


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_texts_are_marked_by_the_keyboard_and_saved(run: RunFolder, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if not os.environ.get("CLLM_NEEDS_BROWSER"):
        pytest.importorskip("playwright")
        if not chromium:
            pytest.skip("there is no `chromium` to drive")
    from playwright.sync_api import sync_playwright

    from studies.screenshots import CHROMIUM

    sheet = draw_sheet(run, 2, seed=0)
    page_file = write_page(run, sheet)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM)
        page, faults = browser.new_page(), list[str]()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(page_file.as_uri())
        for key in ("v", "n", "Enter", "u", "ArrowRight", "ArrowLeft", "u", "s"):
            page.keyboard.press(key)
        assert "Write your name first" in page.inner_text("#saved")
        page.fill("#rater", "ann")
        page.keyboard.press("Tab")
        page.reload()  # nothing is lost
        assert page.input_value("#rater") == "ann"
        with page.expect_download() as download:
            page.keyboard.press("s")
        download.value.save_as(tmp_path / "ann.json")
        browser.close()
    assert not faults
    take_marks(run, [tmp_path / "ann.json"])
    marks = json.loads((tmp_path / "ann.json").read_text())["marks"]
    first, second = list(sheet.ideas)[:2]
    assert marks == {
        first: {"valid": True, "new": True, "useful": False},
        second: {"valid": False, "new": False, "useful": False},
    }
