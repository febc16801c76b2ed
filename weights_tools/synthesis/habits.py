"""How often a model with experts uses which of them."""

from dataclasses import dataclass

from tpi_mpi.common.errors import UserError
from tpi_mpi.model.config import ModelConfig

DEFAULT_SKEW, DEFAULT_PERSISTENCE, MOST = 0.1, 0.6, 0.95


@dataclass(frozen=True)
class Habits:
    """How a model uses its experts.

    skew: the part of the variance of a router's logits that is the same for all tokens; at 0, all experts are equally
        popular.
    persistence: the correlation of the rest of the logits from one token to the next.
    """

    skew: float = DEFAULT_SKEW
    persistence: float = DEFAULT_PERSISTENCE


def habits_of(config: ModelConfig, skew: float | None, persistence: float | None) -> Habits | None:
    """Those asked for; None for a model without experts, or whose head cannot differ from its embedding.

    Raises UserError for a number that makes no sense, or that such a model has no use for.
    """
    given = {"skew": skew, "persistence": persistence}
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if config.experts is None:
            raise UserError(f"--expert-{key} {value} is for models with experts, which this one has not; leave it out")
        if config.tie_word_embeddings:
            raise UserError(f"--expert-{key} {value} needs an output head of its own; set tie_word_embeddings to false")
        if not 0 <= value <= MOST:
            raise UserError(f"--expert-{key} is {value}; a number from 0 to {MOST} is needed")
    return Habits(**given) if config.experts and not config.tie_word_embeddings else None
