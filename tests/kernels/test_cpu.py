"""Which instructions are used where, and that code for other CPUs compiles."""

import os
import platform
import subprocess
import sys
from collections import Counter

import pytest
from llvmlite import binding, ir
from numba.core.registry import cpu_target
from operands import FORMATS

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.cpu import Cpu, compiled_for, features_of
from tpi_mpi.kernels.formats import Format, Tiled
from tpi_mpi.kernels.table import Kernel, choose, choose_exact
from tpi_mpi.kernels.tiles.emitter import I64, Emitter
from tpi_mpi.kernels.tiles.intrinsics import emit_tile

AVX2 = frozenset({"avx2", "fma", "f16c"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}


@pytest.mark.parametrize(
    ("machine", "features", "dot", "name"),
    [
        ("x86_64", AVX512 | {"avx512vnni", "avx512bf16"}, "vnni512", "AVX-512 with VNNI and BF16"),
        ("x86_64", AVX512, "maddubs", "AVX-512"),
        ("x86_64", AVX2 | {"avxvnni"}, "vnni256", "AVX2 with VNNI"),
        ("x86_64", AVX2, "maddubs", "AVX2"),
        ("x86_64", frozenset({"sse2"}), "plain", "no vector instructions"),
        ("aarch64", frozenset({"neon", "dotprod"}), "sdot", "NEON with dot products"),
        ("aarch64", frozenset({"neon"}), "plain", "NEON"),
        ("riscv64", frozenset(), "plain", "no vector instructions"),
    ],
)
def test_the_best_instructions_are_chosen(machine, features, dot, name):
    cpu = Cpu.of(machine, frozenset(features))
    assert (cpu.dot, cpu.name) == (dot, name)


def test_states_are_rounded_to_bfloat16_only_where_that_is_faster():
    layout = Tiled(Format("bfloat16"), 16, 32)
    fast, slow = Cpu("x86_64", "vnni512", wide=True, bfloat16=True), Cpu("x86_64", "maddubs")
    assert [choose(layout, 2, cpu).kind for cpu in (fast, slow)] == ["rounded", "float"]
    assert [choose_exact(layout, cpu).kind for cpu in (fast, slow)] == ["float", "float"]


@pytest.mark.parametrize(
    ("name", "features", "expected"),
    [
        ("haswell", "", AVX2),
        ("generic", "", set()),
        ("unheard-of", "+sse2,+avx2,+fma,+f16c", AVX2),
        ("skylake-avx512", "+avx2,-avx512f", AVX512 - {"avx512f"}),
        ("haswell", "+avx512f,+avx512bw,+avx512vl,+avx512dq", AVX512),
    ],
)
def test_features_are_those_of_the_name_with_changes(name, features, expected):
    assert features_of(name, features) - {"sse2"} == expected


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="NUMBA_CPU_NAME is pentium-pro, which is not known"):
        features_of("pentium-pro", "")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"NUMBA_ENABLE_AVX": "0"}, "no vector instructions"),
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, "AVX2"),
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "-fma"}, "no vector instructions"),
    ],
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are names of x86")
def test_it_is_the_cpu_that_numba_compiles_for(settings, name):
    command = [sys.executable, "-c", "from tpi_mpi.kernels.cpu import this_cpu; print(this_cpu().name)"]
    finished = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == name


def test_numba_has_the_same_features():
    assert cpu_target.target_context.codegen().magic_tuple() == compiled_for()


