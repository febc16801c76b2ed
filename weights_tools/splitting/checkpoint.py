"""A Hugging Face checkpoint on disk, read lazily and strictly."""

import errno
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.kernels.formats import TILE, Format
from tpi_mpi.kernels.packing import Rows
from tpi_mpi.model import names
from tpi_mpi.model.blocks import sources_of
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.pages import fetch, reason
from weights_tools.splitting.checkpoint_config import read_config
from weights_tools.splitting.conversion import rows_of

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Buffers that old releases of transformers saved, though they follow from config.json.
_IGNORED_SUFFIXES = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")

# About how many weights of a tensor are read at a time.
_PIECE = 8 * 1024**2


def rows_at_once(width: int) -> int:
    """How many rows of this width are read at a time: whole tiles, so that no writer waits for the rest of one."""
    return max(1, _PIECE // width // TILE) * TILE


class Checkpoint:
    """The tensors of a checkpoint directory.

    Raises UserError, on construction, unless the directory holds exactly what its config.json promises.

    ignored_keys: keys of config.json to ignore, although it is not known what they mean.
    config: its config.json. name: the directory's name.
    shapes, formats: of every tensor that the model needs, by name.
    """

    def __init__(self, directory: Path, ignored_keys: Collection[str] = ()):
        self.config = read_config(directory, ignored_keys)
        self.directory = directory
        self.ignored_keys = tuple(ignored_keys)
        self.name = directory.resolve().name
        self.shapes = sources_of(self.config, Partition.of(self.config, 1))
        self._files = self._locate()
        self.formats: dict[str, Format] = {}
        self._inspect()
        self._check_tied_head()

    def fingerprint(self) -> dict[str, object]:
        """What changes when the files do: their paths, sizes and times of modification."""
        stats = {path: path.stat() for path in set(self._files.values())}
        return {str(path.resolve()): [stat.st_size, stat.st_mtime_ns] for path, stat in sorted(stats.items())}

    def pieces(self, name: str, start: int, stop: int) -> Iterator[Rows]:
        """The rows of a tensor from ``start`` up to but not including ``stop``, some at a time, as views of the file.

        Each call maps the file anew, so that never more than one tensor's pages are in memory. Raises TpiError if the
        disk cannot deliver them.
        """
        path, shape = self._files[name], self.shapes[name]
        width = shape[1] if len(shape) > 1 else 1
        step = rows_at_once(width)
        try:
            with safe_open(path, framework="pt") as file, open(path, "rb") as raw:
                rows, offset = file.get_slice(name), _offset(raw, name)
                for first in range(start, stop, step):
                    _touch(raw, offset)  # the library itself does, when it makes the slice
                    piece = rows[first : min(first + step, stop)]
                    # faster than page faults one by one, and a page that cannot be read is an error, not a signal
                    fetch(piece.data_ptr(), piece.nbytes, raw.fileno(), offset + first * width * piece.itemsize)
                    yield rows_of(piece)
        except (OSError, SafetensorError) as error:
            raise TpiError(f"tensor {name} in {path} cannot be read: {error}") from None

    def _locate(self) -> dict[str, Path]:
        """The file that each tensor is in, by the tensor's name."""
        index = self.directory / INDEX
        if index.is_file():
            return self._read_index(index)
        single = self.directory / SINGLE
        if single.is_file():
            with _open(single) as file:
                return dict.fromkeys(file.keys(), single)
        if any(self.directory.glob("*.bin")) or any(self.directory.glob("*.pt*")):
            raise UserError(
                f"checkpoint {self.directory} has only pickled weights (.bin), which can run code when they are "
                "read; download its safetensors files, or save it again with transformers"
            )
        raise UserError(f"checkpoint {self.directory} has neither {SINGLE} nor {INDEX}; download its safetensors files")

    def _read_index(self, index: Path) -> dict[str, Path]:
        names = JsonObject.load(index).object("weight_map")
        for name in set(names.values()):
            if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
                raise UserError(
                    f"{index} names the file {name!r}; only files in the checkpoint's own directory are allowed"
                )
            if not (self.directory / name).is_file():
                raise UserError(f"checkpoint {self.directory} lacks {name}, which its index names; download it again")
        return {tensor: self.directory / name for tensor, name in names.items()}

    def _inspect(self) -> None:
        """Compares every file's header with what config.json promises."""
        for path in sorted(set(self._files.values())):
            with _open(path) as file:
                present = set(file.keys())
                for name in [name for name, holder in self._files.items() if holder == path]:
                    if name not in present:
                        raise UserError(f"{path} lacks the tensor {name}, which the index expects in it")
                    self._inspect_tensor(name, file.get_slice(name))
        missing = [name for name in self.shapes if name not in self._files]
        if missing:
            raise UserError(
                f"checkpoint {self.directory} lacks the tensor {missing[0]}"
                f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, which its config.json promises"
            )

    def _inspect_tensor(self, name: str, header) -> None:
        if name not in self.shapes:
            if name.endswith(_IGNORED_SUFFIXES) or self._is_tied_head(name):
                return
            raise UserError(
                f"checkpoint {self.directory} has the tensor {name}, which is not understood for "
                f"{self.config.model_type}; the result would be wrong without it"
            )
        shape, dtype = tuple(header.get_shape()), header.get_dtype()
        if shape != self.shapes[name]:
            raise UserError(f"tensor {name} has shape {shape}, but config.json promises {self.shapes[name]}")
        if dtype not in _DTYPES:
            raise UserError(f"tensor {name} has dtype {dtype}; the supported ones are {', '.join(_DTYPES)}")
        self.formats[name] = Format(_DTYPES[dtype])

    def _is_tied_head(self, name: str) -> bool:
        return name == names.weight_of(names.LM_HEAD) and self.config.tie_word_embeddings

    def _check_tied_head(self) -> None:
        """A tied checkpoint may hold an output head as well, but only if that equals the embedding."""
        head, embedding = names.weight_of(names.LM_HEAD), f"model.{names.weight_of(names.EMBED_TOKENS)}"
        path = self._files.get(head)
        if path is None or not self._is_tied_head(head):
            return
        with _open(path) as file:
            shape = tuple(file.get_slice(head).get_shape())
        same = shape == self.shapes[embedding]
        if same:
            self.shapes[head] = shape
            pairs = zip(*(self.pieces(name, 0, shape[0]) for name in (head, embedding)), strict=True)
            same = all(np.array_equal(one.values, other.values) for one, other in pairs)
            del self.shapes[head]
        if not same:
            raise UserError(
                f"checkpoint {self.directory} ties its output head to the embedding, but holds another "
                f"{head}; set tie_word_embeddings to false in its config.json to use both"
            )


def _offset(file: BinaryIO, name: str) -> int:
    """The offset in bytes of a tensor in a safetensors file whose header has been checked."""
    length, header = _header(file)
    return 8 + length + json.loads(header)[name]["data_offsets"][0]


def _header(file: BinaryIO) -> tuple[int, bytes]:
    """The length of a safetensors file's header, and the header, as far as the file has it. Raises OSError."""
    length = int.from_bytes(file.read(8), "little")
    return length, file.read(min(length, os.fstat(file.fileno()).st_size))


def _touch(file: BinaryIO, offset: int) -> None:
    """Raises OSError where the page at an offset cannot be read."""
    if not os.pread(file.fileno(), 1, offset):
        raise OSError(errno.EFAULT, reason(errno.EFAULT))


def _open(path: Path):
    try:
        with open(path, "rb") as file:
            _header(file)  # what the library maps cannot be a bad page then
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); download it again") from None
