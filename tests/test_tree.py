"""The tree is as README draws it: every folder in it, and imports that only go down."""

import ast
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGES = ("tpi_mpi", "weights_tools")
# What each package may import besides itself. Whatever these may import, it may too.
STANDS_ON = {
    "tpi_mpi": {"preflight", "offline", "interface", "serving", "dialogue", "cli"},
    "tpi_mpi.serving": {"engine", "cli"},
    "tpi_mpi.dialogue": {"cli", "common"},
    "tpi_mpi.interface": {"engine", "cli"},
    "tpi_mpi.preflight": {"measurement"},
    "tpi_mpi.measurement": {"engine"},
    "tpi_mpi.offline": {"engine"},
    "tpi_mpi.engine": {"weights", "tokenizer", "comm"},
    "tpi_mpi.cli": {"weights", "comm"},
    "tpi_mpi.weights": {"model"},
    "tpi_mpi.model": {"kernels"},
    "tpi_mpi.kernels": {"common"},
    "tpi_mpi.tokenizer": {"common"},
    "tpi_mpi.comm": {"kernels"},
    "tpi_mpi.common": set(),
    "weights_tools": {"measurement", "cli"},  # and nothing stands on it
}
MOST_MODULES = 12


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


MODULES = sorted(
    module_of(path) for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py") if path.stem != "__init__"
)
FOLDERS = sorted({module.rpartition(".")[0] for module in MODULES})


def path_of(module: str) -> Path:
    return REPOSITORY / f"{module.replace('.', '/')}.py"


def imports(module: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def package_of(module: str) -> str:
    """``tpi_mpi.comm`` of ``tpi_mpi.comm.allreduce.star``; ``tpi_mpi`` of its programs."""
    folder = module.rpartition(".")[0]
    return ".".join(folder.split(".")[:2])


def drawn() -> dict[str, str]:
    """Folders and modules of README's tree, with their phrases: a module is named only at the top."""
    found, folders = {}, []
    for line in (REPOSITORY / "README.md").read_text().splitlines():
        entry = re.match(r"( *)([\w.]+/?)  +(\S.*)", line)
        if not entry:
            continue
        depth, name = len(entry[1]) // 2, entry[2]
        folders = [*folders[:depth], name.rstrip("/")]
        if folders[0] in PACKAGES and len(folders) == depth + 1:
            found[".".join(folders).removesuffix(".py")] = entry[3]
    return found


def test_readme_draws_every_folder_and_every_program():
    programs = {module for module in MODULES if module.rpartition(".")[0] in PACKAGES}
    assert set(drawn()) == {*FOLDERS, *programs}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_tells_its_modules(folder):
    own = {module.rpartition(".")[2] for module in MODULES if module.rpartition(".")[0] == folder}
    if folder in PACKAGES:  # README tells the programs
        return
    text = ast.get_docstring(ast.parse((REPOSITORY / folder.replace(".", "/") / "__init__.py").read_text()))
    told = re.findall(r"^(\w+) {2,}\S", text, flags=re.MULTILINE)
    assert sorted(told) == sorted(own)
    assert len(own) <= MOST_MODULES


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_happens_at_the_import_of_a_package(folder):
    body = ast.parse((REPOSITORY / folder.replace(".", "/") / "__init__.py").read_text()).body
    code = [node.name if isinstance(node, ast.FunctionDef) else ast.unparse(node).split(" = ")[0] for node in body[1:]]
    assert code == (["__version__", "__getattr__"] if folder == "tpi_mpi" else [])


def below(package: str) -> set[str]:
    """All packages that it may import."""
    found = set()
    for other in STANDS_ON[package]:
        found |= {f"tpi_mpi.{other}", *below(f"tpi_mpi.{other}")}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_packages_import_only_what_stands_below(module):
    own = "weights_tools" if module.startswith("weights_tools.") else package_of(module)
    used = {package_of(name) for name in imports(module) if name in MODULES}
    assert {package for package in used if not f"{package}.".startswith(f"{own}.")} <= below(own)


def test_modules_import_each_other_in_no_circle():
    needs = {module: imports(module) & set(MODULES) for module in MODULES}
    done: set[str] = set()
    while len(done) < len(MODULES):
        ready = {module for module in MODULES if module not in done and needs[module] <= done}
        assert ready, f"a circle among {sorted(set(MODULES) - done)}"
        done |= ready


DOORS = {
    "mpi4py": {"tpi_mpi.comm.world", "tpi_mpi.comm.allreduce.algorithms", "tpi_mpi.comm.affinity"},
    "h5py": {f"tpi_mpi.weights.slabs.{name}" for name in ("hdf5", "hdf5_experts", "hdf5_parts")},
    "mmap": {
        "tpi_mpi.weights.mapping",
        "tpi_mpi.weights.pages",
        "tpi_mpi.weights.experts.slots",
        "tpi_mpi.measurement.disk_probe",
        "tpi_mpi.engine.sweep.warmup",
        "weights_tools.splitting.staged_file",
        "weights_tools.transfer.stream",
    },
    "safetensors": {"weights_tools.splitting.checkpoint", "weights_tools.synthesis.random_source"},
    "tokenizers": {"tpi_mpi.tokenizer.libraries", "weights_tools.synthesis.random_source"},
    "llguidance": {"tpi_mpi.engine.sampling.grammars"},
    "jinja2": {"tpi_mpi.tokenizer.chat_template"},
    "numba": {
        "tpi_mpi.kernels.loops.jit",
        "tpi_mpi.kernels.loops.atomics",
        "tpi_mpi.kernels.loops.memory",
        "tpi_mpi.kernels.tiles.intrinsics",
        "tpi_mpi.kernels.tiles.exact",
    },
    "llvmlite": {
        "tpi_mpi.kernels.cpu",
        "tpi_mpi.kernels.compiled.library",
        "tpi_mpi.kernels.loops.jit",
        "tpi_mpi.kernels.loops.atomics",
        "tpi_mpi.kernels.loops.memory",
        *(
            f"tpi_mpi.kernels.tiles.{module}"
            for module in ("emitter", "exact", "float_tile", "integer_tile", "rounding")
        ),
    },
    "matplotlib": {"tpi_mpi.measurement.figures"},
    "prompt_toolkit": {"tpi_mpi.dialogue.prompt"},
    "argparse": {
        "tpi_mpi.cli.parser",
        "tpi_mpi.cli.groups",
        "weights_tools.common.partition_arguments",
        "weights_tools.common.format_arguments",
        "weights_tools.split",
        "weights_tools.synth",
    },
    "torch": {  # a rank with kernels never imports it
        "tpi_mpi.kernels.fallback",
        "weights_tools.splitting.conversion",
        "weights_tools.splitting.cut",
        "weights_tools.synthesis.random_source",
        "weights_tools.synthesis.random_rows",
    },
    "uvicorn": {"tpi_mpi.serving.server"},
    "starlette": {f"tpi_mpi.serving.http.{name}" for name in ("access", "app", "bodies", "exchange")},
    "prometheus_client": {"tpi_mpi.serving.http.app", "tpi_mpi.serving.http.metrics"},
    "pydantic": {
        "tpi_mpi.serving.http.bodies",
        "tpi_mpi.serving.protocol.chat",
        "tpi_mpi.serving.protocol.fields",
        "tpi_mpi.serving.protocol.tokenization",
    },
    "pickle": set(),
}


@pytest.mark.parametrize("package", DOORS)
def test_every_dependency_has_its_doors(package):
    users = {module for module in MODULES if any(name.split(".")[0] == package for name in imports(module))}
    assert users <= DOORS[package]
