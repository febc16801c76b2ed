"""One object of a quantization_config, read strictly."""

from collections.abc import Collection
from typing import TypeVar

from tpi_mpi.common.json_object import JsonObject, shorten
from weights_tools.quantized.sharing import Sharing

Value = TypeVar("Value", str, int)

_EXCLUDED = ("modules_to_not_convert", "ignored_layers")
# Keys that say how the codes were found, which modules they were found for (the files show that), or how other programs
# are to multiply with them.
_INERT = frozenset(
    """
    act_group_aware amp autoround_version backend batch_size block_name_to_quantize cache_block_outputs
    damp_auto_increment damp_percent data_type dataset disable_exllama do_fuse enable_minmax_tuning
    enable_quanted_input exllama_config fuse_max_seq_len gradient_accumulate_steps iters lm_head low_gpu_mem_usage lr
    max_input_length meta method minmax_lr model_file_base_name model_name_or_path model_seqlen
    module_name_preceding_first_block modules_in_block_to_quantize modules_to_fuse mse nsamples offload_to_disk
    pad_token_id quant_method scale_dtype seqlen static_groups sym to_quant_block_names tokenizer train_bs
    true_sequential use_cuda_fp16 use_exllama version zero_point
    """.split()
)


class Section(JsonObject):
    """Every value is checked as it is read; a wrong one raises UserError."""

    @property
    def excluded(self) -> tuple[str, ...]:
        """The names of modules that are not quantized."""
        return tuple(name for key in _EXCLUDED for name in self.texts(key))

    def refuse_unknown(self, understood: Collection[str]) -> None:
        """Raises UserError if another key has a value that might change what the codes mean."""
        for key, value in self.values.items():
            if value and key not in understood and key not in _INERT and key not in _EXCLUDED:
                self.refuse(f"has the key {key!r} = {shorten(value)}, which is not understood; use another checkpoint")

    def either(self, key: str, older: str) -> str:
        """The older name of a key if only that is there, otherwise the newer."""
        return older if older in self.values and key not in self.values else key

    def one_of(self, key: str, choices: Collection[Value], default: Value | None = None) -> Value | None:
        """One of the choices, in small letters; the default if there is no such key."""
        value = self.get(key)
        if value is None:
            return default
        value = value.lower() if isinstance(value, str) else value
        if isinstance(value, bool) or value not in list(choices):
            self.refuse(f"has {key} {shorten(value)}; the supported ones are {', '.join(map(str, choices))}")
        return value

    def bits(self, key: str, *choices: int) -> int:
        if self.get(key) is None:
            self.refuse(f"has no {key}; the supported ones are {', '.join(map(str, choices))}")
        return self.one_of(key, choices)

    def switch(self, key: str, default: bool = False) -> bool:
        """True or false; the default if there is no such key."""
        return default if self.get(key) is None else self.flag(key)

    def group(self, key: str) -> Sharing:
        """Groups of so many consecutive inputs; -1 for all of them."""
        return Sharing.group(0 if self.get(key) == -1 else self.positive(key))

    def block(self, key: str) -> Sharing:
        """Blocks of so many rows and columns: a list, or a text such as 128x128."""
        value = self.get(key)
        sizes = value.lower().split("x") if isinstance(value, str) else value
        if not isinstance(sizes, list) or len(sizes) != 2 or not all(str(size).isdecimal() for size in sizes):
            self.refuse(f"has {key} = {shorten(value)}; two whole numbers are needed")
        rows, columns = map(int, sizes)
        if not (rows and columns):
            self.refuse(f"has {key} = {shorten(value)}; two positive numbers are needed")
        return Sharing(rows, columns)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty if absent."""
        value = self.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            self.refuse(f"has {key} = {shorten(value)}; a list of names is needed")
        return tuple(value or ())

    def section(self, key: str) -> "Section":
        """A nested object; empty if absent."""
        return Section(self.object(key), f"{key} in {self.origin}")


def is_among(module: str, names: Collection[str]) -> bool:
    """Whether one of the names is the module's, or a run of whole parts of it."""
    return any(f".{name}." in f".{module}." for name in names)
