"""What is measured of a trial: in parts that cost more and more, which way is better, as shown."""

from __future__ import annotations

from dataclasses import dataclass

PARTS = ("gain", "texts", "voids")
EARLY = "gain_nats"  # what is known of a trial while it trains, and so what prunes it


@dataclass(frozen=True)
class Measure:
    """One number of a trial; any of them may be an objective."""

    name: str
    part: str
    words: str  # as a reader knows it
    low: bool = False  # less of it is better
    of_prefix: bool = False  # of the first void_dim coordinates: only those of one length compare
    compared: bool = True  # where trials are: not what follows from another measure


# Uniformity is 0 where all vectors coincide and falls as they spread evenly, which leaves no voids:
# more is better, as far as the gain allows. It is of prefixes, cast on a sphere of their own, where
# collapsed vectors may differ: those show in the variance.
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("gain_nats", "gain", "gain, nats a text"),
        Measure("nats_per_dim", "gain", "gain, nats a coordinate", compared=False),
        Measure("content_f1", "texts", "content F1"),
        Measure("round_trip", "texts", "round trip", low=True),
        Measure("uniformity", "gain", "uniformity (0 = all alike)", of_prefix=True),
        Measure("variance", "gain", "variance (1 = spread evenly)"),
        Measure("radius_ratio", "voids", "radius ratio", of_prefix=True),
        Measure("p_value", "voids", "p of the radius ratio", low=True, of_prefix=True,
                compared=False),
        Measure("auroc", "gain", "AUROC of ρ, withheld recipes", of_prefix=True),
        Measure("voids", "voids", "voids", of_prefix=True),
        Measure("yield", "voids", "yield of the void arm", of_prefix=True),
        Measure("valid", "voids", "valid, of texts from voids", of_prefix=True),
        Measure("void_new", "voids", "new texts from voids", of_prefix=True),
        Measure("withheld", "voids", "withheld recipes among texts from voids", of_prefix=True),
    )
}  # fmt: skip
COLLAPSED = 0.05  # a variance below this: hardly any two vectors differ
OF_WITHHELD = ("auroc", "withheld")  # for corpora that withhold something


def of_part(part: str) -> tuple[str, ...]:
    """The measures of a part."""
    return tuple(name for name, measure in MEASURES.items() if measure.part == part)


def is_low(name: str) -> bool:
    """Whether less of it is better."""
    return MEASURES[name].low


def name_of(measure: str) -> str:
    """As a reader knows it."""
    return MEASURES[measure].words


def short(value: object) -> str:
    """A value as it stands in a table's cell."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)
