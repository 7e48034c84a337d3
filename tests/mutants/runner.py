"""Plant bugs in the privacy code, one after another, and see whether the tests that should notice do.

Run as a program, with the names of bugs: ``python -m tests.mutants.runner no-noise``. What it prints is one
line of JSON a bug, as soon as its tests have ended.

The source tree is never touched. One process loads the large libraries and nothing of Interplant; for every
bug it forks a child, in which an import hook compiles the changed source of that bug's module, and pytest
runs the tests that the catalogue names. First of all a child runs them all without any bug.
"""

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .bug import ROOT, Bug
from .bugs import BUGS
from .verdicts import UNCHANGED, Notes, Verdict, judge

LIBRARIES = (
    "cryptography.hazmat.primitives.ciphers",
    "dp_accounting.pld.privacy_loss_distribution",
    "dp_accounting.rdp",
    "dvc.repo",
    "dvc_data.index",
    "flwr.app",
    "omegaconf",
    "opacus.grad_sample",
    "opacus.layers",
    "opacus.optimizers",
    "opacus.validators",
    "pandas",
    "pyarrow.parquet",
    "pytest",
    "pytest_timeout",
    "safetensors.numpy",
    "scipy.stats",
    "sqlalchemy.orm",
    "torch.onnx",
)
"""What is loaded once; what is left out is only loaded again in every child."""

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""No library starts a thread while it loads: none would survive a fork."""

TIMEOUT = {UNCHANGED: 300.0}
DEFAULT_TIMEOUT = 120.0
"""Seconds after which a child is killed; that is a fault of the suite, not a bug that was noticed."""

AT_A_TIME = 2


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles changed source, past the cache of compiled files."""

    def __init__(self, bug: Bug, path: str) -> None:
        super().__init__(bug.module, path)
        self._bug = bug

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._bug.changed(), self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module with its bug, and leaves the rest to others."""

    def __init__(self, bug: Bug) -> None:
        self._bug = bug

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._bug.module:
            return None
        file = str(self._bug.path)
        return importlib.util.spec_from_file_location(fullname, file, loader=_Loader(self._bug, file))


def run(names: Sequence[str]) -> Iterator[Verdict]:
    """Run the tests of these bugs, `AT_A_TIME` children at once; yield what came of each as it ends."""
    _load()
    bugs = {bug.name: bug for bug in BUGS}
    waiting, children = list(names), dict[int, tuple[str, float, Path]]()
    again: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or children:
                while waiting and len(children) < AT_A_TIME:
                    name = waiting.pop(0)
                    place = Path(folder) / f"{name}-{len(again)}"
                    children[_start(bugs.get(name), place)] = (name, time.monotonic(), place)
                for child, (name, begun, place) in list(children.items()):
                    seconds = time.monotonic() - begun
                    late = seconds > TIMEOUT.get(name, DEFAULT_TIMEOUT)
                    if late:
                        os.killpg(child, signal.SIGKILL)
                    if os.waitpid(child, 0 if late else os.WNOHANG)[0]:
                        del children[child]
                        verdict = _read(bugs.get(name), name, place, seconds)
                        if verdict.error and name not in again:
                            # A run that says nothing may be the machine's fault; twice, it is not.
                            again.add(name)
                            waiting.append(name)
                        else:
                            yield verdict
                time.sleep(0.01)
        finally:
            for child in children:
                os.killpg(child, signal.SIGKILL)


def _load() -> None:
    os.environ.update(ONE_THREAD)
    for name in LIBRARIES:
        importlib.import_module(name)
    ours = [name for name in sys.modules if name.partition(".")[0] == "interplant"]
    threads = os.listdir("/proc/self/task") if Path("/proc/self/task").exists() else [""]
    if ours or len(threads) > 1:
        # A module that is loaded already would stay without its bug.
        raise SystemExit(f"expected nothing of ours and one thread, found {ours} and {len(threads)} threads")
    gc.freeze()  # what pytest collects at its end is the child's own


def _start(bug: Bug | None, place: Path) -> int:
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # the child was faster, or has ended
            os.setpgid(child, child)
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        output = os.open(place.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        place.write_text(json.dumps(_test(bug, place.with_suffix(".tmp"))))
        status = 0
    finally:
        os._exit(status)


def _test(bug: Bug | None, folder: Path) -> dict[str, Any]:
    """Run the tests in this process, which is a child's; two children must not share a temporary folder."""
    import pytest

    if bug:
        sys.meta_path.insert(0, _Finder(bug))
    notes = Notes()
    tests = [str(ROOT / test) for test in _killers(bug)]
    # Without other plugins and without rewritten assertions a child starts two seconds sooner.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["--rootdir", str(ROOT), "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    options += ["--basetemp", str(folder)]
    options += ["-q", "--tb=short", "--assert=plain"]
    code = pytest.main([*options, *tests], plugins=[notes])
    loaded = bug is None or bug.module in sys.modules
    return {"code": int(code), "notes": vars(notes), "loaded": loaded}


def _killers(bug: Bug | None) -> list[str]:
    """The tests named for a bug; all that the catalogue names without one."""
    return list(dict.fromkeys(test for one in ([bug] if bug else BUGS) for test in one.killers))


def _read(bug: Bug | None, name: str, place: Path, seconds: float) -> Verdict:
    """Judge what a child left."""
    log = place.with_suffix(".log")
    said = log.read_text(errors="replace")[-3000:] if log.exists() else ""
    if not place.exists():
        return Verdict(
            name, error=f"the child ended or was killed before its tests did:\n{said}", seconds=seconds
        )
    found = json.loads(place.read_text())
    verdict = judge(name, _killers(bug), found["code"], Notes(**found["notes"]), found["loaded"])
    verdict.seconds = round(seconds, 2)
    if verdict.error or (bug is None and verdict.failed):
        verdict.error += f"\n{said}"
    return verdict


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and no child is left behind
    for verdict in run(sys.argv[1:] or [UNCHANGED, *(bug.name for bug in BUGS)]):
        sys.stdout.write(json.dumps(asdict(verdict)) + "\n")
        sys.stdout.flush()
