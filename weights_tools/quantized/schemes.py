"""The config_groups of compressed-tensors: how the modules of some targets are stored."""

import re
from dataclasses import dataclass

from tpi_mpi.model import names
from weights_tools.quantized.section import Section
from weights_tools.quantized.sharing import Sharing

_PATTERN = "re:"
# The types of numbers in each format.
_FORMATS = {
    "pack-quantized": ("int",),
    "int-quantized": ("int",),
    "float-quantized": ("float",),
    "naive-quantized": ("int", "float"),
}
_STRATEGIES = {"int": ("channel", "group"), "float": ("tensor", "channel", "group", "block")}
_MIXED = "mixed-precision"
_WEIGHTS = ("num_bits", "type", "symmetric", "strategy", "group_size", "block_structure", "actorder")
# How the codes were found; the files show what came of it.
_INERT_WEIGHTS = ("observer", "observer_kwargs", "scale_dtype", "zp_dtype")
# In what order inputs were quantized, and which of the orders leave them dealt to groups.
_ORDERS = ("group", "dynamic", "weight", "static")
_DEALT = _ORDERS[:2]
# What is done to activations is not done here.
_ACTIVATIONS = ("input_activations", "output_activations")


@dataclass(frozen=True)
class Scheme:
    """How the modules of some targets are stored.

    targets: names of modules, ``re:`` patterns of such, or classes. packed: whether codes are packed into words.
    dtype: int4, int8 or float8. symmetric: whether there are no zero points. dealt: whether inputs may be in any order
    of groups.
    """

    targets: tuple[str, ...]
    packed: bool
    dtype: str
    sharing: Sharing
    symmetric: bool
    dealt: bool

    @property
    def bits(self) -> int:
        return 4 if self.dtype == "int4" else 8

    @classmethod
    def read(cls, group: Section, format: str | None) -> "Scheme | None":
        """One group's; None if its weights are not quantized. format: that of groups that have none of their own.

        Raises UserError if it is not understood.
        """
        group.refuse_unknown({"targets", "weights", "format", *_ACTIVATIONS})
        if not group.get("weights"):
            return None
        format = group.one_of("format", _FORMATS, format)
        if format is None:
            group.refuse(f"has no format; the supported ones are {', '.join(_FORMATS)}")
        weights = group.section("weights")
        weights.refuse_unknown({*_WEIGHTS, *_INERT_WEIGHTS})
        packed = format == "pack-quantized"
        kind = weights.one_of("type", _FORMATS[format], "int")
        bits = weights.bits("num_bits", *((4, 8) if packed else (8,)))
        return cls(
            targets=read_targets(group, "targets"),
            packed=packed,
            dtype="float8" if kind == "float" else f"int{bits}",
            sharing=_sharing(weights, _STRATEGIES[kind]),
            symmetric=weights.switch("symmetric", True),
            dealt=_is_dealt(weights),
        )


def read_schemes(section: Section) -> tuple[Scheme, ...]:
    """All groups'. Raises UserError if there is none."""
    format = section.one_of("format", (*_FORMATS, _MIXED))
    groups = section.section("config_groups")
    found = [Scheme.read(groups.section(name), None if format == _MIXED else format) for name in groups.values]
    schemes = tuple(scheme for scheme in found if scheme)
    if not schemes:
        section.refuse("has no config_groups with weights; nothing says what the codes mean")
    return schemes


def read_targets(section: Section, key: str) -> tuple[str, ...]:
    """A list of targets; empty if absent. Raises UserError if a pattern is not one."""
    targets = section.texts(key)
    for target in targets:
        try:
            re.compile(target.removeprefix(_PATTERN) if target.startswith(_PATTERN) else "")
        except re.error as error:
            section.refuse(f"has {target!r} among its {key}, which is no regular expression: {error}")
    return targets


def _sharing(weights: Section, strategies: tuple[str, ...]) -> Sharing:
    size = weights.get("group_size")
    implied = "tensor" if size is None else "channel" if size == -1 else "group"
    match weights.one_of("strategy", strategies, implied):
        case "tensor":
            return Sharing(0, 0)
        case "channel":
            return Sharing(1, 0)
        case "group":
            return weights.group("group_size")
        case _:
            return weights.block("block_structure")


def _is_dealt(weights: Section) -> bool:
    order = weights.get("actorder")
    return order if isinstance(order, bool) else weights.one_of("actorder", _ORDERS) in _DEALT


def _is_name(target: str, module: str) -> bool:
    return target == module


def _is_pattern(target: str, module: str) -> bool:
    return target.startswith(_PATTERN) and re.match(target.removeprefix(_PATTERN), module) is not None


def _is_class(target: str, module: str) -> bool:
    return target == ("Embedding" if module.endswith(names.EMBED_TOKENS) else "Linear")


# The kinds of targets, the most exact one first.
_KINDS = (_is_name, _is_pattern, _is_class)


def most_exact(module: str, schemes: tuple[Scheme, ...]) -> Scheme | None:
    """The scheme that has the module among its targets: by name, else by a pattern, else by class."""
    for matches in _KINDS:
        for scheme in schemes:
            if any(matches(target, module) for target in scheme.targets):
                return scheme
    return None


def is_target(module: str, targets: tuple[str, ...]) -> bool:
    """Whether the module is one of the targets, of whatever kind."""
    return any(matches(target, module) for matches in _KINDS for target in targets)
