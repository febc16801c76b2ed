"""Blocks as lists of steps, each list prepared once and run by one call into compiled code."""

import struct
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from tpi_mpi.kernels.blocks import Segments, Shapes
from tpi_mpi.kernels.compiled import functions
from tpi_mpi.kernels.compiled.experts.mixture import CompiledMixture, Mixtures
from tpi_mpi.kernels.compiled.experts.templates import Templates
from tpi_mpi.kernels.compiled.functions import product_of
from tpi_mpi.kernels.compiled.pool import Pool
from tpi_mpi.kernels.compiled.prepared import Product, Scratch, Step, aligned, prepared, result_step
from tpi_mpi.kernels.compiled.program import Program
from tpi_mpi.kernels.compiled.segments import Attended, most_places
from tpi_mpi.kernels.cpu import Cpu
from tpi_mpi.kernels.formats import TILE, Tiled
from tpi_mpi.kernels.kv_cache import PAGE, KVCache
from tpi_mpi.kernels.operand import KINDS, Arranged, address_of
from tpi_mpi.kernels.records import block as record
from tpi_mpi.kernels.records.block import CLAMPED_SWIGLU, GELU, GELU_TANH, RELU, SILU, SPAN
from tpi_mpi.kernels.table import Kernel, choose_exact

_ACTIVATIONS = {"silu": SILU, "relu": RELU, "gelu": GELU, "gelu_tanh": GELU_TANH, "clamped_swiglu": CLAMPED_SWIGLU}

# The most rows for which each span of positions is an item of work: with more, there is work enough for all threads.
_SPLIT_ROWS = 8
_MOST_PROGRAMS = 512

# The numbers of a record that change from call to call; a feed-forward block needs only the first three.
_CALL, _SHORT_CALL = struct.Struct(f"{record.CALL}q"), struct.Struct("3q")


