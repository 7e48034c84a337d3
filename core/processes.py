"""Child processes that are watched, restarted and never left behind (Linux)."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from interplant.core import logs
from interplant.core.errors import InterplantError, UsageError

log = logging.getLogger(__name__)

HOPELESS = 3
"""Exit code of a child that starting again cannot help."""

_PR_SET_PDEATHSIG = 1
_PATIENCE = 40
_PARENT = "INTERPLANT_PARENT"
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_libc = ctypes.CDLL(None, use_errno=True)


def follow_parent() -> None:
    """Have the kernel end this process when the one that started it dies, however that dies.

    Called first thing by every module that `start` runs. A parent that is gone already is noticed.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = os.environ.get(_PARENT)
    if parent and os.getppid() != int(parent):
        sys.exit(f"{sys.argv[0]}: the process that started this one is gone")


def follow_starter() -> None:
    """`follow_parent` if `start` has started this process; a command that a person starts goes on alone."""
    if os.environ.get(_PARENT) == str(os.getppid()):
        follow_parent()


def lower_priority(nice: int) -> None:
    """Give way to other processes, 0 (not at all) to 19.

    A process of `start` has a session of its own, and where the kernel schedules sessions as groups
    (autogroup), a nice value counts only among the processes of one: the group is lowered too.
    """
    if not nice:
        return
    os.nice(nice)
    for _ in range(_PATIENCE):
        try:
            Path("/proc/self/autogroup").write_text(str(nice))
        except BlockingIOError:  # the kernel takes one such wish in a tenth of a second
            time.sleep(0.05)
        except OSError:  # there are no such groups here
            return
        else:
            return


def last_words(sentence: str) -> None:
    """Say why starting this process again cannot help; its supervisor repeats it once, at its own end.

    A supervised child's standard output holds nothing else; see `Service.reason`.
    """
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


def ended(work: Callable[[], int], log: logging.Logger) -> int:
    """Do the work of a supervised child and return its exit code.

    Wrong words and files are its `last_words`, as starting it again cannot help; other failures are logged.

    Args:
        work: Returns an exit code.
        log: The child's.
    """
    try:
        return work()
    except UsageError as error:
        last_words(str(error))
        return error.exit_code
    except InterplantError as error:
        log.error("%s", error)
        return error.exit_code


def work_until_told(work: Callable[[threading.Event], int], log: logging.Logger) -> int:
    """Do the work of a supervised child that goes on until it is told to stop; return its exit code.

    Args:
        work: Is handed what is set then; see `ended`.
        log: The child's.
    """
    follow_parent()
    logs.setup()
    stopping = threading.Event()
    on_stop_signals(stopping)
    return ended(lambda: work(stopping), log)


def python_module(module: str, *words: str) -> list[str]:
    """Return the command line that runs an installed module with this interpreter."""
    return [sys.executable, "-m", module, *words]


def start(
    command: Sequence[str],
    log_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    **more: object,
) -> "subprocess.Popen[bytes]":
    """Start a child of ours that does not get the terminal's Ctrl-C; see `follow_parent`.

    Args:
        command: The command line.
        log_file: Where its standard error goes; this process's own if None.
        environment: Variables beside this process's own.
        **more: Further arguments of ``subprocess.Popen``.
    """
    error = log_file.open("ab") if log_file else None
    try:
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            list(command),
            stderr=error,
            start_new_session=True,
            env={**os.environ, **(environment or {}), _PARENT: str(os.getpid())},
            **more,
        )
    finally:
        if error:
            error.close()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and other words to end back until the block is over: no child is started unnoted."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears it
        return
    heard: list[int] = []
    before = {number: signal.getsignal(number) for number in _ENDS}
    for number in _ENDS:
        signal.signal(number, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        signal.raise_signal(heard[0])


def stop(child: "subprocess.Popen[bytes]", seconds: float = 10.0) -> None:
    """Ask a child to end, wait, then make it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()


def on_stop_signals(stopping: threading.Event) -> None:
    """Set ``stopping`` on Ctrl-C and on a polite end (SIGTERM)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())


