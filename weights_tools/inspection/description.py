"""A directory of slabs, described for programs."""

from pathlib import Path

from tpi_mpi.weights.slabs.directory import DRAFT, MANIFEST, Manifest, has_draft, slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from tpi_mpi.weights.slabs.slab import Slab


def describe(directory: Path) -> dict:
    """Everything that is shown, fit for JSON. Slabs that are not on this machine are left out.

    A draft is described likewise, as the "draft", which is None if it is not complete.

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
        **({"draft": _draft(directory / DRAFT)} if has_draft(directory) else {}),
    }


def _draft(directory: Path) -> dict | None:
    return describe(directory) if (directory / MANIFEST).is_file() else None


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
