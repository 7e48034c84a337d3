"""What a command costs before it does anything, and how it ends."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from interplant.cli.main import exit_code
from interplant.core.errors import InterplantError, Refusal, UsageError

from .conftest import RELEASE

HEAVY = {"torch", "flwr", "opacus", "pandas", "dvc", "onnxruntime"}

PROBE = """
import json, sys
sys.argv = ["interplant", *json.loads(sys.argv[1])]
from interplant.cli import main
try:
    main.run_command()
finally:
    sys.stderr.write("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded_by(words: list[str], folder: Path) -> tuple[set[str], float]:
    """Packages in memory at the end of a command, and its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(words)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    modules = set(json.loads(done.stderr.splitlines()[-1]))
    return modules, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "start", "--help"],
        ["coordinator", "status"],
        ["run", "list"],
        ["release", "list"],
        ["plant", "status", "--dir", "north"],
        ["plant", "pause", "--dir", "north"],
        ["privacy", "ledger", "--dir", "north"],
        ["lineage", RELEASE],
    ],
    ids=" ".join,
)
def test_light_commands_load_nothing_heavy_and_start_within_a_second(words: list[str], place: Path) -> None:
    modules, seconds = loaded_by(words, place)
    assert "typer" in modules
    assert not modules & HEAVY
    # Processor time, and a second look: the machine that tests may be busy with something else.
    assert seconds < 1.0 or loaded_by(words, place)[1] < 1.0


def test_starting_a_run_loads_torch_for_its_first_weights_and_nothing_else_heavy(place: Path) -> None:
    modules, _ = loaded_by(["run", "start", "turbofan"], place)
    assert modules & HEAVY == {"torch"}


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InterplantError("the disk\nis full"), 1, "interplant: the disk is full\n"),
        (UsageError("task.yaml:3: rounds: no"), 2, "interplant: task.yaml:3: rounds: no\n"),
        (Refusal("paused"), 1, "interplant: the plant is paused by its engineer [paused]\n"),
        (PermissionError(13, "Permission denied", "x.join"), 1, "interplant: x.join: Permission denied\n"),
    ],
)
def test_what_a_command_raises_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(lambda: raising(error)) == code
    assert capfd.readouterr().err == line


def test_a_fault_of_ours_is_one_line_too_and_shows_its_place_when_asked(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INTERPLANT_TRACEBACK", raising=False)
    assert exit_code(lambda: raising(SystemExit(0))) == 1, "a stranger's code has ended the command"
    assert "SystemExit" in capfd.readouterr().err
    assert exit_code(lambda: raising(ZeroDivisionError("by zero"))) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "ZeroDivisionError: by zero" in said
    monkeypatch.setenv("INTERPLANT_TRACEBACK", "1")
    assert exit_code(lambda: raising(ZeroDivisionError("by zero"))) == 1
    assert "Traceback" in capfd.readouterr().err


def carried_out(code: str) -> "subprocess.CompletedProcess[str]":
    """Run some lines of Python."""
    words = [sys.executable, "-c", code]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)


PRESSED = """
import signal
from interplant.cli import commands, main

def call(words):
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        raise ValueError("half tidied up")

commands.call = call
main.run_command()
"""


def test_ctrl_c_is_told_as_such_where_an_error_takes_its_place() -> None:
    """What OmegaConf does when it is interrupted while it merges."""
    done = carried_out(PRESSED)
    assert (done.returncode, done.stderr) == (1, "interplant: stopped\n")


SWALLOWED = """
import signal, time, weakref
from interplant.cli import commands, main

class Thing: pass

def call(words):
    for _ in range(2):
        thing = Thing()
        one = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing  # the interrupt comes where Python calls back, and cannot be raised
        time.sleep(60)
    return 0

commands.call = call
main.run_command()
"""


def test_ctrl_c_that_python_swallows_comes_again() -> None:
    """In the middle of an import, say, whose locks end in a callback."""
    done = carried_out(SWALLOWED)
    assert (done.returncode, done.stderr) == (1, "interplant: stopped\n")


def test_other_errors_that_python_swallows_are_told() -> None:
    code = SWALLOWED.replace("signal.raise_signal(signal.SIGINT)", "1 / 0").replace("time.sleep(60)", "pass")
    done = carried_out(code)
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stderr


def test_a_reader_that_goes_away_is_no_traceback(place: Path) -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "interplant.cli.main",
            "release",
            "card",
            RELEASE,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=place,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout
    assert child.stderr
    child.stdout.close()
    assert child.wait(60) in (0, 1)
    assert child.stderr.read() == b""
    child.stderr.close()
