"""``interplant`` as a process: an exit code, and one line on standard error if it fails."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

FAILED = 1
MISUSED = 2

_AGAIN = 0.01
"""Seconds after which an interrupt that was swallowed comes again."""


class Interrupt:
    """Ctrl-C while a command runs, or another word to end it: raises, and is remembered.

    A library that is interrupted while it tidies up may raise an error of its own in the interrupt's place.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.pressed = True
        raise KeyboardInterrupt

    def unraisable(self, what: "sys.UnraisableHookArgs") -> None:
        """Come again where Python has nobody to raise to, as in a callback of its import system."""
        if isinstance(what.exc_value, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            sys.__unraisablehook__(what)


def run_command() -> None:
    """Run the command that this process was started for, and end it."""
    # gRPC's C core would write lines of its own beside ours; flwr sets "error" where nothing is set.
    if os.environ.get("GRPC_VERBOSITY", "error").lower() == "error":
        os.environ["GRPC_VERBOSITY"] = "NONE"
    # Until the commands are loaded nothing is half done, and an import must not end in a traceback.
    _on_end(lambda *_: _end("stopped"))
    from interplant.cli.commands import call

    interrupt = Interrupt()
    sys.unraisablehook = interrupt.unraisable
    _on_end(interrupt)
    try:
        code = exit_code(lambda: call(sys.argv[1:]), interrupt)
    except KeyboardInterrupt:
        # Not sys.exit: an interrupt that went through C++ which runs Python, as in torch's import, would
        # have Python end itself by the signal.
        _end("stopped")
    # Nothing is left to stop but Python's own tidying up.
    _on_end(signal.SIG_IGN)
    sys.exit(code)


def _on_end(handler: Any) -> None:
    """Handle Ctrl-C, a polite end and a terminal that is closed, but what whoever started us has ignored.

    A command that has started others must end them, whatever ends it. An alarm is a swallowed interrupt.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, handler)


def exit_code(command: Callable[[], int], interrupt: Interrupt | None = None) -> int:
    """Call ``command``; whatever it raises becomes one line and an exit code.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, whatever the command made of it.
    """
    try:
        return command()
    except BrokenPipeError:
        # Who read our output has closed it; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except SystemExit as error:  # of a stranger's model, say: a command that ends so has done nothing
        return _answer(error)
    except Exception as error:  # the outermost: a traceback is no answer to a person
        if interrupt is not None and interrupt.pressed:
            raise KeyboardInterrupt from error
        return _answer(error)


def _answer(error: BaseException) -> int:
    """Say what went wrong, in the words that belong to its kind."""
    import click

    from interplant.core.errors import InterplantError

    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return MISUSED
    if isinstance(error, click.UsageError):
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        return _say(f"{error.format_message().rstrip('.')}{where}", MISUSED)
    if isinstance(error, click.exceptions.Abort):
        # Asked whether to go on, a person said no, or nobody was there to answer.
        return _say("nothing was changed, as nobody said yes", FAILED)
    if isinstance(error, InterplantError):
        return _say(str(error), error.exit_code)
    if isinstance(error, OSError) and error.filename:
        return _say(f"{error.filename}: {error.strerror}", FAILED)
    if os.environ.get("INTERPLANT_TRACEBACK"):
        traceback.print_exception(error)
    what = f"a fault in interplant: {type(error).__name__}: {error}"
    return _say(f"{what}; set INTERPLANT_TRACEBACK=1 to see where, and report it", FAILED)


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"interplant: {' '.join(sentence.split())}\n")
    return code


def _end(sentence: str) -> NoReturn:
    _say(sentence, FAILED)
    sys.stderr.flush()
    os._exit(FAILED)


if __name__ == "__main__":
    run_command()
