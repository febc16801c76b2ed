"""How often experts were in memory, in a report: of the prompt, and of a token."""

from tpi_mpi.weights.experts.counts import Counts


def expert_figures(counts: Counts, sweeps: int, layers: int) -> dict:
    """Averages over sweeps, valid as JSON. layers: that have experts.

    bytes_wanted, bytes_missed: of a sweep. per_layer: experts that a layer wanted in a sweep, each counted once however
    many rows are given to it. guess_rate: the part of the guesses that were right; None if there were none.
    """
    return {
        "bytes_wanted": round(counts.bytes_wanted / sweeps),
        "bytes_missed": round(counts.bytes_missed / sweeps),
        "hit_rate": _rounded(counts.hit_rate),
        "per_layer": round(counts.wanted / (sweeps * layers), 2),
        "guessed": counts.guessed,
        "guess_rate": _rounded(counts.guess_rate),
    }


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 4)
