"""The scoreboard: fits a terminal, claims only what was measured."""

import io

import pytest
from rich.console import Console

from cllm.scoreboard import number, print_scoreboard, verdict_in_words, void_rows

FULL = {
    "reconstruction": {
        "n": 2000,
        "exact_match": 0.93,
        "exact_match_ci": [0.919, 0.942],
        "content_f1": 0.998,
        "content_f1_ci": [0.997, 0.999],
        "retrieval_content_f1": 0.512,
        "retrieval_content_f1_ci": [0.505, 0.519],
        "gain_by_prefix": {str(2**k): 2.5 * k for k in range(1, 13)},
    },
    "voids": {"count": 24, "radius_ratio": 1.62, "p_value": 0.0099},
    "ideas": {
        "void": {
            "sampled": 240,
            "valid": 221,
            "novel": 218,
            "hit": 190,
            "yield": 0.78,
            "yield_ci": [0.71, 0.83],
        },
        "interpolation": {"sampled": 240, "yield": 0.6, "yield_ci": [0.53, 0.66]},
    },
}


def printed(report, ideas=(), **more):
    stream = io.StringIO()
    print_scoreboard(report, ideas, Console(file=stream, width=80), **more)
    return stream.getvalue()


def idea(text="fennel [bold]soup[/bold]", verdict="novel"):
    return {
        "text": text,
        "verdict": verdict,
        "reasons": ["fits"],
        "nearest": [("leek soup " * 40, 0.7)],
        "arm": "void",
        "void_id": 3,
    }


def test_fits_eighty_columns_without_broken_cells():
    text = printed(FULL, [idea()] * 12)
    assert max(map(len, text.splitlines())) <= 80
    assert "0.998 [0.997, 0.999]" in text
    assert "0.78 [0.71, 0.83]" in text
    assert "4096: 30.0" in text
    assert text.count("why: fits") == 10


def test_texts_are_printed_as_they_are():
    assert "fennel [bold]soup[/bold]" in printed({}, [idea()])


def test_long_neighbours_are_shortened():
    assert "…" in printed({}, [idea()])


def test_files_that_exist_are_named(tmp_path):
    (tmp_path / "report.html").write_text("x")
    text = printed({}, run_dir=tmp_path)
    assert str(tmp_path / "report.html") in text.replace("\n", "")
    assert "map.png" not in text


def test_unmeasured_numbers_read_so():
    text = printed({"reconstruction": {"exact_match": 0.5}})
    row = next(line for line in text.splitlines() if "token accuracy" in line)
    assert "not measured" in row
    assert "0" not in row
    assert "Voids" not in text


@pytest.mark.parametrize(
    ("voids", "said"),
    [
        ({"count": 0}, "No void was found."),
        ({"count": 1}, "whether chance explains this was not measured"),
        (
            {"count": 3, "enclosed": 5, "p_value": 0.01},
            "5 enclosed places without texts were found, 3",
        ),
        ({"count": 0, "enclosed": 3, "p_value": 0.4}, "none emptier than chance"),
        ({"count": 0, "enclosed": 0, "p_value": 0.4}, "No void was found."),
    ],
)
def test_voids_are_claimed_only_against_chance(voids, said):
    assert said in " ".join(verdict_in_words({"voids": voids}))


@pytest.mark.parametrize(
    ("share", "lift", "told"),
    [
        (0.4, [0.8, 2.0], "With this model voids do not beat"),
        (0.1, [1.2, 9.0], "With this model voids beat"),
        (0.9, [0.4, 0.9], "With this model voids give fewer"),
    ],
)
def test_the_first_sentence_says_whether_voids_beat_their_control(
    share: float, lift: list[float], told: str
) -> None:
    void = {"sampled": 10, "novel": 5, "withheld": 2, "yield": 0.5, "lift": 0.5 / share}
    void |= {"lift_ci": lift}
    density = {"sampled": 10, "withheld": 0, "yield": share}
    first = verdict_in_words({"ideas": {"void": void, "density": density}})[0]
    assert first.startswith(told)
    assert "2 of 5 of these fall into combinations" in first


@pytest.mark.parametrize(
    ("voids", "arms", "told"),
    [
        ({"count": 0, "p_value": 0.4}, {"void": {"sampled": 0}}, "no empty place is emptier"),
        ({"count": 0, "p_value": 0.4}, {}, "no empty place is emptier"),
        ({"count": 4, "p_value": 0.05}, {"void": {"sampled": 0}}, "no place in one stays there"),
        (
            {"count": 4, "p_value": 0.05},
            {"void": {"sampled": 0, "starts": 0}},
            "no place is empty enough to start from",
        ),
        (
            {"count": 4, "p_value": 0.05},
            {"void": {"sampled": 8, "novel": 4, "yield": 0.5}, "density": {"sampled": 0}},
            "not known: no such place was matched",
        ),
    ],
)
def test_the_first_sentence_says_why_voids_cannot_be_compared(voids, arms, told):
    said = verdict_in_words({"voids": voids, "ideas": arms})
    assert told in said[0]
    elsewhere = said[-1].endswith(": cllm generate --anywhere --n 3 --novel --valid --hit")
    assert elsewhere == (not arms.get("void", {}).get("sampled")), "where this run has none"


def test_every_statistic_of_the_cloud_is_shown() -> None:
    found = {"count": 1, "p_values": {"uniform": 0.05, "shuffled": 0.4}, "clustered": 0.7}
    labels = {row.label: row.value for row in void_rows({"voids": found})}
    assert labels["p-value, shuffled"] == "0.400"
    assert labels["clustered"] == "0.700"
    assert "persistence H1" not in labels


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not measured"),
        (0, "0"),
        (12345, "12,345"),
        (0.98765, "0.988"),
        (97.21, "97.2"),
        (0.00004, "4.0e-05"),
        (0.0, "0.000"),
        (True, "yes"),
    ],
)
def test_numbers_read_well(value, text):
    assert number(value) == text
