"""A report's numbers as a reader wants them.

number(0.123456)  # "0.123"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Numbers = Mapping[str, Any]
ABSENT = "not measured"


def number(value: Any) -> str:  # noqa: ANN401 - any JSON scalar
    """A number as a reader wants it: thousands set apart, about three digits; None is absent."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    if isinstance(value, float) and 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return str(value)


def with_interval(numbers: Numbers, name: str) -> str:
    """The number `name`, followed by its interval where there is one."""
    interval = numbers.get(f"{name}_ci")
    text = number(numbers.get(name))
    return f"{text} [{number(interval[0])}, {number(interval[1])}]" if interval else text
