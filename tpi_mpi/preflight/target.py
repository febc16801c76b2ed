"""What the machines are to run: slabs, or a checkpoint that is not split yet."""

from dataclasses import dataclass
from pathlib import Path

from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.files import check_writable
from tpi_mpi.common.options import CheckOptions
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slab import ITEMSIZE
from tpi_mpi.weights.slab_directory import MANIFEST, Manifest, own_slab


@dataclass(frozen=True)
class Target:
    """A model as rank 0 has it.

    partition: of rank 0's slab, or an even one where there is none. identity: what all slabs should have in common;
    None where the model is not split yet.
    """

    model: str
    dtype: str
    config: ModelConfig
    partition: Partition
    identity: dict[str, str] | None

    @classmethod
    def load(cls, directory: Path, size: int) -> "Target":
        """Of slabs or of a checkpoint. Raises UserError where the directory is neither, or for another size."""
        if (directory / "config.json").is_file() and not (directory / MANIFEST).is_file():
            config = ModelConfig.load(directory / "config.json")
            dtype = str(config.keys.get("torch_dtype") or config.keys.get("dtype"))
            dtype = dtype if dtype in ITEMSIZE else "bfloat16"
            return cls(directory.resolve().name, dtype, config, Partition.of(config, size), None)
        manifest = Manifest.load(directory)
        manifest.check_size(size)
        try:
            slab = own_slab(directory, 0, size)
            return cls(manifest.model, manifest.dtype, slab.config, slab.partition, slab.identity())
        except UserError:  # found again, and said, as that rank's
            config = ModelConfig.load(directory / "config.json", manifest.ignored_keys)
            identity = {"checkpoint digest": manifest.source_digest, "dtype": manifest.dtype}
            return cls(manifest.model, manifest.dtype, config, Partition.of(config, size), identity)

    def to_json(self) -> dict:
        return {**vars(self), "config": dict(self.config.keys), "partition": self.partition.to_json()}

    @classmethod
    def from_json(cls, value: dict) -> "Target":
        config, partition = ModelConfig.from_keys(value["config"]), Partition.from_json(value["partition"])
        return cls(**{**value, "config": config, "partition": partition})


def agree(world: World, options: CheckOptions) -> Target:
    """What rank 0 is to run, on every rank. Stops all ranks where that is nothing that could be run."""
    with world.agreed():
        target = _settle(world, options) if world.is_root else None
    return Target.from_json(world.broadcast(target.to_json() if target else None))


def _settle(world: World, options: CheckOptions) -> Target:
    if options.machine.report:
        check_writable(options.machine.report)
    target = Target.load(options.slabs, world.size)
    context = target.config.context_length
    if options.prompt_tokens > context:
        raise UserError(f"--prompt-tokens is {options.prompt_tokens}; the model's context is {context}")
    return target
