"""The map: a real picture, honest words, the same projection each time."""

import numpy as np
import pytest

from cllm.map import draw_map, fit_plane
from cllm.voids import Void


def unit(points):
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def cloud():
    return unit(np.random.default_rng(0).normal(size=(700, 5)))


def void_at(centre, radius=0.3):
    return Void(
        id=0, centre_K=centre, radius=radius, score=1.5, p_value=0.01, enclosed=True, rim=(0, 1)
    )


def pixels(path):
    from matplotlib.image import imread

    return imread(path)[:, :, :3]


def test_picture_shows_texts_voids_and_ideas(tmp_path, cloud):
    texts = pixels(draw_map(tmp_path / "texts.png", cloud, []))
    voids = pixels(draw_map(tmp_path / "voids.png", cloud, [void_at(cloud[0])]))
    ideas = draw_map(
        tmp_path / "ideas.png", cloud, [], ideas_MK=cloud[:2], verdicts=["novel", "nonsense"]
    )
    assert texts.shape[1] == 1200
    assert texts.std() > 0.05
    green = np.abs(pixels(ideas) - np.array([0, 158, 115]) / 255).max(axis=2) < 0.02
    orange = np.abs(voids - np.array([213, 94, 0]) / 255).max(axis=2) < 0.02
    assert green.sum() > 10
    assert orange.sum() > 10
    assert not (np.abs(texts - np.array([213, 94, 0]) / 255).max(axis=2) < 0.02).any()


@pytest.mark.parametrize("count", [3, 60])
def test_few_texts_are_drawn_too(tmp_path, cloud, count):
    assert pixels(draw_map(tmp_path / "map.png", cloud[:count], [])).std() > 0.01


def test_plane_holds_the_widest_directions_and_does_not_flip():
    rng = np.random.default_rng(1)
    wide = rng.normal(size=(300, 4)) * [0.1, 5, 0.1, 3]
    project, share = fit_plane(wide)
    again, _ = fit_plane(wide[::-1])
    assert share > 0.99
    assert np.abs(np.corrcoef(project(wide)[:, 0], wide[:, 1])[0, 1]) > 0.99
    np.testing.assert_allclose(project(wide), again(wide), atol=1e-9)


def test_every_idea_needs_a_verdict(tmp_path, cloud):
    with pytest.raises(ValueError, match="2 ideas came with 1 verdicts"):
        draw_map(tmp_path / "map.png", cloud, [], ideas_MK=cloud[:2], verdicts=["novel"])
    assert not (tmp_path / "map.png").exists()
