"""How often experts will be in memory when they are wanted, as long as nobody has measured it."""

_SKEW = 0.5
"""How far choices of experts are from even: 1 if all are chosen alike, and anew for every token."""


def assumed_hit_rate(part: float) -> float:
    """The part of a token's experts that are in memory, where a ``part`` of all experts is: its square root.

    This is an assumption. If routers chose evenly, and anew for every token, it would be the part itself; but some
    experts are chosen more often than others, and a token's are more like those of the token before it, so that what
    was used last is worth more than its part. The root gives 50 % for a quarter of all experts and 71 % for half of
    them, where 40 to 60 % and 65 to 80 % are reported of trained models, and it is right at both ends: with none in
    memory nothing is hit, with all of them everything. Where ``bench`` has measured a rate, give that instead.
    """
    return min(1.0, max(0.0, part)) ** _SKEW
