"""How fast products with a slab's matrices are: format by format, and for several numbers of rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, groupby, islice
from statistics import mean

import numpy as np

from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import World
from tpi_mpi.engine.sweep.warmup import compiled_once
from tpi_mpi.kernels.formats import Format, Tiled
from tpi_mpi.kernels.linear import Linear
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.measurement.probes import OUT_OF_CACHE, decode_rate, memory_rate, prompt_rate
from tpi_mpi.measurement.rates import ProductRates, Rates
from tpi_mpi.weights.slabs.extents import PAGE
from tpi_mpi.weights.slabs.slab import Slab

# The most outputs of the matrix that the rows of a prompt are multiplied with: enough for every thread to be busy, and
# few enough for the product to take a fraction of a second.
_PROMPT_OUTPUTS = 1024
# A byte of which every float and scale is a normal number, none of them large, and every code is finite.
_FILLED_WITH = 0x3C


@dataclass(frozen=True)
class FormatProbe:
    """What was measured of products with one format, on one rank.

    kernels: for people, what multiplies. memory: bytes per second that the same threads read, before and after.
    decode: bytes of weights and scales per second, by the number of rows. prompt: operations per second, by rows.
    """

    format: Format
    kernels: Sequence[str]
    memory: float
    decode: Mapping[int, float]
    prompt: Mapping[int, float]

    def to_json(self) -> dict:
        by_work = {"decode": self.decode, "prompt": self.prompt}
        return {
            "format": str(self.format),
            "kernels": list(self.kernels),
            "memory": self.memory,
            **{work: {str(rows): rate for rows, rate in rates.items()} for work, rates in by_work.items()},
        }


def rates_from(read: float | None, probes: Sequence[FormatProbe], chunk: int) -> Rates:
    """The rates of this rank. read: that of its disk. chunk: rows of a prompt that were probed; one row was too."""
    products = {probe.format: ProductRates(probe.decode[1], probe.prompt[chunk]) for probe in probes}
    return Rates(read, mean(probe.memory for probe in probes), products)


def formats_to_probe(world: World, slab: Slab, others: Sequence[Format] = ()) -> list[Format]:
    """The formats of rank 0's slab, which has some of every tensor, and others; all ranks call it, and get the same."""
    formats = dict.fromkeys([*(layout.format for layout in slab.matrices), *others])
    return [Format.from_json(value) for value in world.broadcast([format.to_json() for format in formats])]


def probe_formats(
    world: World,
    cores: Cores,
    slab: Slab,
    linear: Linear,
    formats: Sequence[Format],
    decode_rows: Collection[int],
    prompt_rows: Collection[int],
) -> list[FormatProbe]:
    """Measures products in the shapes of this rank's matrices, on all ranks at the same time.

    formats: the same on all ranks, whether their slabs have them or not. decode_rows: how many at once, where reading
    weights takes the time. prompt_rows: the same, where computing does.
    """
    probes, before = [], memory_rate(world, linear.threads)
    for format in formats:
        layouts = _layouts(slab, format)
        with compiled_once(world, cores):
            linear.prepare(chain(*layouts))
        matrices, largest = _matrices(layouts, _times(slab)), _largest(layouts)
        decode = {count: decode_rate(world, linear, matrices, count) for count in decode_rows}
        prompt = {count: prompt_rate(world, linear, largest, count) for count in prompt_rows}
        del matrices, largest
        after = memory_rate(world, linear.threads)
        probes.append(FormatProbe(format, linear.describe(chain(*layouts)), (before + after) / 2, decode, prompt))
        before = after
    return probes


def _layouts(slab: Slab, format: Format) -> list[list[Tiled]]:
    """A layer's matrices as they are in a format; together those that the same states are multiplied with."""
    found = []
    blocks = ([tensor.layout for tensor in block.tensors] for block in slab.different_layers)
    for block in (*blocks, _row_of_experts(slab)):
        layouts = [layout for layout in block if isinstance(layout, Tiled)]
        layouts = [layout if layout.format == format else Tiled(format, *layout.shape) for layout in layouts]
        found += [list(alike) for _, alike in groupby(layouts, lambda layout: layout.columns)]
    return found


def _row_of_experts(slab: Slab) -> list[Tiled]:
    """The experts that a row is given to, as the matrices of one block: no kernel for small ones can be faster."""
    if not slab.experts:
        return []
    (*first, last), top_k = slab.records[0].matrices, slab.config.experts.routing.top_k
    wide = [Tiled(layout.format, top_k * layout.rows, layout.columns) for layout in first]
    return [*wide, Tiled(last.format, last.rows, top_k * last.columns)]


def _times(slab: Slab) -> int:
    """How often a model has a layer's matrices: of experts, every row has others."""
    layers, experts = slab.config.num_hidden_layers, slab.config.experts
    return layers * (experts.count // experts.routing.top_k) if experts else layers


def _matrices(layouts: Sequence[Sequence[Tiled]], times: int) -> list[list[Operand]]:
    """More of a layer's matrices than caches hold: of large ones some rows, and small ones repeatedly.

    times: the most times, how often the model has them: what fits into a cache as a whole does so in a run as well.
    """
    total = sum(layout.nbytes for layout in chain(*layouts))
    part = min(1.0, OUT_OF_CACHE / total)
    cut = [[replace(layout, rows=max(1, int(part * layout.rows))) for layout in alike] for alike in layouts]
    return _filled(min(times, -(-OUT_OF_CACHE // total)) * cut)


def _largest(layouts: Sequence[Sequence[Tiled]]) -> Operand:
    """Some rows of the largest matrix."""
    layout = max(chain(*layouts), key=lambda layout: layout.elements)
    return _filled([[replace(layout, rows=min(layout.rows, _PROMPT_OUTPUTS))]])[0][0]


def _filled(layouts: Sequence[Sequence[Tiled]]) -> list[list[Operand]]:
    """Matrices one after the other in memory, as in a slab; for any other weights, kernels would take the same time.

    They are in one array because large ones get huge pages: from many small pages, memory is read half as fast, which
    is not so for the pages of a mapped file.
    """
    sizes = [-(-part.nbytes // PAGE) * PAGE for layout in chain(*layouts) for part in layout.parts]
    memory, offsets = np.full(sum(sizes), _FILLED_WITH, np.uint8), accumulate(sizes, initial=0)
    return [
        [Operand.of(layout, memory, tuple(islice(offsets, len(layout.parts)))) for layout in alike] for alike in layouts
    ]
