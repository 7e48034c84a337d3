"""What a newcomer relies on without reading it: dependencies, service units, hooks, no stray paths."""

import ast
import configparser
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOMS = ("core", "privacy", "strategies", "data", "client", "server", "lab", "cli")
DIRECT = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()
}
OPTIONAL = EXTRAS["opcua"] + EXTRAS["postgres"]
DEVELOPMENT = [one for one in EXTRAS["dev"] if one.name != PROJECT["name"]] + OPTIONAL
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)
PROVIDERS = packages_distributions()
UNITS = sorted(ROOT.glob("deploy/*.service"))

NOT_IMPORTED = {
    "httptools": "uvicorn parses with it",
    "onnx": "torch.onnx writes with it",
    "onnxscript": "torch.onnx translates with it",
    "tzdata": "zoneinfo reads it where the system has no zones",
}


def imported() -> set[str]:
    """Top-level names that the package imports, wherever in a module."""
    found: set[str] = set()
    for file in (file for room in ROOMS for file in (ROOT / room).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"interplant"}


def providers(name: str) -> set[str]:
    """Distributions that provide an importable name; stubs do not count."""
    found = {canonicalize_name(one) for one in PROVIDERS.get(name, [])}
    return {one for one in found if not one.endswith("-stubs") and not one.startswith("types-")}


def unit(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


def test_every_import_is_declared() -> None:
    declared = {canonicalize_name(one.name) for one in [*DIRECT, *OPTIONAL]}
    missing = {name for name in imported() if not providers(name) & declared}
    assert missing == set()


def test_every_dependency_is_used() -> None:
    used = {one for name in imported() for one in providers(name)}
    idle = {canonicalize_name(one.name) for one in DIRECT} - used - set(NOT_IMPORTED)
    assert idle == set()


@pytest.mark.parametrize("wanted", [*DIRECT, *DEVELOPMENT], ids=str)
def test_the_constraints_pin_every_dependency(wanted: Requirement) -> None:
    assert wanted.specifier.contains(PINS[canonicalize_name(wanted.name)])


def test_the_constraints_are_exact_and_installable_anywhere() -> None:
    for name, version in PINS.items():
        assert name == canonicalize_name(name)
        # No local tag ("+cpu"), no address, no marker: a plain version.
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_its_command_unprivileged(path: Path) -> None:
    service = unit(path)["Service"]
    side = path.stem.removeprefix("interplant-")
    assert service["ExecStart"].partition("/bin/")[2].split()[:3] == ["interplant", side, "serve"]
    assert service["User"] != "root"
    assert service["NoNewPrivileges"] == service["ProtectHome"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["UMask"] == "0077"
    # Neither process tells systemd that it is ready.
    assert service["Type"] in ("simple", "exec")


def test_a_plant_may_open_no_port() -> None:
    path = ROOT / "deploy" / "interplant-plant.service"
    assert path in UNITS
    assert unit(path)["Service"]["SocketBindDeny"] == "any"


def test_hooks_run_from_the_repository_alone() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [one["repo"] for one in hooks["repos"]] == ["local"]
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks["repos"][0]["hooks"])


def test_no_path_of_an_authors_machine_is_left() -> None:
    # Written in pieces, so that this file does not find itself.
    stray = re.compile("/" + r"(?:root|work|Users|home/\w+)" + "/")
    kinds = (".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".proto", ".service", ".lock", "Makefile", "run")
    folders = (*ROOMS, "tests", "docs", "deploy", "examples", "benchmarks", ".ci")
    files = [*ROOT.iterdir(), *(file for folder in folders for file in (ROOT / folder).rglob("*"))]
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in files
        if file.is_file() and file.name.endswith(kinds)
        for match in stray.finditer(file.read_text(errors="replace"))
    ]
    assert found == []
