"""What pytest's run says of a bug: noticed, alive, or nothing at all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

UNCHANGED = "unchanged"
"""Stands for the run of all tests without a bug."""

NOTICED = ("AssertionError", "Failed")
"""How a test fails that noticed something: anything else, such as a NameError, is a bug that crashes."""


@dataclass(eq=False)
class Notes:
    """A pytest plugin that notes what became of each test.

    Args:
        failed: Each with its phase and the exception's type.
        passed: Those that passed.
        not_collected: Files that pytest could not read, or lacks.
    """

    failed: list[tuple[str, str, str]] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    not_collected: list[str] = field(default_factory=list)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.not_collected.append(report.nodeid)

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.excinfo is not None:
            self.failed.append((item.nodeid, call.when, call.excinfo.typename))
        elif call.when == "call":
            self.passed.append(item.nodeid)


@dataclass
class Verdict:
    """What became of one bug.

    Args:
        name: The bug's, or `UNCHANGED`.
        killed: Whether every test that is named for it failed by an assertion.
        error: Why the run says nothing; empty if it does.
        failed: The tests that failed.
        passed: The tests that passed.
        seconds: How long it took.
    """

    name: str
    killed: bool = False
    error: str = ""
    failed: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def judge(name: str, killers: Sequence[str], code: int, notes: Notes, loaded: bool) -> Verdict:
    """Say whether the tests noticed a bug.

    Args:
        name: The bug's.
        killers: The tests that should; one that is named without parameters stands for all of them.
        code: What pytest exited with.
        notes: What became of each test.
        loaded: Whether the module with the bug was loaded at all.
    """
    failed = [test for test, _, _ in notes.failed]
    crashed = [
        f"{test}: {kind}" for test, when, kind in notes.failed if when != "call" or kind not in NOTICED
    ]
    ran = [*failed, *notes.passed]
    missing = [named for named in killers if not _any(named, ran)]
    verdict = Verdict(name, failed=failed, passed=notes.passed)
    if code not in (0, 1) or notes.not_collected:
        verdict.error = f"pytest exited with {code}; not collected: {notes.not_collected}"
    elif missing:
        verdict.error = f"these tests did not run: {missing}"
    elif crashed and name != UNCHANGED:
        verdict.error = f"crashed, which notices nothing: {crashed[:3]}"
    elif not loaded:
        verdict.error = "its tests never load the module"
    else:
        verdict.killed = all(_any(named, failed) for named in killers)
    return verdict


def _any(named: str, tests: Sequence[str]) -> bool:
    """Whether the named test is among them, or that one with some parameters."""
    return any(test == named or test.startswith(f"{named}[") for test in tests)
