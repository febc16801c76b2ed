"""The rotary position embedding (Su et al., arXiv 2104.09864) and its extensions to longer contexts."""

import math
from collections.abc import Sequence

import numpy as np

from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.rope_config import RopeParameters


class Rope:
    """The rotation angles of one model's positions.

    All arithmetic is in float32, as in training: at position 4000 even the last bit of a frequency matters.
    """

    def __init__(self, config: ModelConfig):
        self.parameters = config.rope
        self.trained_length = config.max_position_embeddings
        self.dim = rotated_size(config)
        self.scale = np.float32(_attention_factor(config.rope, config.max_position_embeddings))
        self._restarts = config.family.restarts_longrope and config.rope.rope_type == "longrope"
        self._frequencies: tuple[int, np.ndarray] = (-1, np.empty(0, np.float32))  # and the length that they are for

    def tables(
        self, starts: Sequence[int], counts: Sequence[int], lengths: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines for some segments, each of ``count`` positions from ``start`` on: (rows, dim / 2) in all.

        lengths: positions of each segment's sequence so far, including all that are computed in the same sweep; two of
            the rope types depend on it.
        """
        starts, counts = np.asarray(starts), np.asarray(counts)
        positions = np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
        if len({self.kind(length) for length in lengths}) == 1:
            frequencies = self.inverse_frequencies(lengths[0])
        else:
            frequencies = np.repeat([self.inverse_frequencies(length) for length in lengths], counts, axis=0)
        angles = positions.astype(np.float32)[:, None] * frequencies
        return np.cos(angles) * self.scale, np.sin(angles) * self.scale

    def restarts_at(self, length: int) -> bool:
        """Whether a sequence that reaches this length must be recomputed from its start, with other frequencies."""
        return self._restarts and length == self.parameters.original_max_position_embeddings + 1

    def inverse_frequencies(self, length: int) -> np.ndarray:
        """Radians per position for each pair of dimensions, (dim / 2,)."""
        representative = self.kind(length)
        if self._frequencies[0] != representative:
            self._frequencies = representative, self._computed(representative)
        return self._frequencies[1]

    def kind(self, length: int) -> int:
        """A number for the frequencies of a length: a length with the same ones, the same for as many as possible."""
        match self.parameters.rope_type:
            case "dynamic":
                return max(length, self.trained_length)
            case "longrope":
                original = self.parameters.original_max_position_embeddings
                return original + (length > original)
            case _:
                return 0

    def _computed(self, length: int) -> np.ndarray:
        settings = self.parameters
        base = np.float32(settings.rope_theta)
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        match settings.rope_type:
            case "linear":
                return 1 / base**exponents / np.float32(settings.factor)
            case "dynamic":
                return 1 / _dynamic_base(settings, self.dim, self.trained_length, length) ** exponents
            case "yarn":
                return _yarn(settings, self.dim, exponents)
            case "llama3":
                return _llama3(settings, 1 / base**exponents)
            case "longrope":
                long = length > settings.original_max_position_embeddings
                factors = np.array(settings.long_factor if long else settings.short_factor, np.float32)
                return 1 / (factors * base**exponents)
            case _:
                return 1 / base**exponents


def rotated_size(config: ModelConfig) -> int:
    """The numbers of a head that turn with the position: the first so many."""
    return int(config.head_dim * config.rope.partial_rotary_factor)


def _attention_factor(settings: RopeParameters, trained_length: int) -> float:
    """The factor on cosines and sines that keeps attention as sharp over a longer context."""
    if settings.attention_factor is not None:
        return settings.attention_factor
    if settings.rope_type == "yarn":
        if settings.mscale and settings.mscale_all_dim:
            return _yarn_mscale(settings.factor, settings.mscale) / _yarn_mscale(
                settings.factor, settings.mscale_all_dim
            )
        return _yarn_mscale(settings.factor, 1.0)
    if settings.rope_type == "longrope":
        original = settings.original_max_position_embeddings
        factor = settings.factor or trained_length / original
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return 1.0


def _dynamic_base(settings: RopeParameters, dim: int, trained_length: int, length: int) -> np.float32:
    """NTK-aware scaling: the base grows with the sequence once it is longer than the trained length."""
    growth = settings.factor * max(length, trained_length) / trained_length - (settings.factor - 1)
    return np.float32(settings.rope_theta * growth ** (dim / (dim - 2)))


def _yarn_mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn(settings: RopeParameters, dim: int, exponents: np.ndarray) -> np.ndarray:
    """YaRN (Peng et al., arXiv 2309.00071): interpolates slow dimensions, keeps fast ones, with a ramp in between."""

    def dimension_turning(rotations: float) -> float:
        """The dimension that makes this many rotations over the original context."""
        context = settings.original_max_position_embeddings
        return dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(settings.rope_theta))

    low, high = dimension_turning(settings.beta_fast or 32.0), dimension_turning(settings.beta_slow or 1.0)
    if settings.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low or 0.001
    interpolated = ((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width)).clip(0, 1)
    wavelengths = np.float32(settings.rope_theta) ** exponents
    return interpolated / (np.float32(settings.factor) * wavelengths) + (1 - interpolated) / wavelengths


def _llama3(settings: RopeParameters, frequencies: np.ndarray) -> np.ndarray:
    """Llama 3.1: divides low frequencies by the factor, keeps high ones, and blends those in between."""
    # over the original context
    turns = np.float32(settings.original_max_position_embeddings) * frequencies / np.float32(2 * math.pi)
    low, high = settings.low_freq_factor, settings.high_freq_factor
    kept = ((turns - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    return (1 - kept) * frequencies / np.float32(settings.factor) + kept * frequencies
