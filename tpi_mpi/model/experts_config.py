"""What config.json says of a mixture of experts: one function for each family that has one."""

from dataclasses import dataclass

from tpi_mpi.common.json_object import JsonObject, shorten
from tpi_mpi.kernels.experts.routing import Routing


@dataclass(frozen=True)
class Experts:
    """The experts of a model.

    routing: how rows are dealt to them. width: columns of each. layers: per layer, whether it has experts; the others
        have an ordinary feed-forward block.
    shared_width: columns of the expert that every row goes through besides; 0 if there is none.
    biases: whether routers and experts carry biases. correction: whether routers correct their scores for the choice.
    """

    routing: Routing
    width: int
    layers: tuple[bool, ...]
    shared_width: int = 0
    biases: bool = False
    correction: bool = False

    @property
    def count(self) -> int:
        return self.routing.experts


def no_experts(keys: JsonObject) -> None:
    """All layers are dense."""
    return None


def mixtral_experts(keys: JsonObject) -> Experts:
    return Experts(_routing(keys, "num_local_experts", "softmax"), keys.positive("intermediate_size"), _every(keys))


def qwen3_moe_experts(keys: JsonObject) -> Experts | None:
    """The layers of mlp_only_layers are dense, and all but every so many."""
    step, dense = keys.positive("decoder_sparse_step"), keys.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(isinstance(layer, int) for layer in dense):
        keys.refuse(f"has mlp_only_layers = {shorten(dense)}; a list of layers is needed")
    layers = tuple(layer not in dense and (layer + 1) % step == 0 for layer in range(len(_every(keys))))
    count = _either(keys, "num_experts", "num_local_experts", 128)
    routing = _routing(keys, count, "softmax", normalised=keys.flag("norm_topk_prob"))
    return Experts(routing, keys.positive("moe_intermediate_size"), layers) if any(layers) else None


def gpt_oss_experts(keys: JsonObject) -> Experts:
    given = keys.get("experts_per_token")
    if given not in (None, keys.get("num_experts_per_tok")):
        keys.refuse(f"has experts_per_token {shorten(given)}, but another num_experts_per_tok; remove the wrong one")
    routing = _routing(keys, "num_local_experts", "softmax of chosen")
    return Experts(routing, keys.positive("intermediate_size"), _every(keys), biases=True)


def glm4_moe_experts(keys: JsonObject) -> Experts | None:
    """The first layers are dense."""
    for key in ("n_group", "topk_group"):
        if keys.positive(key) != 1:
            keys.refuse(f"has {key} {keys.get(key)}; experts in groups are not supported, only 1")
    dense = keys.whole("first_k_dense_replace")
    layers = tuple(layer >= dense for layer in range(len(_every(keys))))
    count = _either(keys, "n_routed_experts", "num_local_experts", 128)
    scale = keys.number("routed_scaling_factor")
    routing = _routing(keys, count, "sigmoid", normalised=keys.flag("norm_topk_prob"), scale=scale)
    width = keys.positive("moe_intermediate_size")
    shared = width * keys.whole("n_shared_experts")
    return Experts(routing, width, layers, shared, correction=True) if any(layers) else None


def _routing(keys: JsonObject, count: str | int, scoring: str, **others) -> Routing:
    experts, top_k = keys.positive(count) if isinstance(count, str) else count, keys.positive("num_experts_per_tok")
    if top_k > experts:
        keys.refuse(f"has num_experts_per_tok {top_k}, but only {experts} experts")
    return Routing(experts, top_k, scoring, **others)


def _either(keys: JsonObject, key: str, other: str, default: int) -> int:
    """The number under one of two keys, the second of which transformers 5 writes."""
    found = {keys.positive(name) for name in (key, other) if keys.get(name) is not None}
    if len(found) > 1:
        keys.refuse(f"has {key} {keys.get(key)}, but {other} {keys.get(other)}; remove the wrong one")
    return found.pop() if found else default


def _every(keys: JsonObject) -> tuple[bool, ...]:
    return (True,) * keys.positive("num_hidden_layers")
