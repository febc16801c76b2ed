"""The rotary position embedding (Su et al., arXiv 2104.09864) and its extensions to longer contexts."""

import math

import torch

from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.rope_config import RopeParameters


class Rope:
    """The rotation angles of one model's positions.

    All arithmetic is in float32, as in training: at position 4000 even the last bit of a frequency matters.
    """

    def __init__(self, config: ModelConfig):
        self.parameters = config.rope
        self.trained_length = config.max_position_embeddings
        self.dim = int(config.head_dim * config.rope.partial_rotary_factor)
        self.scale = _attention_factor(config.rope, config.max_position_embeddings)
        self._restarts = config.family.restarts_longrope and config.rope.rope_type == "longrope"

    def tables(self, start: int, count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines for ``count`` positions from ``start`` on, each (count, dim / 2).

        length: positions of the sequence so far, including this sweep's; two of the rope types depend on it.
        """
        positions = torch.arange(start, start + count, dtype=torch.float32)
        angles = positions[:, None] * self.inverse_frequencies(length)
        return angles.cos() * self.scale, angles.sin() * self.scale

    def restarts_at(self, length: int) -> bool:
        """Whether a sequence that reaches this length must be recomputed from its start, with other frequencies."""
        return self._restarts and length == self.parameters.original_max_position_embeddings + 1

    def inverse_frequencies(self, length: int) -> torch.Tensor:
        """Radians per position for each pair of dimensions, (dim / 2,)."""
        settings = self.parameters
        base, exponents = settings.rope_theta, torch.arange(0, self.dim, 2, dtype=torch.float32) / self.dim
        match settings.rope_type:
            case "linear":
                return 1.0 / base**exponents / settings.factor
            case "dynamic":
                return 1.0 / _dynamic_base(settings, self.dim, self.trained_length, length) ** exponents
            case "yarn":
                return _yarn(settings, self.dim, exponents)
            case "llama3":
                return _llama3(settings, 1.0 / base**exponents)
            case "longrope":
                long = length > settings.original_max_position_embeddings
                factors = torch.tensor(settings.long_factor if long else settings.short_factor)
                return 1.0 / (factors * base**exponents)
            case _:
                return 1.0 / base**exponents


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates each pair (i, i + dim / 2) of the first ``dim`` components by its angle.

    states: (H, T, head_dim). cos, sin: (T, dim / 2). Returns (H, T, head_dim); components beyond ``dim`` are unchanged.
    """
    half = cos.shape[-1]
    first, second, rest = states[..., :half], states[..., half : 2 * half], states[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


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


def _dynamic_base(settings: RopeParameters, dim: int, trained_length: int, length: int) -> float:
    """NTK-aware scaling: the base grows with the sequence once it is longer than the trained length."""
    growth = settings.factor * max(length, trained_length) / trained_length - (settings.factor - 1)
    return settings.rope_theta * growth ** (dim / (dim - 2))


def _yarn_mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn(settings: RopeParameters, dim: int, exponents: torch.Tensor) -> torch.Tensor:
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
    interpolated = ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    wavelengths = settings.rope_theta**exponents
    return interpolated / (settings.factor * wavelengths) + (1 - interpolated) / wavelengths


def _llama3(settings: RopeParameters, frequencies: torch.Tensor) -> torch.Tensor:
    """Llama 3.1: divides low frequencies by the factor, keeps high ones, and blends those in between."""
    turns = settings.original_max_position_embeddings * frequencies / (2 * math.pi)  # over the original context
    low, high = settings.low_freq_factor, settings.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequencies / settings.factor + kept * frequencies
