"""The compiled functions by name, for those who run them. All of their arguments are int64, mostly addresses."""

import ctypes
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

from tpi_mpi.kernels.compiled.library import library
from tpi_mpi.kernels.cpu import this_cpu
from tpi_mpi.kernels.formats import Tiled
from tpi_mpi.kernels.table import INTEGER, ROUNDED, STATE_BYTES, Kernel, choose, choose_exact


@dataclass(frozen=True)
class Function:
    """A function in :mod:`tpi_mpi.kernels.loops`; it is loaded, or compiled, when it is first used.

    settings: what tells this version of it from others. arguments: how many it takes; if three, it may be a kernel for
        the pool, which gives it the first item of the work, the end of it, and the address of its arguments.
    """

    module: str
    name: str
    settings: tuple[str | int, ...] = ()
    arguments: int = 3

    @property
    def key(self) -> str:
        """A word for it."""
        words = " ".join(map(str, (self.module, self.name, *self.settings)))
        return re.sub(r"\W+", "_", words).strip("_")

    @cached_property
    def address(self) -> int:
        """Where it is, as long as the process lives."""
        return library().address(self)

    @cached_property
    def call(self):
        """Calls it, without the interpreter's lock."""
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * self.arguments)(self.address)


RUN = Function("pool", "run", arguments=5)
WORK = Function("pool", "work", arguments=2)
ACTIVATE = Function("pool", "activate", arguments=2)
STOP = Function("pool", "stop", arguments=1)
EXECUTE = Function("pool", "execute")
NORMALISE, PREPARE_HEADS, ACTIVATE_GATES, FINISH = (
    Function("rows", name) for name in ("normalise_rows", "prepare_heads", "activate", "finish")
)
ATTEND, COMBINE = (Function("attention", name) for name in ("attend", "combine"))
NARROW, WIDEN, ADD, SCALE, UNSCALE, ADD_SCALED = (
    Function("numbers", name, arguments=4) for name in ("narrow", "widen", "add", "scale", "unscale", "add_scaled")
)
NORMALISE_EXACTLY, FIND_LOGITS, CHOOSE = (
    Function("experts.router", name) for name in ("normalise_exactly", "find_logits", "choose")
)
DEAL, ADD_UP = (Function("experts.deal", name) for name in ("deal", "add_up"))
GROUPED = Function("experts.parts", "grouped")
GATHER, ADD_BIAS = (Function("experts.mixture", name) for name in ("gather", "add_bias"))
ADD_EXPERTS = Function("experts.mixture", "add_experts", arguments=2)
SEARCH = Function("search", "search", arguments=1)
READ_PIECES = Function("reading", "read_pieces")

# What the blocks of any model need, in whatever formats, and what measures the memory that they are in.
_BLOCKS = (
    WORK,
    ACTIVATE,
    STOP,
    EXECUTE,
    RUN,
    READ_PIECES,
    ATTEND,
    PREPARE_HEADS,
    NORMALISE,
    ACTIVATE_GATES,
    COMBINE,
    FINISH,
)
_EXPERTS = (
    NORMALISE_EXACTLY,
    FIND_LOGITS,
    CHOOSE,
    DEAL,
    ADD_UP,
    GROUPED,
    GATHER,
    ADD_BIAS,
    ADD_EXPERTS,
)
_CONVERTING = {"int8": (SCALE, UNSCALE, ADD_SCALED), **dict.fromkeys(("bfloat16", "float16"), (NARROW, WIDEN, ADD))}


def needed(
    layouts: Iterable[Tiled],
    planes: int,
    cached: Iterable[Tiled] = (),
    dtypes: Iterable[str] = (),
    experts: bool = False,
) -> list[Function]:
    """What computes blocks with matrices in these layouts, and converts numbers of these dtypes.

    planes: bytes of a state where weights are multiplied as integers. cached: layouts of keys and values.
    experts: whether there are any; their matrices are among the others.
    """
    kernels = [choose(layout, planes, this_cpu()) for layout in layouts]
    kernels += [choose_exact(layout, this_cpu()) for layout in cached]
    products = [function for kernel in kernels for function in (product_of(kernel), order_of(kernel))]
    converting = [function for dtype in dtypes for function in _CONVERTING.get(dtype, ())]
    return list(dict.fromkeys([*products, *_BLOCKS, *(_EXPERTS if experts else ()), *converting]))


def load(functions: Iterable[Function]) -> None:
    """Loads functions, or compiles them, where that need not wait."""
    library().load(functions)


@cache
def product_of(kernel: Kernel) -> Function:
    """What multiplies tiles with ordered states."""
    return Function("product", "product_in", (kernel.word, kernel.height, STATE_BYTES[kernel.kind]))


@cache
def order_of(kernel: Kernel) -> Function:
    """What puts states in order for a kernel."""
    if kernel.kind == INTEGER:
        return Function("states", "order_bytes_in", (kernel.group, kernel.planes))
    return Function("states", "order_rounded" if kernel.kind == ROUNDED else "order_floats")
