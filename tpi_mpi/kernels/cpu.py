"""What the CPU can do, as far as kernels care."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tpi_mpi.common.errors import UserError

X86, ARM = "x86_64", "aarch64"

# What LLVM calls the features, each with those that it stands on and that a list by hand may leave out.
_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})

# The features of CPUs that NUMBA_CPU_NAME may name, by the oldest CPU that has them.
_NAMED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("haswell", "broadwell", "skylake", "znver1", "znver2", "znver3", "x86-64-v3"), _AVX2),
    **dict.fromkeys(("skylake-avx512", "x86-64-v4"), _AVX2 | _AVX512),
    **dict.fromkeys(("cascadelake", "icelake-client", "icelake-server"), _AVX2 | _AVX512 | {"avx512vnni"}),
    **dict.fromkeys(("alderlake", "raptorlake", "meteorlake"), _AVX2 | {"avxvnni"}),
    **dict.fromkeys(
        ("cooperlake", "sapphirerapids", "znver4", "znver5"), _AVX2 | _AVX512 | {"avx512vnni", "avx512bf16"}
    ),
    **dict.fromkeys(("cortex-a72", "cortex-a53"), frozenset({"neon"})),
    **dict.fromkeys(("neoverse-n1", "cortex-a76", "apple-m1"), frozenset({"neon", "dotprod"})),
}


@dataclass(frozen=True)
class Cpu:
    """The instructions that kernels may use. LLVM ends the process where one is missing, so none is tried out.

    machine: ``x86_64`` or ``aarch64``. dot: the instruction that sums products of four pairs of bytes: ``vnni512``,
        ``vnni256``, ``maddubs`` (AVX2), ``sdot`` or ``plain``. bfloat16: whether there is one for pairs of bfloat16.
    wide: whether registers hold 16 numbers of 32 bits.
    """

    machine: str
    dot: str
    wide: bool = False
    bfloat16: bool = False

    @property
    def vectors(self) -> bool:
        """Whether it has the vector instructions that kernels are made of."""
        return self.machine == ARM or self.dot != "plain"

    @property
    def name(self) -> str:
        """For people: ``AVX-512 with VNNI and BF16``."""
        if self.machine == ARM:
            return "NEON with dot products" if self.dot == "sdot" else "NEON"
        if not self.vectors:
            return "no vector instructions"
        extra = [*(["VNNI"] if "vnni" in self.dot else []), *(["BF16"] if self.bfloat16 else [])]
        return f"{'AVX-512' if self.wide else 'AVX2'}{' with ' if extra else ''}{' and '.join(extra)}"

    @classmethod
    def of(cls, machine: str, features: frozenset[str]) -> "Cpu":
        """The best instructions among the features, which have LLVM's names."""
        if machine == ARM:
            return cls(ARM, "sdot" if "dotprod" in features else "plain")
        if not features.issuperset(_AVX2):
            return cls(machine, "plain")
        if features.issuperset(_AVX512):
            dot = "vnni512" if "avx512vnni" in features else "maddubs"
            return cls(X86, dot, wide=True, bfloat16="avx512bf16" in features)
        return cls(X86, "vnni256" if "avxvnni" in features else "maddubs")


def this_cpu() -> Cpu:
    """The CPU to compile for: this machine's, unless NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say otherwise.

    Raises UserError if NUMBA_CPU_NAME names one whose features are neither given nor known here.
    """
    triple, name, features = compiled_for()
    machine = triple.partition("-")[0]
    machine = {"arm64": ARM, "amd64": X86}.get(machine, machine)
    if machine == ARM and not features and "NUMBA_CPU_NAME" not in os.environ:
        features = "+neon"  # LLVM does not always find an ARM's features, and all have this
    return Cpu.of(machine, features_of(name, features))


@cache
def compiled_for() -> tuple[str, str, str]:
    """What kernels are compiled for: the platform, the CPU's name, and features, each with + or -, in LLVM's words.

    As with Numba, NUMBA_CPU_NAME and NUMBA_CPU_FEATURES overrule what LLVM finds, and NUMBA_ENABLE_AVX=0 leaves out all
    kinds of AVX.
    """
    from llvmlite import binding

    name = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES", "" if name == "generic" else None)
    if features is None:
        found = binding.get_host_cpu_features()
        if os.environ.get("NUMBA_ENABLE_AVX") == "0":
            found.update({feature: False for feature in found if feature.startswith("avx")})
        features = found.flatten()
    return binding.get_process_triple(), name, features


def features_of(name: str, features: str) -> frozenset[str]:
    """The features that LLVM takes a CPU to have, as far as they matter here: those of its name, with changes.

    features: ``+avx2,-avx512f``, or nothing if the name is to say all.
    """
    if not features and name not in (*_NAMED, "generic"):
        raise UserError(f"NUMBA_CPU_NAME is {name}, which is not known; use generic or {', '.join(_NAMED)}")
    changes = features.split(",")
    added, removed = ({change[1:] for change in changes if change.startswith(sign)} for sign in "+-")
    return (_NAMED.get(name, frozenset()) | added) - removed
