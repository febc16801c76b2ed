"""How slots are divided: among the layers, for what stays, and what remains for experts that do not."""

from collections.abc import Mapping, Sequence

from tpi_mpi.weights.experts.sizes import ExpertSizes


def shares(slots: int, layers: Sequence[int], sizes: ExpertSizes) -> Mapping[int, int]:
    """By layer, how many experts stay in memory.

    Some slots are nobody's share: there, experts are read that will not stay; of as many as one row is given to, if
    there are enough slots. All others are divided evenly. None are needed where every expert of every layer stays.

    layers: those that have experts.
    """
    if slots >= sizes.most:
        return dict.fromkeys(layers, sizes.count)
    each, more = divmod(max(0, slots - sizes.good), len(layers))
    return {layer: each + (place < more) for place, layer in enumerate(layers)}
