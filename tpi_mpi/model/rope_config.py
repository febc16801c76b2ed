"""The rotary embedding's settings, in either of the forms that config.json files use."""

from collections.abc import Mapping
from dataclasses import dataclass

from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.model.families import Family


@dataclass(frozen=True)
class RopeParameters:
    """One model's settings, named as in rope_parameters of config.json."""

    rope_type: str = "default"
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 1.0
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None


# rope_type -> (keys it needs, keys it may have)
_KEYS = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (("factor",), ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")),
    "longrope": (("short_factor", "long_factor"), ("factor", "attention_factor")),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ()),
}
_COMMON = ("rope_theta", "partial_rotary_factor")
_ORIGINAL = "original_max_position_embeddings"
_NAMES = ("rope_type", "type")
_INERT = ("finetuned",)
_LISTS = ("short_factor", "long_factor")


def read_rope(config: JsonObject, family: Family, head_dim: int) -> RopeParameters:
    """Reads the settings from a config.json whose family's defaults are filled in.

    They are either in rope_parameters, or in rope_scaling, rope_theta and others at the top level.
    Raises UserError for any setting that is not understood.
    """
    given = {
        key: value
        for key, value in (config.object("rope_scaling") or config.object("rope_parameters")).items()
        if value is not None
    }
    rope_type = _rope_type(config, family, given)
    needed, optional = _KEYS[rope_type]
    for key in given:
        if key not in (*needed, *optional, *_COMMON, _ORIGINAL, *_NAMES, *_INERT):
            config.refuse(f"has {key!r} in its rope settings, which is not understood for rope_type {rope_type}")
    values = {key: config.get(key) for key in _COMMON if config.get(key) is not None}
    values |= {key: given[key] for key in (*needed, *optional, *_COMMON) if key in given}
    if needed:
        values[_ORIGINAL] = _original_positions(config, given)
    return _checked(JsonObject(values, f"{config.origin} (rope settings)"), rope_type, needed, family, head_dim)


def _rope_type(config: JsonObject, family: Family, given: Mapping[str, object]) -> str:
    written = given.get("rope_type", given.get("type", "default"))
    renamed = family.rope_renames.get(written, written) if isinstance(written, str) else written
    return JsonObject({"rope_type": renamed}, config.origin).choice("rope_type", _KEYS)


def _original_positions(config: JsonObject, given: Mapping[str, object]) -> object:
    """The trained length: the top level takes precedence over the rope settings."""
    candidates = (config.get(_ORIGINAL), given.get(_ORIGINAL), config.get("max_position_embeddings"))
    return next((value for value in candidates if value is not None), None)


def _checked(
    keys: JsonObject, rope_type: str, needed: tuple[str, ...], family: Family, head_dim: int
) -> RopeParameters:
    values = {key: keys.number(key) for key in {*needed, *keys.values} - {*_LISTS, "truncate", _ORIGINAL}}
    partial = values.get("partial_rotary_factor", 1.0)
    if partial > 1 or (partial != 1 and "partial_rotary_factor" not in family.defaults):
        keys.refuse(f"has partial_rotary_factor {partial}, which this model_type does not support")
    if int(head_dim * partial) % 2:
        keys.refuse(f"would turn {int(head_dim * partial)} numbers of each head, which come in pairs")
    values |= {key: keys.numbers(key, int(head_dim * partial) // 2) for key in _LISTS if key in needed}
    if _ORIGINAL in keys.values:
        values[_ORIGINAL] = keys.positive(_ORIGINAL)
    if "truncate" in keys.values:
        values["truncate"] = keys.flag("truncate")
    return RopeParameters(rope_type=rope_type, **values)
