"""The tree is as README draws it: every module in it, and imports that only go down."""

import ast
import re

import pytest
from conftest import REPOSITORY


def drawn() -> list[str]:
    """The modules of README's tree, from the top down, as package.module."""
    modules, package = [], ""
    for line in (REPOSITORY / "README.md").read_text().splitlines():
        if folder := re.match(r"(tpi_mpi|weights_tools)/  ", line):
            package = folder[1]
        elif module := re.match(r"  (\w+)\.py  ", line):
            modules.append(f"{package}.{module[1]}")
    return modules


def imports(module: str) -> set[str]:
    tree = ast.parse((REPOSITORY / f"{module.replace('.', '/')}.py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_module_is_drawn():
    present = {
        f"{package}.{path.stem}"
        for package in ("tpi_mpi", "weights_tools")
        for path in (REPOSITORY / package).glob("*.py")
        if path.stem != "__init__"
    }
    assert present == set(drawn())
    assert len(drawn()) == len(set(drawn()))


@pytest.mark.parametrize("module", drawn())
def test_imports_only_go_down(module):
    modules = drawn()
    above = modules[: modules.index(module) + 1]
    if module.startswith("weights_tools."):
        above = [other for other in above if other.startswith("weights_tools.")]
    else:
        above += [other for other in modules if other.startswith("weights_tools.")]
    assert not imports(module) & set(above)


DOORS = {
    "mpi4py": {"tpi_mpi.parallel", "tpi_mpi.allreduce", "tpi_mpi.processors"},
    "h5py": {"tpi_mpi.slabs"},
    "mmap": {
        "tpi_mpi.mapping",
        "tpi_mpi.pages",
        "tpi_mpi.disks",
        "tpi_mpi.rehearsal",
        "weights_tools.staged_file",
        "weights_tools.transfer",
    },
    "safetensors": {"weights_tools.checkpoint", "weights_tools.synth"},
    "tokenizers": {"tpi_mpi.tokenizer", "weights_tools.synth"},
    "jinja2": {"tpi_mpi.chat"},
    "matplotlib": {"tpi_mpi.pictures"},
    "pickle": set(),
}


@pytest.mark.parametrize("package", DOORS)
def test_every_dependency_has_its_doors(package):
    users = {module for module in drawn() if any(name.split(".")[0] == package for name in imports(module))}
    assert users <= DOORS[package]
