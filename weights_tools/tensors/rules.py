"""How the checkpoints of each family differ from the names and shapes in which the model knows its tensors."""

import re
from collections.abc import Callable, Iterator

from tpi_mpi.common.errors import UserError
from tpi_mpi.model.config import ModelConfig
from weights_tools.tensors.slices import slice_of
from weights_tools.tensors.stored import Stored

Rule = Callable[[Stored, ModelConfig], Iterator[tuple[str, Stored]]]
"""What a tensor of a checkpoint is to the model: tensors by name."""

_LAYER = r"(model\.layers\.\d+)"


def as_it_is(stored: Stored, config: ModelConfig) -> Iterator[tuple[str, Stored]]:
    yield stored.name, stored


_MIXTRAL_ROUTER = re.compile(rf"{_LAYER}\.block_sparse_moe\.gate\.(.+)")
_MIXTRAL_EXPERT = re.compile(rf"{_LAYER}\.block_sparse_moe\.experts\.(\d+)\.(w[123])\.(.+)")
_MIXTRAL_PROJECTIONS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def mixtral(stored: Stored, config: ModelConfig) -> Iterator[tuple[str, Stored]]:
    """Names of its own, of quantized tensors too."""
    name = stored.name
    if found := _MIXTRAL_ROUTER.fullmatch(name):
        name = f"{found[1]}.mlp.gate.{found[2]}"
    elif found := _MIXTRAL_EXPERT.fullmatch(name):
        name = f"{found[1]}.mlp.experts.{found[2]}.{_MIXTRAL_PROJECTIONS[found[3]]}.{found[4]}"
    yield name, stored


_GPT_OSS_ROUTER = re.compile(rf"{_LAYER}\.mlp\.router\.(weight|bias)")
_GPT_OSS_EXPERTS = re.compile(rf"{_LAYER}\.mlp\.experts\.(gate_up_proj|down_proj)(|_bias|_blocks|_scales)")
# For each kind of a tensor of all experts: what it is called of one of them, and how many axes it has.
_GPT_OSS_KINDS = {"": ("weight", 3), "_bias": ("bias", 2), "_blocks": ("blocks", 4), "_scales": ("scales", 3)}
# The projections of a fused one, whose outputs take turns.
_GPT_OSS_PROJECTIONS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def gpt_oss(stored: Stored, config: ModelConfig) -> Iterator[tuple[str, Stored]]:
    """A tensor has all experts, with gate and up interleaved; only weights in floats are (inputs, outputs)."""
    if found := _GPT_OSS_ROUTER.fullmatch(stored.name):
        yield f"{found[1]}.mlp.gate.{found[2]}", stored
    elif found := _GPT_OSS_EXPERTS.fullmatch(stored.name):
        kind, axes = _GPT_OSS_KINDS[found[3]]
        _check_experts(stored, axes, config.experts.count)
        projections = _GPT_OSS_PROJECTIONS[found[2]]
        for expert in range(config.experts.count):
            for first, projection in enumerate(projections):
                own = slice_of(stored, expert, kind == "weight", first, len(projections))
                yield f"{found[1]}.mlp.experts.{expert}.{projection}.{kind}", own
    else:
        yield stored.name, stored


def _check_experts(stored: Stored, axes: int, experts: int) -> None:
    if len(stored.shape) != axes or stored.shape[0] != experts:
        raise UserError(
            f"tensor {stored.name} has shape {stored.shape}, but config.json promises {experts} experts and {axes} axes"
        )


RULES: dict[str, Rule] = {"mixtral": mixtral, "gpt_oss": gpt_oss}
"""By model_type; the checkpoints of all others have the model's names."""
