"""docs/commands.md says what the commands are, and its examples run."""

import hashlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest

from interplant.cli.commands import command
from interplant.client import setup as plant_setup
from interplant.client.directory import PlantDirectory
from interplant.client.verdicts import Verdict, record
from interplant.core import certificates, config
from interplant.core.schema import Source, Task
from interplant.data import cmapss
from interplant.data.door import admit
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.data.store import Store
from interplant.data.tasks import builtin
from interplant.server import runs
from interplant.server.authority import Authority
from interplant.server.backup import back_up
from interplant.server.directory import CoordinatorDirectory
from interplant.server.followed import PROPOSED
from interplant.server.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
RUN = "20260101-120000-ab12"
RELEASE = f"turbofan-{RUN}-c0ffee"
Call = Callable[..., Any]


def walk(
    below: click.Command, path: tuple[str, ...] = ("interplant",)
) -> Iterator[tuple[str, click.Command]]:
    if isinstance(below, click.Group):
        for name, one in below.commands.items():
            yield from walk(one, (*path, name))
    else:
        yield " ".join(path), below


COMMANDS = dict(walk(command()))
SECTIONS = {
    section.partition("\n")[0]: section.partition("\n")[2]
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
}


def rows(found: click.Command) -> list[list[str]]:
    """The table that the page must hold for a command."""
    table = []
    for one in found.params:
        if "--json" in one.opts:
            continue
        is_word = isinstance(one, click.Argument)
        word = (
            one.make_metavar(click.Context(found)) if is_word else ", ".join([*one.opts, *one.secondary_opts])
        )
        plain = one.default not in (None, "") and not isinstance(one.default, bool)
        default = "required" if one.required else f"`{one.default}`" if plain else ""
        table.append([f"`{word}`", default, str(getattr(one, "help", ""))])
    return table


def test_the_page_has_a_section_for_every_command_and_no_other() -> None:
    assert sorted(SECTIONS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_says_what_the_command_takes(name: str) -> None:
    found, section = COMMANDS[name], SECTIONS[name]
    assert " ".join(str(found.help).split()) in section
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    assert [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines] == rows(found)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json_and_explains_its_words(name: str) -> None:
    found = COMMANDS[name]
    assert any("--json" in one.opts for one in found.params)
    assert all(getattr(one, "help", "") for one in found.params)


def test_every_example_is_of_its_own_section() -> None:
    for name, section in SECTIONS.items():
        (example,) = re.findall(r"^\$ (.*)$", section, re.M)
        assert example.startswith(name)


EXAMPLES = {
    name: shlex.split(found[1])[1:]
    for name, section in SECTIONS.items()
    if (found := re.search(r"^```console\n\$ (.*)$", section, re.M))
}


def test_only_what_serves_and_the_demo_is_not_run_here() -> None:
    left = set(COMMANDS) - set(EXAMPLES)
    assert left <= {"interplant demo", "interplant coordinator serve", "interplant plant serve"}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("waiting")
def test_an_example_does_what_it_says(
    name: str, place: Path, interplant: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(name, place, monkeypatch)
    done = interplant(*EXAMPLES[name])
    assert (done.code, done.err) == (0, "")
    assert done.out.strip()


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("waiting")
def test_an_example_with_json_prints_one_document(
    name: str, place: Path, interplant: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(name, place, monkeypatch)
    done = interplant(*EXAMPLES[name], "--json")
    assert (done.code, done.err) == (0, "")
    assert isinstance(done.json, dict | list)


def prepare(name: str, place: Path, patch: pytest.MonkeyPatch) -> None:
    """Make what an example takes for granted."""
    coordinator = CoordinatorDirectory(place / "coordinator")
    if name == "interplant coordinator init":
        shutil.rmtree(coordinator.path)
    if name == "interplant plant join":
        authority = Authority.open(coordinator)
        (place / "south.join").write_text(authority.invite("south"))
        patch.setattr(
            plant_setup,
            "enrol",
            lambda join, request: authority.accept(certificates.identity(join.certificate), request),
        )
    if name == "interplant release retry":
        record(PlantDirectory(place / "north"), RELEASE, Verdict("refused", "slow", "it was slow"))
    if name == "interplant release rollback":
        with closing(Registry.open(coordinator)) as registry:
            registry.approve_release(RELEASE, "by a person")
            registry.roll_out_release(RELEASE)
    if name == "interplant coordinator restore":
        back_up(coordinator, place / "sunday.tar")
    if name in ("interplant run approve", "interplant run decline"):
        with closing(Registry.open(coordinator)) as registry:
            registry.add_event(PROPOSED, "turbofan", "proposed by north (drift)")
    if name == "interplant run resume":
        runs.stop_run(coordinator, RUN)
    if name == "interplant data fetch":
        (place / "downloads").mkdir()
        for file in cmapss.FILES:
            (place / "downloads" / file).write_text(file)
        known = {file: hashlib.sha256(file.encode()).hexdigest() for file in cmapss.FILES}
        patch.setattr(cmapss, "FILES", known)
    if name == "interplant privacy measure":
        Repository(place / "north" / "data").snapshot(simulate(0, 2, 0))
    if name == "interplant data drift":
        dataset = simulate(0, 8, 0)
        snapshot = Repository(place / "north" / "data").snapshot(dataset)
        EXAMPLES[name][EXAMPLES[name].index("--snapshot") + 1] = snapshot.digest
        dataset.train.to_csv(place / "today.csv", index=False)
    if name == "interplant data ingest":
        (place / "export").mkdir()
        simulate(0, 2, 0).train.to_csv(place / "export" / "readings.csv", index=False)
    if name in ("interplant data diff", "interplant data erase"):
        store = Store(place / "north" / "store", config.load(builtin("turbofan"), Task).contract)
        repository = Repository(place / "north" / "data")
        for machine in ("3", "4"):
            readings = simulate(0, 1, int(machine)).train.assign(machine=machine)
            store.add(
                admit(pa.Table.from_pandas(readings), store.contract, Source("export", "folder"), "").good
            )
            made = repository.freeze(store)
            if machine == "3":
                EXAMPLES["interplant data diff"][2] = made.digest
    if name == "interplant data check":
        (place / "export").mkdir()
        dataset = simulate(0, 2, 0)
        dataset.train.to_csv(place / "export" / "train.csv", index=False)
        dataset.holdout.to_parquet(place / "export" / "holdout.parquet")
