"""What is measured of a trial: in parts that cost more and more, which way is better, as shown."""

from __future__ import annotations

PARTS = ("gain", "texts", "voids")
OF_PART = {
    "gain": ("gain_nats", "nats_per_dim", "uniformity", "auroc"),
    "texts": ("content_f1", "round_trip"),
    "voids": ("radius_ratio", "p_value", "voids", "yield", "valid", "void_new"),
}
EARLY = "gain_nats"  # what is known of a trial while it trains, and so what prunes it
_LOW = {"round_trip", "p_value"}


def part_of() -> dict[str, str]:
    """The part that each objective belongs to."""
    return {name: part for part, names in OF_PART.items() for name in names}


def is_low(name: str) -> bool:
    """Whether less of it is better.

    Uniformity is 0 where all vectors coincide and falls as they spread evenly, which leaves no
    voids: more is better, as far as the gain allows.
    """
    return name in _LOW


def short(value: object) -> str:
    """A value as it stands in a table's cell."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)