@dataclass
class Service:
    """One child of a supervisor: how to start it, and when it died last.

    ``give_up`` lists exit codes that restarting cannot mend; 2 says wrong words or files, which one that
    has worked before waits for a person to mend.
    """

    name: str
    command: Sequence[str]
    log_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    give_up: tuple[int, ...] = (2, HOPELESS)
    alone: float = 0.0
    """If not 0, what is hopeless for it does not end the others: it is tried again after so many seconds."""
    child: "subprocess.Popen[bytes] | None" = None
    deaths: list[float] = field(default_factory=list)
    resume_at: float = 0.0
    reason: str = ""
    """After the end: the last line that the child wrote to its standard output, see `last_words`."""
    has_worked: bool = False
    """Whether it has ended otherwise than by what is in ``give_up``: its words and files were right once."""
    _words: BinaryIO | None = None

    def begin(self) -> None:
        """Start the child."""
        if self._words is None:
            # In memory: a full disk must not keep a child from saying so.
            self._words = os.fdopen(os.memfd_create("last-words"), "w+b")
        self.child = start(
            self.command, self.log_file, self.environment, stdin=subprocess.DEVNULL, stdout=self._words
        )

    def end(self) -> None:
        """Stop the child, and read its `reason`."""
        if self.child:
            stop(self.child)
        if self._words:
            with self._words:
                self.reason = self.last_line()
            self._words = None

    def last_line(self) -> str:
        """Return the last line that the child wrote to its standard output."""
        if self._words is None:
            return self.reason
        size = os.fstat(self._words.fileno()).st_size
        lines = os.pread(self._words.fileno(), size, 0).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def supervise(
    services: Sequence[Service],
    stopping: threading.Event,
    tick: Callable[[], None] = lambda: None,
    patience: float = 0.5,
) -> int:
    """Keep the services running until ``stopping`` is set; restart what dies, with a growing pause.

    Args:
        services: What to run; stopped in reverse order at the end.
        stopping: Ends the loop.
        tick: Called about once a second for the supervisor's own chores.
        patience: Seconds of the first pause; it doubles with each death within a minute, to 30.

    Returns:
        0 after a stop, or the exit code of a service that restarting cannot mend; its `Service.reason`
        says why.
    """
    try:
        for service in services:
            service.begin()
        while not stopping.is_set():
            for service in services:
                code = _tend(service, patience)
                if code is not None:
                    return code
            tick()
            _wait_for_death(services, stopping)
        return 0
    finally:
        for service in reversed(services):
            service.end()


def _tend(service: Service, patience: float) -> int | None:
    """Restart a dead service when its pause is over; return its exit code if that is hopeless."""
    now = time.monotonic()
    if service.child and (code := service.child.poll()) is not None:
        service.child = None
        spoilt = code == UsageError.exit_code and service.has_worked
        if code == HOPELESS and service.alone:
            service.resume_at = now + service.alone
            log.error("%s: %s; trying again in %.0f s", service.name, service.last_line(), service.alone)
            return None
        if code in service.give_up and not spoilt:
            return code
        service.has_worked = True
        service.deaths = [then for then in service.deaths if now - then < 60] + [now]
        pause = min(30.0, patience * 2 ** (len(service.deaths) - 1))
        service.resume_at = now + pause
        how = service.last_line() if spoilt else _how(code)
        log.warning("%s ended (%s); starting it again in %.1f s", service.name, how, pause)
    if service.child is None and now >= service.resume_at:
        try:
            service.begin()
        except OSError as error:  # memory or processes are short, which passes
            log.error("%s cannot be started: %s", service.name, error)
            service.resume_at = now + 30.0
    return None


def _wait_for_death(services: Sequence[Service], stopping: threading.Event) -> None:
    """Sleep until a child may have died, a pause is over, or a second has passed."""
    pauses = [service.resume_at for service in services if service.child is None]
    wait = min([1.0, *(max(0.02, at - time.monotonic()) for at in pauses)])
    stopping.wait(wait)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    named = -code in set(signal.Signals)
    return f"signal {signal.Signals(-code).name if named else -code}"


def is_alive(pid: int) -> bool:
    """Tell whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