def assembly(format: Format, cpu: Cpu, model: str) -> Counter:
    """How often each instruction occurs in the code of a tile, compiled for a CPU that need not be this one."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    triple = f"{cpu.machine}-unknown-linux-gnu"
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 11), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit_tile(Emitter(builder, cpu), choose(Tiled(format, 16, 128), 2, cpu), function.args)
    builder.ret_void()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=model, opt=3)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    return Counter(line.split()[0] for line in machine.emit_assembly(parsed).splitlines() if line.startswith("\t"))


def test_arm_code_has_its_instructions():
    new = Cpu.of("aarch64", frozenset({"neon", "dotprod"}))
    assert assembly(Format.of("int8"), new, "cortex-a76")["sdot"]
    assert assembly(Format.of("int4"), new, "cortex-a76")["sdot"]
    assert assembly(Format.of("mxfp4"), new, "cortex-a76")["tbl"]
    for dtype in ("float32", "float16", "bfloat16", "float8"):
        assert assembly(Format.of(dtype), new, "cortex-a76")["fmla"]


def test_arm_code_without_dot_products_has_none():
    old = Cpu.of("aarch64", frozenset({"neon"}))
    instructions = assembly(Format.of("int8"), old, "cortex-a72")
    assert instructions
    assert not instructions["sdot"]


def test_x86_code_has_its_instructions():
    assert assembly(Format.of("int4"), Cpu("x86_64", "vnni512", wide=True), "cascadelake")["vpdpbusd"]
    assert assembly(Format.of("int4"), Cpu("x86_64", "vnni256"), "alderlake")["{vex}"]
    assert assembly(Format.of("int8"), Cpu("x86_64", "maddubs"), "haswell")["vpmaddubsw"]


PRODUCTS, BLOCKS = "test_multiplier.py", "test_blocks.py"
ROUTERS, MIXTURES = "test_routing.py", "test_mixture.py"
# With two planes and one size of groups, since each is compiled anew.
LAWS = "(equal or independent) and two and (32 or float)"
SOME = "equals and (cut or many) or parts or later or silu and feed"
CHOICES = "test_routing and (130 or equal_experts or any_size) or test_mixture and obvious and int4"
# Of CPUs with AVX-512, only the products differ from each other.
OLDER = {
    "haswell": (f"{LAWS} or {SOME} or {CHOICES}", PRODUCTS, BLOCKS, ROUTERS, MIXTURES),
    "skylake-avx512": (LAWS, PRODUCTS),
}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Tests in other processes with other kernels, all at once: most of their time goes into compiling, on one core.

    What has no products of bytes is in a directory of its own, or it would be taken for this CPU's code.
    """
    runs = {
        name: started(*some, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES="")
        for name, some in OLDER.items()
        if has_all_of(name)
    }
    integers = f"{LAWS} and (int8 or int4 or mxfp4)"
    runs["plain"] = started(
        integers, PRODUCTS, "-p", "plain_cpu", NUMBA_CACHE_DIR=str(tmp_path_factory.mktemp("plain"))
    )
    yield runs
    for run in runs.values():
        run.kill()


def has_all_of(name: str) -> bool:
    """Whether this CPU has whatever that one has."""
    return features_of(name, "") <= features_of(*compiled_for()[1:])


def started(names: str, *arguments: str, **settings: str) -> subprocess.Popen:
    """Tests of the modules beside this one, some by their names, begun with other settings."""
    here = "-p", "numba"  # imported, so that no process is started for each function that is compiled
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *here, "-k", names, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **settings}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=os.path.dirname(__file__), env=environment, **pipes)


def passed(run: subprocess.Popen) -> None:
    said = run.communicate()[0]
    assert run.returncode == 0, said[-3000:]


@pytest.mark.parametrize("name", OLDER)
def test_the_kernels_of_older_cpus_pass_the_same_tests(name, others):
    if name not in others:
        pytest.skip(f"this CPU has not all that {name} has")
    passed(others[name])


def test_what_cpus_without_products_of_bytes_run_passes_the_same_tests(others):
    passed(others["plain"])


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_kernel_can_be_read_from_its_text(format):
    layout = Tiled(format, 16, 128)
    cpus = Cpu("x86_64", "vnni512", wide=True, bfloat16=True), Cpu("x86_64", "maddubs"), Cpu("aarch64", "sdot")
    kernels = {choose(layout, planes, cpu) for planes in (1, 2) for cpu in cpus}
    assert {Kernel.read(kernel.word) for kernel in kernels} == kernels
    assert len({kernel.word for kernel in kernels}) == len(kernels)
