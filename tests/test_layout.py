"""The folders at the root are the package, and a room imports only earlier rooms."""

import ast
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

EARLIER = {
    "core": set(),
    "privacy": {"core"},
    "strategies": {"core"},
    "data": {"core", "privacy", "strategies"},
    "client": {"core", "privacy", "strategies", "data"},
    "server": {"core", "privacy", "strategies", "data"},
    "lab": {"core", "privacy", "strategies", "data", "client", "server"},
    "cli": {"core", "privacy", "strategies", "data", "client", "server", "lab"},
}
rooms = pytest.mark.parametrize("room", EARLIER)


def rooms_in(source: str) -> Iterator[str]:
    """Rooms that a module imports: at its head, inside functions, or for the type checker."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{name.name}" for name in node.names] if module == "interplant" else [module]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("interplant."))


def test_folders_and_packages_are_the_same_set() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(EARLIER)
    assert SETUPTOOLS["packages"] == sorted(f"interplant.{room}" for room in EARLIER)
    assert SETUPTOOLS["package-dir"] == {f"interplant.{room}": room for room in EARLIER}
    assert not (ROOT / "interplant").exists()


@rooms
def test_a_room_is_where_its_import_says(room: str) -> None:
    module = importlib.import_module(f"interplant.{room}")
    assert Path(str(module.__file__)).resolve() == ROOT / room / "__init__.py"


@rooms
def test_a_room_is_flat_typed_and_seen_by_the_type_checker(room: str) -> None:
    inner = [path.name for path in (ROOT / room).iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert inner == []
    assert (ROOT / room / "py.typed").exists()
    assert (ROOT / ".typing" / "interplant" / room).resolve() == ROOT / room


@rooms
def test_a_room_imports_only_earlier_rooms(room: str) -> None:
    later = {
        f"{file.name} imports {other}"
        for file in (ROOT / room).glob("*.py")
        for other in rooms_in(file.read_text())
        if other not in EARLIER[room] | {room}
    }
    assert later == set()


def test_every_way_to_import_is_seen() -> None:
    source = """
import interplant.server.runs
from interplant import client
from interplant.lab.demo import run_demo
def late():
    from interplant.cli import main
"""
    assert sorted(rooms_in(source)) == ["cli", "client", "lab", "server"]


def test_tests_mirror_the_rooms() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= {*EARLIER, "system"}
