"""Progress of long work: what is told, and that nothing is lost."""

import logging

import pytest

from cllm import progress


def test_counted_yields_all_and_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        assert list(progress.counted("abc", "letters")) == ["a", "b", "c"]
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "letters: 1 of 3", "letters: 2 of 3",
    ]  # fmt: skip


def test_short_work_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress.counted(range(3), "numbers")) == [0, 1, 2]
    assert not caplog.records
