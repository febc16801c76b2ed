"""What the machines are to run: slabs, or a checkpoint that is not split yet."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError, say
from tpi_mpi.common.files import check_writable
from tpi_mpi.common.options.programs import CheckOptions
from tpi_mpi.kernels.formats import FLOATS
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.directory import MANIFEST, Manifest, own_slab
from tpi_mpi.weights.slabs.slab import formats_of
from tpi_mpi.weights.slabs.stored_formats import StoredFormats


@dataclass(frozen=True)
class Target:
    """A model as rank 0 has it.

    dtype: of most weights. formats: of all of them. partition: that of rank 0's slab, or an even one if there is none.
    identity: what all slabs should have in common; None if the model is not split yet.
    """

    model: str
    dtype: str
    formats: StoredFormats
    config: ModelConfig
    partition: Partition
    identity: dict[str, str] | None

    @classmethod
    def load(cls, directory: Path, size: int, ignored_keys: Collection[str] = ()) -> "Target":
        """From slabs or a checkpoint. Raises UserError if it is neither, or slabs for another number of ranks."""
        if (directory / "config.json").is_file() and not (directory / MANIFEST).is_file():
            config = ModelConfig.load(directory / "config.json", ignored_keys)
            dtype = str(config.keys.get("torch_dtype") or config.keys.get("dtype"))
            dtype = dtype if dtype in FLOATS else "bfloat16"
            formats = StoredFormats.like(config, dtype)
            return cls(directory.resolve().name, dtype, formats, config, formats.partition(config, size), None)
        manifest = Manifest.load(directory)
        manifest.check_size(size)
        for line in manifest.warnings():
            say(line)
        try:
            slab = own_slab(directory, 0, size)
            identity = slab.identity()
            return cls(manifest.model, manifest.dtype, formats_of(slab), slab.config, slab.partition, identity)
        except UserError:  # rank 0 finds and reports it again as its own problem
            config = ModelConfig.load(directory / "config.json", manifest.ignored_keys)
            formats = StoredFormats.like(config, manifest.dtype)
            identity = {"checkpoint digest": manifest.source_digest}
            return cls(manifest.model, manifest.dtype, formats, config, formats.partition(config, size), identity)

    def to_json(self) -> dict:
        own = {"formats": self.formats.to_json(), "partition": self.partition.to_json()}
        return {**vars(self), **own, "config": dict(self.config.keys)}

    @classmethod
    def from_json(cls, value: dict) -> "Target":
        config, partition = ModelConfig.from_keys(value["config"]), Partition.from_json(value["partition"])
        formats = StoredFormats.from_json(value["formats"])
        return cls(**{**value, "formats": formats, "config": config, "partition": partition})


def agree(world: World, options: CheckOptions) -> Target:
    """Rank 0's target, on every rank. Stops all ranks if it cannot be run."""
    with world.agreed():
        target = _settle(world, options) if world.is_root else None
    return Target.from_json(world.broadcast(target.to_json() if target else None))


def _settle(world: World, options: CheckOptions) -> Target:
    if options.machine.report:
        check_writable(options.machine.report)
    target = Target.load(options.slabs, world.size, options.ignored_keys)
    context = target.config.context_length
    if options.prompt_tokens > context:
        raise UserError(f"--prompt-tokens is {options.prompt_tokens}; the model's context is {context}")
    return target
