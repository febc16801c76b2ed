"""A Hugging Face checkpoint on disk, read lazily and strictly."""

import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.packing import Rows
from tpi_mpi.model import names
from tpi_mpi.model.blocks import sources_of
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.pages import fetch, reason
from weights_tools.common.pieces import rows_at_once
from weights_tools.quantized.quantization import Quantization
from weights_tools.splitting.checkpoint_config import read_config
from weights_tools.splitting.conversion import rows_of
from weights_tools.tensors.stored import Stored, stored_tensors
from weights_tools.tensors.translated import translated

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Buffers that old releases of transformers saved, though they follow from config.json.
_IGNORED_SUFFIXES = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


class Checkpoint:
    """The tensors of a checkpoint directory.

    Raises UserError, on construction, unless the directory holds exactly what its config.json promises.

    ignored_keys: keys of config.json to ignore, although it is not known what they mean.
    config: its config.json. name: the directory's name.
    shapes, formats: of every tensor that the model needs, by name. quantization: what of them is quantized already;
        such a tensor's format is the one that holds it exactly.
    """

    def __init__(self, directory: Path, ignored_keys: Collection[str] = ()):
        self.config = read_config(directory, ignored_keys)
        self.directory = directory
        self.ignored_keys = tuple(ignored_keys)
        self.name = directory.resolve().name
        self.shapes = sources_of(self.config, Partition.of(self.config, 1))
        self._tensors = translated(self.config, self._locate())
        self.quantization = Quantization.of(self.config.keys, self.shapes, self._tensors)
        self._inspect()
        self._check_tied_head()
        self.formats = {name: self._format(name) for name in self.shapes}

    def fingerprint(self) -> dict[str, object]:
        """What changes when the files do: their paths, sizes and times of modification."""
        stats = {path: path.stat() for path in {stored.path for stored in self._tensors.values()}}
        return {str(path.resolve()): [stat.st_size, stat.st_mtime_ns] for path, stat in sorted(stats.items())}

    def pieces(self, name: str, start: int, stop: int) -> Iterator[Rows]:
        """The rows of a tensor from ``start`` up to but not including ``stop``, some at a time.

        Never more than one tensor, or one expert's part of it, is in memory. Raises TpiError if the disk cannot
        deliver it.
        """
        if name in self.quantization.matrices:
            return self.quantization.matrices[name].pieces(start, stop)
        stored = self._tensors[name]
        # to open a file takes longer than to read one of its hundreds of experts
        return stored.pieces(start, stop) if names.is_expert(name) else self._plain_pieces(stored, start, stop)

    def _plain_pieces(self, stored: Stored, start: int, stop: int) -> Iterator[Rows]:
        """Views of the file, which each call maps anew."""
        name, path = stored.name, stored.path
        width = stored.shape[1] if len(stored.shape) > 1 else 1
        step = rows_at_once(width)
        try:
            with safe_open(path, framework="pt") as file, open(path, "rb") as raw:
                rows, offset = file.get_slice(name), stored.offset
                for first in range(start, stop, step):
                    _touch(raw, offset)  # the library itself does, when it makes the slice
                    piece = rows[first : min(first + step, stop)]
                    # faster than page faults one by one, and a page that cannot be read is an error, not a signal
                    fetch(piece.data_ptr(), piece.nbytes, raw.fileno(), offset + first * width * piece.itemsize)
                    yield rows_of(piece)
        except (OSError, SafetensorError) as error:
            raise TpiError(f"tensor {name} in {path} cannot be read: {error}") from None

    def _format(self, name: str) -> Format:
        if name in self.quantization.matrices:
            return self.quantization.matrices[name].format
        return Format(_DTYPES[self._tensors[name].dtype])

    def _locate(self) -> dict[str, Stored]:
        """Where each tensor is, by its name in the files."""
        index = self.directory / INDEX
        if index.is_file():
            return self._read_index(index)
        single = self.directory / SINGLE
        if single.is_file():
            return _headers(single)
        if any(self.directory.glob("*.bin")) or any(self.directory.glob("*.pt*")):
            raise UserError(
                f"checkpoint {self.directory} has only pickled weights (.bin), which can run code when they are "
                "read; download its safetensors files, or save it again with transformers"
            )
        raise UserError(f"checkpoint {self.directory} has neither {SINGLE} nor {INDEX}; download its safetensors files")

    def _read_index(self, index: Path) -> dict[str, Stored]:
        files = JsonObject.load(index).object("weight_map")
        for name in set(files.values()):
            if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
                raise UserError(
                    f"{index} names the file {name!r}; only files in the checkpoint's own directory are allowed"
                )
            if not (self.directory / name).is_file():
                raise UserError(f"checkpoint {self.directory} lacks {name}, which its index names; download it again")
        headers = {name: _headers(self.directory / name) for name in sorted(set(files.values()))}
        for tensor, name in files.items():
            if tensor not in headers[name]:
                raise UserError(f"{self.directory / name} lacks the tensor {tensor}, which the index expects in it")
        return {tensor: headers[name][tensor] for tensor, name in files.items()}

    def _inspect(self) -> None:
        """Compares the tensors that are not quantized with what config.json promises."""
        for name, stored in self._tensors.items():
            if name not in self.quantization.names:
                self._inspect_tensor(name, stored)
        present = self._tensors.keys() | self.quantization.matrices.keys()
        missing = [name for name in self.shapes if name not in present]
        if missing:
            raise UserError(
                f"checkpoint {self.directory} lacks the tensor {missing[0]}"
                f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, which its config.json promises"
            )

    def _inspect_tensor(self, name: str, stored: Stored) -> None:
        if name not in self.shapes:
            if name.endswith(_IGNORED_SUFFIXES) or self._is_tied_head(name):
                return
            raise UserError(
                f"checkpoint {self.directory} has the tensor {stored.name}, which is not understood for "
                f"{self.config.model_type}; the result would be wrong without it"
            )
        if stored.shape != self.shapes[name]:
            raise UserError(f"tensor {name} has shape {stored.shape}, but config.json promises {self.shapes[name]}")
        if stored.dtype not in _DTYPES:
            raise UserError(f"tensor {name} has dtype {stored.dtype}; the supported ones are {', '.join(_DTYPES)}")

    def _is_tied_head(self, name: str) -> bool:
        return name == names.weight_of(names.LM_HEAD) and self.config.tie_word_embeddings

    def _check_tied_head(self) -> None:
        """A tied checkpoint may hold an output head as well, but only if that equals the embedding."""
        head, embedding = names.weight_of(names.LM_HEAD), f"model.{names.weight_of(names.EMBED_TOKENS)}"
        if head not in self._tensors or not self._is_tied_head(head):
            return
        shape = self.shapes[embedding]
        same = self._tensors[head].shape == shape
        if same:
            pairs = zip(*(self.pieces(name, 0, shape[0]) for name in (head, embedding)), strict=True)
            same = all(np.array_equal(one.values, other.values) for one, other in pairs)
        if not same:
            raise UserError(
                f"checkpoint {self.directory} ties its output head to the embedding, but holds another "
                f"{head}; set tie_word_embeddings to false in its config.json to use both"
            )


def _headers(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, by name. Raises UserError if it is none."""
    with _open(path):  # the library checks the header
        return stored_tensors(path)


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
