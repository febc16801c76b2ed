"""What is in a directory of slabs, for people and for programs."""

from collections import Counter
from pathlib import Path

from tpi_mpi.common.units import format_size
from tpi_mpi.weights.slabs.directory import Manifest, slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from tpi_mpi.weights.slabs.slab import Slab


def describe(directory: Path) -> dict:
    """Everything that is shown, fit for JSON. Slabs that are not on this machine are left out.

    Raises UserError if there are none, or one is damaged.
    """
    manifest = Manifest.load(directory)
    paths = [slab_path(directory, rank) for rank in range(manifest.ranks)]
    slabs = [read_slab(path) for path in paths if path.exists()] or [read_slab(paths[0])]
    config = slabs[0].config
    return {
        "model": manifest.model,
        "model_type": config.model_type,
        "dtype": manifest.dtype,
        "formats": dict(slabs[0].formats),
        "source_digest": manifest.source_digest,
        "ignored_keys": manifest.ignored_keys,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "world_size": manifest.ranks,
        "ranks": [_rank(slab) for slab in slabs],
    }


def _rank(slab: Slab) -> dict:
    partition = slab.partition
    return {
        "rank": slab.rank,
        "heads": partition.heads[slab.rank],
        "kv_heads": partition.kv_heads(slab.rank),
        "columns": partition.columns[slab.rank],
        "bytes": slab.nbytes,
        "blocks": {name: extent.nbytes for name, extent in slab.blocks.items()},
    }


def table(what: dict) -> str:
    """The description as a table that people read."""
    lines = [
        f"{what['model']}: {what['model_type']}, {what['layers']} layers, hidden size {what['hidden_size']}, "
        f"vocabulary {what['vocab_size']}, {_formats(what)}, digest {what['source_digest'][:16]}",
        f"{'rank':>4}  {'heads':>9}  {'kv heads':>9}  {'columns':>13}  {'bytes':>12}  blocks",
    ]
    for rank in what["ranks"]:
        heads, kv_heads, columns = (f"{a}-{b - 1}" for a, b in (rank["heads"], rank["kv_heads"], rank["columns"]))
        lines.append(
            f"{rank['rank']:>4}  {heads:>9}  {kv_heads:>9}  {columns:>13}  {format_size(rank['bytes']):>12}  "
            + _blocks(rank["blocks"])
        )
    return "\n".join(lines)


def _formats(what: dict) -> str:
    """``bfloat16`` or, if not everything is stored alike, ``int4 (layers int4 by 32, head int8 by 32, ...)``."""
    formats = what["formats"]
    if set(formats.values()) == {what["dtype"]}:
        return what["dtype"]
    return f"{what['dtype']} ({', '.join(f'{part} {format}' for part, format in formats.items())})"


def _blocks(blocks: dict[str, int]) -> str:
    """How many blocks of each kind and size: ``22 attention of 5.00 MiB, ...``."""
    kinds = Counter((_kind(name), format_size(size)) for name, size in blocks.items())
    return ", ".join(f"{count} {kind} of {size}" for (kind, size), count in kinds.items())


def _kind(name: str) -> str:
    return name.split(".")[-1] if name.startswith("layers.") else name.split(".")[0]
