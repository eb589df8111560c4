from __future__ import annotations

import pytest

from cllm.errors import InputError
from tune.space import DEFAULT, Budget, Range, Space


def test_lists_ranges_words_and_logarithms_are_read() -> None:
    space = Space.parse(["dim=8,16", "lr=1e-3..4e-3:log", "model.form=direct,pooled", "seed=0..4"])
    assert space.axes["dim"] == (8, 16)
    assert space.axes["lr"] == Range(1e-3, 4e-3, True)
    assert space.axes["model.form"] == ("direct", "pooled")
    assert space.axes["seed"] == Range(0, 4, False)
    seeds, rates = space.axes["seed"], space.axes["lr"]
    assert isinstance(seeds, Range)
    assert isinstance(rates, Range)
    assert seeds.whole
    assert not rates.whole


@pytest.mark.parametrize(
    "line",
    ["dim", "dim=", "=3", "lr=3..1", "lr=a..b", "lr=0..1:log", "lr=1..2:square", "dim=[8]"],
)
def test_what_says_nothing_is_named(line: str) -> None:
    with pytest.raises(InputError, match="--space"):
        Space.parse([line])


def test_a_setting_by_its_place_is_the_one_by_its_name() -> None:
    axes = Space.parse(["model.dim=8,16", "train.loop.lr=1e-3", "train.null=0"]).axes
    assert set(axes) == {"dim", "lr", "train.null"}


def test_a_grid_is_every_combination_and_takes_no_range() -> None:
    space = Space.parse(["dim=8,16", "cluster_weight=0,0.1,1"])
    assert len(space.grid()) == 6
    assert {"dim": 16, "cluster_weight": 1} in space.grid()
    with pytest.raises(InputError, match="lr is a range"):
        Space.parse(["dim=8", "lr=1e-3..4e-3:log"]).grid()


def test_every_value_of_every_axis_is_in_some_corner() -> None:
    space = Space.parse(["dim=8,16", "lr=1e-3..4e-3:log"])
    corners = space.corners()
    assert {corner["dim"] for corner in corners} == {8, 16}
    assert {corner["lr"] for corner in corners} == {1e-3, 4e-3}


def test_a_point_becomes_settings() -> None:
    point = {"dim": 16, "void_dim": 4, "lr": 1e-3, "cluster_weight": 0.1, "seed": 3,
             "train.null": 0.05}  # fmt: skip
    settings = Budget(steps=50, changes=("train.loop.batch=8",)).settings(point)
    assert settings.model.dim == 16
    assert settings.void_dim == 4
    assert settings.train.loop.lr == 1e-3
    assert settings.train.loop.seed == settings.seed == 3
    assert settings.train.loop.batch == 8
    assert settings.train.loop.steps == 50
    assert settings.train.cluster_weight == 0.1
    assert settings.train.null == 0.05


def test_voids_are_never_sought_in_more_coordinates_than_there_are() -> None:
    assert Budget().settings({"dim": 8, "void_dim": 16}).void_dim == 8
    trained_for_voids = Budget(aim="voids").settings({"dim": 16, "void_dim": 6})
    assert trained_for_voids.train.prefixes == (6,)
    assert Budget(aim="voids").settings({"dim": 8, "void_dim": 8}).void_dim == 8


@pytest.mark.parametrize("point", [
    {"train.nothing": 1}, {"dim": 1}, {"lr": -1.0}, {"dim": "big"}, {"dim": 8.5}, {"dim": ""},
    {"seed": "a"}, {"void_dim": True},
])  # fmt: skip
def test_a_point_that_fits_no_setting_is_named(point: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Budget().settings(point)


def test_the_default_space_is_one() -> None:
    for corner in Space.parse(DEFAULT).corners():
        Budget().settings(corner)
