"""The programs' short names, under which pip installs them."""

import sys
from configparser import ConfigParser
from importlib.metadata import EntryPoint

import pytest
from conftest import REPOSITORY


def console_scripts() -> dict[str, str]:
    """Their functions by name. What is installed may be older than setup.cfg."""
    settings = ConfigParser(delimiters="=")
    settings.read(REPOSITORY / "setup.cfg")
    lines = settings["options.entry_points"]["console_scripts"].split("\n")
    return dict(line.split(" = ") for line in lines if line)


SCRIPTS = console_scripts()


def test_every_program_for_people_has_a_short_name():
    files = [path for package in ("tpi_mpi", "weights_tools") for path in (REPOSITORY / package).glob("[!_]*.py")]
    programs = {f"tpi-{path.stem}": f"{path.parent.name}.{path.stem}:main" for path in files}
    del programs["tpi-backend"]  # a server starts it
    assert programs == SCRIPTS


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--no-such-option", 2)])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_short_name_is_the_program(name, argument, status, monkeypatch, capsys):
    main = EntryPoint(name, SCRIPTS[name], "console_scripts").load()
    monkeypatch.setattr(sys, "argv", [name, argument])
    with pytest.raises(SystemExit) as ended:  # as in the script that pip writes
        sys.exit(main())
    assert ended.value.code == status
    said = capsys.readouterr()
    assert f"python -m {SCRIPTS[name].removesuffix(':main')}" in said.out if status == 0 else "; see --help" in said.err
