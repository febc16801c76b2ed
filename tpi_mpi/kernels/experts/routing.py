"""How a router chooses among experts: what config.json says of it."""

from dataclasses import dataclass
from typing import Literal

ROUTER, ROUTER_OPTIONS = ("norm", "router"), ("bias", "correction")
"""The order of a router's tensors, and of those that it need not have, after them."""

Scoring = Literal["softmax", "sigmoid", "softmax of chosen"]


@dataclass(frozen=True)
class Routing:
    """How a router chooses among experts, and how much each chosen one counts.

    experts: how many there are. top_k: how many of them a row is given to.
    scoring: an expert's score is its part of the softmax over all logits, or the sigmoid of its logit; or the logits
        themselves decide, and the softmax is over the chosen ones alone.
    normalised: whether the shares of the chosen ones are divided by their sum. scale: the factor on them after that.
    """

    experts: int
    top_k: int
    scoring: Scoring
    normalised: bool = True
    scale: float = 1.0
