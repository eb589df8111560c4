"""`cllm study anywhere`: what comes of a run's voids, counted."""

import json

import pytest

from cllm.run import SHIPPED_VOIDS, RunFolder
from studies import anywhere


def test_counts_are_of_texts_that_are_new_and_in_place(capsys, tmp_path):
    out = tmp_path / "told.json"
    anywhere.main(["--seeds", "2", "--decodes", "120", "--out", str(out)])
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(out.read_text("utf-8"))
    assert told["run"] == SHIPPED_VOIDS.name
    withheld = {tuple(pair) for pair in RunFolder(SHIPPED_VOIDS).load_corpus().info["withheld"]}
    for row in told["seeds"]:
        assert row["decodes"] <= 120
        assert row["texts"] >= row["new"] >= row["withheld"] > 0
        assert {tuple(pair) for pair in row["withheld_pairs"]} <= withheld
    assert told["seeds"][0] != told["seeds"][1] | {"seed": 0}


def test_a_void_that_is_not_there_is_refused():
    with pytest.raises(SystemExit, match="2"):
        anywhere.main(["--void", "999", "--seeds", "1"])
