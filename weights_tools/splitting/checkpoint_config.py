"""The config.json of a checkpoint, read before its tensors: its mistakes need not wait for torch."""

from collections.abc import Collection
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.model.config import ModelConfig
from weights_tools.quantized.quantization import read_method


def read_config(checkpoint: Path, ignored_keys: Collection[str] = ()) -> ModelConfig:
    """Raises UserError if ``checkpoint`` is not a directory, or its config.json is not understood.

    ignored_keys: keys of config.json that the user says change nothing.
    """
    if not checkpoint.is_dir():
        raise UserError(f"checkpoint {checkpoint} is not a directory; give the one that holds config.json")
    path = checkpoint / "config.json"
    config = ModelConfig.load(path, ignored_keys)
    read_method(config.keys, str(path))
    return config
