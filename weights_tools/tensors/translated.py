"""All tensors of a checkpoint, under the names that the model has for them."""

from collections.abc import Mapping

from tpi_mpi.common.errors import UserError, say
from tpi_mpi.model.config import ModelConfig
from weights_tools.tensors.rules import RULES, as_it_is
from weights_tools.tensors.stored import Stored

# Families whose checkpoints have layers after the last that guess further tokens, and the key with their number.
_GUESSING = ("glm4_moe",)
_FURTHER_LAYERS = "num_nextn_predict_layers"


def translated(config: ModelConfig, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Nothing is left out but layers that only guess further tokens, which is said.

    tensors: by the names that they have in the files.
    Raises UserError for a tensor that is there twice, or whose shape is none that its family has.
    """
    rule = RULES.get(config.model_type, as_it_is)
    found: dict[str, Stored] = {}
    for stored in _without_guesses(config, tensors).values():
        for name, own in rule(stored, config):
            if name in found:
                raise UserError(f"the checkpoint has {name} twice, as {found[name].name} and {own.name}; remove one")
            found[name] = own
    return found


def _without_guesses(config: ModelConfig, tensors: Mapping[str, Stored]) -> Mapping[str, Stored]:
    count = config.keys.get(_FURTHER_LAYERS)
    if config.model_type not in _GUESSING or not isinstance(count, int):
        return tensors
    prefixes = tuple(f"model.layers.{config.num_hidden_layers + index}." for index in range(count))
    kept = {name: stored for name, stored in tensors.items() if not name.startswith(prefixes)}
    if len(kept) < len(tensors):
        say(
            f"{len(tensors) - len(kept)} tensors of {prefixes[0]}* are left out: "
            f"that layer guesses further tokens ({_FURTHER_LAYERS}), which is not done here"
        )
    return kept
