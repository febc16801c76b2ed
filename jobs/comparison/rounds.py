"""Figures of several rounds, in each of which every program ran in turn."""

import statistics
from collections.abc import Sequence


def spread(own: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Of figures of several rounds, and their ratio to those of another program in the same rounds."""
    ratio = statistics.median(mine / theirs for mine, theirs in zip(own, others, strict=True))
    return {"median": statistics.median(own), "least": min(own), "most": max(own), "ratio": ratio}


def show_spread(figure: dict[str, float]) -> str:
    return "{median:.1f} ({least:.1f} to {most:.1f})".format(**figure)
