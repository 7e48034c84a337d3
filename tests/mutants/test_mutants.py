"""Every planted bug is noticed by the tests named for it, which pass without it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .bug import ROOT, Bug
from .bugs import BUGS, PAGE, page
from .verdicts import Notes, judge

Verdicts = Iterator[dict[str, Any]]


class Run:
    """The runner's process, and what it has said so far."""

    def __init__(self, names: list[str]) -> None:
        command = [sys.executable, "-m", "tests.mutants.runner", *names]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.said: dict[str, dict[str, Any]] = {}

    def verdict(self, name: str) -> dict[str, Any]:
        """Wait until the runner has judged ``name``."""
        assert self.process.stdout
        while name not in self.said:
            line = self.process.stdout.readline()
            assert line, f"the runner ended with {self.process.wait()} and said nothing of {name}"
            found = json.loads(line)
            self.said[found["name"]] = found
        return self.said[name]


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """One runner for all bugs whose tests were asked for."""
    asked = [
        item.callspec.params["bug"].name
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_the_bug_is_noticed" and item.path == Path(__file__)
    ]
    started = Run(["unchanged", *asked])
    with started.process:
        yield started
        started.process.terminate()


# The runner bounds every child; this is for one that hangs itself.
def test_without_a_bug_the_same_tests_pass(run: Run) -> None:
    verdict = run.verdict("unchanged")
    assert (verdict["failed"], verdict["error"]) == ([], "")
    assert verdict["passed"]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_bug_is_noticed(run: Run, bug: Bug) -> None:
    verdict = run.verdict(bug.name)
    assert verdict["error"] == ""
    assert verdict["killed"], f"lives on: {bug.meaning} Passed: {verdict['passed']}"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_bug_still_fits_the_code(bug: Bug) -> None:
    assert bug.changed() != bug.path.read_text()


def test_a_bug_that_no_longer_fits_is_a_fault() -> None:
    stale = Bug("stale", "", "interplant.privacy.plan", (("no such text", ""),), ())
    with pytest.raises(ValueError, match=r"once in privacy/plan\.py, found it 0 times"):
        stale.changed()


@pytest.mark.parametrize(
    ("code", "notes", "loaded", "error"),
    [
        (1, Notes(failed=[("a[1]", "call", "AssertionError"), ("b", "call", "NameError")]), True, "crashed"),
        (1, Notes(failed=[("a[1]", "setup", "AssertionError")], passed=["b"]), True, "crashed"),
        (1, Notes(failed=[("a[1]", "call", "Failed")]), True, "did not run"),
        (1, Notes(failed=[("a[1]", "call", "Failed"), ("b", "call", "Failed")]), False, "never load"),
        (2, Notes(not_collected=["a"]), True, "not collected"),
        (5, Notes(), True, "exited with 5"),
    ],
)
def test_a_run_that_says_nothing_is_a_fault(code: int, notes: Notes, loaded: bool, error: str) -> None:
    verdict = judge("bug", ["a", "b"], code, notes, loaded)
    assert error in verdict.error
    assert not verdict.killed


def test_a_bug_is_noticed_only_if_every_test_named_for_it_fails() -> None:
    both = [("a[1]", "call", "Failed"), ("b", "call", "AssertionError")]
    assert judge("bug", ["a", "b"], 1, Notes(failed=both, passed=["a[2]"]), True).killed
    alive = judge("bug", ["a", "b"], 1, Notes(failed=both[:1], passed=["b"]), True)
    assert (alive.killed, alive.error) == (False, "")
    assert not judge("bug", ["a", "b"], 0, Notes(passed=["a[1]", "b"]), True).killed


def test_there_are_enough_bugs_each_with_its_own_name() -> None:
    assert len(BUGS) >= 16
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert all(re.fullmatch(r"[a-z0-9-]+", bug.name) and bug.killers for bug in BUGS)


def test_the_page_shows_the_catalogue() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.mutants.bugs`"
