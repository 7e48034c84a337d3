"""The shape of the repository: folders are packages, and rooms are read in one direction."""

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

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
"""What each room may import: core, then privacy and strategies, data, client and server, lab, cli."""

NOT_ROOMS = {"tests", "benchmarks", "deploy", "docs", "examples"}
ROOMS = sorted(EARLIER)
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))


def tracked_folders():
    """Folders at the root that belong to the repository, not to somebody's machine."""
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode == 0 and found.stdout:
        return {line.split("/")[0] for line in found.stdout.splitlines() if "/" in line}
    return {path.name for path in ROOT.iterdir() if any(path.glob("*.py"))}


def name_of(path):
    return f"{path.parent.name}.{path.stem}"


def imports_of(path):
    """Modules of ours that a file names in an import, wherever it stands; and relative ones."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_folders_and_packages_are_the_same_set():
    folders = {name for name in tracked_folders() if not name.startswith(".")} - NOT_ROOMS
    packages = PROJECT["tool"]["setuptools"]["packages"]
    assert packages == sorted(packages)
    assert {f"interplant.{name}" for name in folders} == set(packages)
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {f"interplant.{name}": name for name in folders}
    assert folders == set(ROOMS)


def test_no_folder_is_called_interplant():
    assert not (ROOT / "interplant").exists()


def test_the_type_checkers_links_agree():
    links = {path.name: os.readlink(path) for path in (ROOT / ".typing" / "interplant").iterdir()}
    assert links == {room: f"../../{room}" for room in ROOMS}
    assert not (ROOT / ".typing" / "interplant" / "__init__.py").exists()


def test_linters_ban_the_bare_names():
    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert banned == {room: {"msg": f"import interplant.{room}"} for room in ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_flat(room):
    folders = [path.name for path in (ROOT / room).iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert folders == []
    assert (ROOT / room / "py.typed").is_file()
    module = importlib.import_module(f"interplant.{room}")
    assert Path(str(module.__file__)).resolve() == ROOT / room / "__init__.py"


def test_every_way_to_import_is_seen(tmp_path):
    (tmp_path / "module.py").write_text(
        "import interplant.server.runs\nfrom interplant import client\nfrom interplant.lab.demo import run\n"
        "def late():\n    from interplant.cli import main\n"
    )
    found = {name.split(".")[1] for name in imports_of(tmp_path / "module.py")}
    assert found == {"server", "client", "lab", "cli"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_earlier_rooms(path):
    allowed = EARLIER[path.parent.name] | {path.parent.name}
    if path.name.startswith("federation_pb2"):
        return  # generated: it imports what protoc writes
    for imported in imports_of(path):
        first, _, rest = imported.partition(".")
        assert first not in ROOMS, f"{path}: import interplant.{imported}"
        if first == "interplant":
            assert rest.split(".")[0] in allowed, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_loads_a_later_one_at_run_time(room):
    """Also what is imported by name, or by a helper, shows when every module of a room is loaded."""
    modules = [f"interplant.{name_of(path)}" for path in MODULES if path.parent.name == room]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(*sorted({name.split('.')[1] for name in sys.modules if name.startswith('interplant.')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert set(done.stdout.split()) <= EARLIER[room] | {room}


def test_tests_mirror_the_rooms():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= {*ROOMS, "mutants", "system"}


def test_generated_code_is_what_the_protocol_says(tmp_path):
    binaries = str(Path(sys.executable).parent)
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / ".typing"),
            f"--python_out={tmp_path}", f"--mypy_out={tmp_path}",
            f"--grpc_python_out={tmp_path}", f"--mypy_grpc_out={tmp_path}",
            str(ROOT / ".typing" / "interplant" / "core" / "federation.proto"),
        ],
        check=True, capture_output=True, env=os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}"},
    )  # fmt: skip
    made = {path.name: path.read_text() for path in (tmp_path / "interplant" / "core").iterdir()}
    assert sorted(made) == [
        "federation_pb2.py", "federation_pb2.pyi", "federation_pb2_grpc.py", "federation_pb2_grpc.pyi",
    ]  # fmt: skip
    for name, text in made.items():
        assert (ROOT / "core" / name).read_text() == text, f"{name}: run `make proto`"
