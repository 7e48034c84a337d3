"""The documents tell the truth: their commands exist, their links lead somewhere."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from interplant.cli.commands import app

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md"), *ROOT.glob("examples/*/*.md")]
)
README = (ROOT / "README.md").read_text()
COMMANDS = typer.main.get_command(app)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text: str) -> list[str]:
    """Contents of the fenced blocks, without Mermaid and Python."""
    found = re.findall(r"^[ \t]*```(\w*)\n(.*?)^[ \t]*```", text, re.DOTALL | re.MULTILINE)
    return [content for language, content in found if language in ("", "bash", "sh", "console")]


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Words of every line that calls ``program``, in blocks and in inline code."""
    lines = [line for block in blocks(text) for line in block.splitlines()]
    lines += re.findall(rf"`({program} [^`]+)`", text)
    for line in lines:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        words = words[3:] if words[:2] == ["sudo", "-u"] else words
        if words and Path(words[0]).name == program:
            yield words[1:]


def problem(words: list[str]) -> str:
    """What is wrong with the words of an ``interplant`` command; empty if it could be called."""
    command, path = COMMANDS, []
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        path.append(words[0])
        if words[0].isupper() or words[0] == "…":
            return ""
        if words[0] not in command.commands:
            return f"no command {' '.join(path)}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for one in command.params if isinstance(one, click.Option) for option in one.opts}
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in {*known, "--help"}:
            return f"{' '.join(path)} has no option {word}"
    return ""


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as the forges make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_every_interplant_command_exists(page: Path) -> None:
    found = [(words, problem(words)) for words in commands(page.read_text(), "interplant")]
    assert [(words, said) for words, said in found if said] == []


def test_a_wrong_command_would_be_found() -> None:
    text = "```\ninterplant plant jion north.join\ninterplant run start turbofan --fast  # now\n```\n"
    said = [problem(words) for words in commands(text, "interplant")]
    assert said == ["no command plant jion", "run start has no option --fast"]


@pages
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        word for words in commands(page.read_text(), "make") for word in words if re.fullmatch("[a-z]+", word)
    }
    assert called <= targets


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


def test_the_readme_begins_with_the_two_commands() -> None:
    lines = [line.partition("#")[0].strip() for line in blocks(README)[0].splitlines()]
    assert lines == ["make demo", "make test"]


def test_the_readme_says_what_it_is_for_draws_the_way_of_the_data_and_says_what_is_missing() -> None:
    order = ["make demo", "## What it is for", "```mermaid", "## What it does not do yet"]
    places = [README.index(part) for part in order]
    assert places == sorted(places)
    drawing = README.partition("```mermaid")[2].partition("```")[0]
    for stop in ("contract", "snapshot", "trainer", "gateway", "merge", "release", "gate", "champion"):
        assert stop in drawing


def test_every_page_is_in_the_site() -> None:
    navigation = set(re.findall(r"^  - \w+: (\S+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert navigation == {page.name for page in ROOT.glob("docs/*.md")}


def test_the_changes_begin_with_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    first = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first
    assert first[1] == version