class CompiledBlocks:
    """One rank's blocks; see :class:`tpi_mpi.kernels.blocks.Blocks`."""

    def __init__(self, pool: Pool, scratch: Scratch, choose: Callable[[Tiled], Kernel], cpu: Cpu, shapes: Shapes):
        self._control, self._threads = pool.control, pool.threads
        self._scratch = scratch
        self._choose, self._cpu = choose, cpu
        self._shapes = shapes
        self._programs: dict[tuple, Program] = {}
        self._version = 0

    def attention(
        self, tensors: Arranged, hidden: np.ndarray, segments: Segments, cache: KVCache, layer: int, window: int | None
    ) -> np.ndarray:
        rows, partial = len(hidden), np.empty_like(hidden)
        key = rows, id(cache.key_layout), cache.longest, tensors.layouts
        program = self._programs.get(key) if self._version == self._scratch.version else None
        program = program or self._plan(key, lambda: self._attention(rows, cache, tensors))
        attended = segments.prepared.get(window) or self._prepared(segments, program, window)
        program.items(program.attend, attended.items)
        places = tensors.address, address_of(hidden), address_of(partial), cache.addresses[layer]
        _CALL.pack_into(program.record, 0, *places, *attended.places, window or 0)
        program.run(self._control)
        return partial

    def feed_forward(self, tensors: Arranged, hidden: np.ndarray) -> np.ndarray:
        rows, partial = len(hidden), np.empty_like(hidden)
        key = rows, tensors.layouts
        program = self._programs.get(key) if self._version == self._scratch.version else None
        program = program or self._plan(key, lambda: self._feed_forward(rows, tensors))
        _SHORT_CALL.pack_into(program.record, 0, tensors.address, address_of(hidden), address_of(partial))
        program.run(self._control)
        return partial

    def mixture(self, tensors: Arranged, hidden: np.ndarray, partial: np.ndarray | None = None) -> CompiledMixture:
        return self._mixtures.made(tensors, hidden, partial)

    @cached_property
    def _mixtures(self) -> Mixtures:
        templates = Templates(self._choose, self._cpu, _activation(self._shapes))
        return Mixtures(self._control, self._threads, self._scratch, self._shapes, templates)

    def normalise(self, tensors: Arranged, hidden: np.ndarray) -> np.ndarray:
        key, result = (len(hidden),), np.empty_like(hidden)
        program = self._programs.get(key) or self._plan(key, lambda: self._normalise(len(hidden)))
        program.set(states=address_of(result))
        _SHORT_CALL.pack_into(program.record, 0, tensors.address, address_of(hidden), address_of(result))
        program.run(self._control)
        return result

    def memory(self, rows: int, longest: int) -> int:
        return 0  # the scratch memory is as large as it was for the most rows

    def _plan(self, key: tuple, make: Callable[[], Program]) -> Program:
        """Makes a program and remembers it, and forgets those whose scratch memory has moved."""
        program = make()
        if len(self._programs) >= _MOST_PROGRAMS or self._version != self._scratch.version:
            self._programs.clear()
        self._version = self._scratch.version
        self._programs[key] = program
        return program

    def _normalise(self, rows: int) -> Program:
        program = Program(self._shapes, rows)
        program.finish([program.by_rows(functions.NORMALISE)])
        return program

    def _prepared(self, segments: Segments, program: Program, window: int | None) -> Attended:
        made = Attended(segments, self._shapes, program.record, window)
        segments.prepared[window] = made
        return made

    def _attention(self, rows: int, cache: KVCache, tensors: Arranged) -> Program:
        shapes, program = self._shapes, Program(self._shapes, rows)
        kernel = choose_exact(cache.key_layout, self._cpu)
        places = most_places(rows, shapes, kernel.height)
        split = rows <= _SPLIT_ROWS
        spans = -(-cache.longest // SPAN) if split else 2
        inputs, total = cache.key_layout.inputs, -(-shapes.head_dim // TILE) * TILE + record.EXTRA
        projected = self._products(rows, tensors, (record.QUERY, record.KEY, record.VALUE))
        output = self._products(rows, tensors, (record.OUTPUT,))
        of_queries = 4 * shapes.kv_heads * places * inputs
        of_totals = 4 * spans * shapes.kv_heads * places * total
        mixed = shapes.heads * shapes.head_dim
        rooms = self._rooms(rows * 4 * max(shapes.width, mixed), projected, output, of_queries, of_totals)
        program.set(
            **_heads(shapes), product=product_of(kernel).address, height=kernel.height, inputs=inputs,
            kind=KINDS[cache.dtype], number_bytes=cache.key_layout.parts[0].nbytes // (PAGE * inputs),
            page_bytes=cache.page_bytes, values=cache.values_offset,
            key_bytes=cache.key_layout.nbytes, value_bytes=cache.value_layout.nbytes,
            queries=rooms[3], query_room=places, totals=rooms[4], split=split,
        )  # fmt: skip
        begin = self._place(program, rooms, projected, output, 4 * shapes.width, 4 * mixed, record.OUTPUT_BIAS)
        attend = functions.ATTEND.address, program.address, 0, 1
        middle = [program.by_rows(functions.PREPARE_HEADS), attend, program.by_rows(functions.COMBINE)]
        program.kept.append(cache.key_layout)  # it is found by its identity
        program.attend = len(begin) + 1
        program.finish(begin, middle, _steps_of(output), [program.by_rows(functions.FINISH)])
        return program

    def _feed_forward(self, rows: int, tensors: Arranged) -> Program:
        shapes, program = self._shapes, Program(self._shapes, rows)
        projected = self._products(rows, tensors, (record.GATE, record.UP))
        output = self._products(rows, tensors, (record.DOWN,))
        rooms = self._rooms(rows * 4 * shapes.width, projected, output)
        program.set(columns=shapes.columns, **_activation(shapes))
        begin = self._place(program, rooms, projected, output, 4 * shapes.width, None, record.DOWN_BIAS)
        program.finish(
            begin, [program.by_rows(functions.ACTIVATE_GATES)], _steps_of(output), [program.by_rows(functions.FINISH)]
        )
        return program

    def _products(self, rows: int, tensors: Arranged, slots: Sequence[int]) -> list[Product]:
        layouts = [tensors.tensors[slot].layout for slot in slots]
        return prepared(self._choose, self._cpu, self._threads, rows, layouts, slots)

    def _rooms(self, of_states: int, projected: list[Product], output: list[Product], *others: int) -> list[int]:
        """Addresses of the normalised states, the products' results, the ordered states, and others."""
        results = max(_results_size(projected), _results_size(output))
        ordered = max(product.order_bytes for product in (*projected, *output))
        return self._scratch.rooms([of_states, results, ordered, *others])

    def _place(
        self, program: Program, rooms: Sequence[int], projected: list[Product], output: list[Product],
        width: int, mixed: int | None, bias: int,
    ) -> list[Step]:  # fmt: skip
        """Says where everything is; returns the steps up to the projections.

        The results of the last product take the place of the projections', which are no longer needed.

        width, mixed: bytes of a row of states for the projections and for the output; mixed is None where the first
            projection's results are such states.
        """
        states, results, ordered = rooms[:3]
        places, at = [], results
        for product in projected:
            sizes = product.result_bytes
            own = [at + sum(map(aligned, sizes[:index])) for index in range(len(sizes))]
            product.place(states, width, program.address, ordered, own)
            places += zip(own, map(result_step, product.layouts), strict=True)
            at += sum(map(aligned, sizes))
        (out,) = output
        last = (states, mixed) if mixed else places[0]
        out.place(*last, program.address, ordered, [results])
        flat = [number for place in places for number in place]
        program.record[record.PRODUCTS : record.PRODUCTS + len(flat)] = flat
        program.set(states=states, final_step=result_step(out.layouts[0]), final_bias=bias)
        program.kept += [*projected, out]
        return [program.by_rows(functions.NORMALISE), *_steps_of(projected)]


def _heads(shapes: Shapes) -> dict[str, int]:
    return {
        "heads": shapes.heads,
        "kv_heads": shapes.kv_heads,
        "heads_per_kv": shapes.heads_per_kv,
        "first_head": shapes.first_head,
        "dim": shapes.head_dim,
        "half": shapes.rotated,
    }


def _activation(shapes: Shapes) -> dict[str, int]:
    alpha, limit = (int(np.float32(number).view(np.uint32)) for number in (shapes.alpha, shapes.limit))
    return {"activation": _ACTIVATIONS[shapes.activation], "alpha": alpha, "limit": limit}


def _results_size(products: Sequence[Product]) -> int:
    return sum(aligned(size) for product in products for size in product.result_bytes)


def _steps_of(products: Sequence[Product]) -> list[Step]:
    return [step for product in products for step in product.steps()]
