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
    partition, config = slab.partition, slab.config
    return {
        "rank": slab.rank,
        "heads": partition.heads[slab.rank],
        "kv_heads": partition.kv_heads(slab.rank),
        "columns": partition.columns[slab.rank] if config.has_columns else None,
        **({"shared": partition.shared[slab.rank]} if partition.shared else {}),
        "bytes": slab.nbytes,
        "blocks": {name: extent.nbytes for name, extent in slab.blocks.items()},
        **({"experts": _experts(slab)} if slab.experts else {}),
    }


def _experts(slab: Slab) -> dict:
    """Which layers have how many experts, and the fewest and most columns and bytes that the rank has of one."""
    columns = [record.matrices[0].rows for record in slab.records]
    sizes = [record.nbytes for record in slab.records]
    return {
        "layers": list(slab.experts),
        "number": slab.config.experts.count,
        "columns": (min(columns), max(columns)),
        "bytes": (min(sizes), max(sizes)),
    }


# What of the model each rank has a range of: the title of the column, the key, and its width.
_RANGES = (("heads", "heads", 9), ("kv heads", "kv_heads", 9), ("columns", "columns", 13), ("shared", "shared", 11))


def table(what: dict) -> str:
    """The description as a table that people read."""
    ranges = [column for column in _RANGES if column[1] in what["ranks"][0]]
    titles = "  ".join(f"{title:>{width}}" for title, _, width in ranges)
    lines = [
        f"{what['model']}: {what['model_type']}, {what['layers']} layers, hidden size {what['hidden_size']}, "
        f"vocabulary {what['vocab_size']}, {_formats(what)}, digest {what['source_digest'][:16]}",
        f"{'rank':>4}  {titles}  {'bytes':>12}  blocks",
    ]
    for rank in what["ranks"]:
        shown = "  ".join(f"{_range(rank[key]):>{width}}" for _, key, width in ranges)
        lines.append(f"{rank['rank']:>4}  {shown}  {format_size(rank['bytes']):>12}  {_blocks(rank)}")
    return "\n".join(lines)


def _range(bounds: tuple[int, int] | None) -> str:
    return f"{bounds[0]}-{bounds[1] - 1}" if bounds else "-"


def _formats(what: dict) -> str:
    """``bfloat16`` or, if not everything is stored alike, ``int4 (layers int4 by 32, head int8 by 32, ...)``."""
    formats = what["formats"]
    if set(formats.values()) == {what["dtype"]}:
        return what["dtype"]
    return f"{what['dtype']} ({', '.join(f'{part} {format}' for part, format in formats.items())})"


def _blocks(rank: dict) -> str:
    """How many blocks of each kind and size: ``22 attention of 5.00 MiB, ..., 48 x 128 experts of 1.12 MiB``."""
    kinds = Counter((_kind(name), format_size(size)) for name, size in rank["blocks"].items())
    phrases = [f"{count} {kind} of {size}" for (kind, size), count in kinds.items()]
    if experts := rank.get("experts"):
        sizes = " to ".join(dict.fromkeys(map(format_size, experts["bytes"])))
        phrases.append(f"{len(experts['layers'])} x {experts['number']} experts of {sizes}")
    return ", ".join(phrases)


def _kind(name: str) -> str:
    return name.split(".")[-1] if name.startswith("layers.") else name.split(".")[0]
