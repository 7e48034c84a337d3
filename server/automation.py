"""The process that starts runs without a command: read `Automation.step`.

Each decision is a line in the registry's history, with its reasons, under the task's name.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import grpc

from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core import processes
from interplant.core.automation_config import Automation as Policy
from interplant.core.errors import InterplantError, UsageError
from interplant.server.control import connect, ring
from interplant.server.deciding import NOTHING, PROPOSE, START, WAIT, Facts, closed, decide
from interplant.server.directory import CoordinatorDirectory
from interplant.server.followed import (
    APPROVED,
    BEGINS,
    DECLINED,
    FAILED,
    GAVE_UP,
    PROPOSED,
    RESUMED,
    STARTED,
    WAITS,
    Followed,
    Said,
    last_queued,
    pause,
    said,
)
from interplant.server.records import Event, Run
from interplant.server.registry import Registry
from interplant.server.resuming import own_run, waiting
from interplant.server.rules import MEND, Rules
from interplant.server.starting import start

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
"""How often the time of the week is looked at; a plant's word is heard at once."""

TRIES: Final = 3
"""Runs that fail by themselves, one after the other, until what they were started for counts no more."""

_WAYS_ON: Final = "`interplant run resume` goes on with it, `interplant run stop` ends it"

Starter: TypeAlias = Callable[[CoordinatorDirectory, str, str, str], str]


class Automation:
    """Decide on every followed task, again and again.

    Args:
        directory: The coordinator's.
        registry: Its registry.
        start: Queues a run: directory, task's name, release to start from, reasons; returns the run's id.
    """

    def __init__(self, directory: CoordinatorDirectory, registry: Registry, start: Starter = start) -> None:
        self._directory, self._registry, self._start = directory, registry, start
        self._rules = Rules(directory)

    def step(self, now: datetime) -> None:
        """Look at every followed task once, and do what is due by the rules of now."""
        if self._rules.refresh():
            log.error("%s; %s", self._rules.wrong, MEND)
        for name, one in self._rules.followed.items():
            if self._rules.wrong:
                self._note_once(name, f"{self._rules.wrong}; {MEND}")
            else:
                self._look(name, one, now)

    def _look(self, name: str, one: Followed, now: datetime) -> None:
        run = own_run(self._registry, name)
        if run and run.state == "paused":
            self._wait(name, one.policy, run, now)
            return
        if run and run.state == "failed":
            self._tell_of_failure(name, run)
        facts = self._facts(name, now)
        decision = decide(one.policy, facts)
        if decision.kind == START:
            self._begin(name, decision.why)
        elif decision.kind == PROPOSE and not facts.proposed:
            self._note(PROPOSED, name, f"{decision.why}; `interplant run approve {name}` starts it")
        elif decision.kind == WAIT or (decision.kind == NOTHING and decision.why):
            self._note_once(name, decision.why)

    def _facts(self, name: str, now: datetime) -> Facts:
        known = said(self._registry, name)
        if known.begins is None:
            self._note(BEGINS, name, "runs of this task may start without a command from now on")
        if known.last and known.last.text.endswith(MEND):
            self._note(WAITS, name, "the files are right again, and followed")
        return Facts(
            now=now,
            begins=known.begins or now,
            proposals=known.proposals,
            runs=known.runs,
            last=last_queued(self._registry, name),
            settled=known.settled,
            retry=known.retry,
            busy=self._busy(name),
            plants=sum(one.is_enrolled for one in self._registry.plants()),
            quorum=self._rules.quorum,
            proposed=known.word == PROPOSED and known.last is not None and known.last.kind == PROPOSED,
            approved=known.word == APPROVED,
        )

    def _busy(self, task: str = "") -> str:
        """Say which run has to end before one of a task starts; a paused one holds up its own task alone."""
        for run in self._registry.runs():
            if run.state == "paused" and run.task_name == task:
                return f"run {run.id} is paused: {_WAYS_ON}"
            if run.state != "paused" and not run.is_over:
                return f"run {run.id} is {run.state}"
        return ""

    def _wait(self, name: str, policy: Policy, run: Run, now: datetime) -> None:
        """Have a paused run of ours go on when it is time to, or say what it waits for."""
        found = waiting(self._directory, self._registry, name, run)
        if found is None:
            self._note_once(
                name, f"run {run.id} is paused: `interplant run show {run.id}` says why; {_WAYS_ON}"
            )
            return
        later = f"it is tried again at {found.due:%Y-%m-%d %H:%M} UTC" if now < found.due else ""
        if hindrance := later or self._busy() or closed(policy, now):
            self._note_once(name, f"run {run.id} waits for {found.text}; {hindrance}")
            return
        try:
            self._registry.update_run(run.id, state="queued", expected={"paused"})
        except InterplantError:
            return  # a person was faster
        log.info("task %s: run %s goes on: it waited for %s", name, run.id, found.text)
        self._note(RESUMED, name, f"run {run.id} goes on, try {found.tries + 1}: it waited for {found.text}")
        ring(self._directory)

    def _tell_of_failure(self, name: str, run: Run) -> None:
        """Note that a run of ours has failed by itself: what it was started for counts again, a few times."""
        known = said(self._registry, name)
        failed = [
            one
            for one in self._registry.runs({"failed"})
            if one.task_name == name and (known.settled is None or one.created > known.settled)
        ]
        text = f"run {run.id} failed: {run.reason}"
        if len(failed) < TRIES:
            self._note(FAILED, name, f"{text}; tried again after {_minutes(known)} minutes at the earliest")
        else:
            text += f"; {len(failed)} have failed in a row: what was proposed or due until now counts no more"
            self._note(GAVE_UP, name, text)

    def _begin(self, name: str, why: str) -> None:
        parent = release_to_start_from(self._registry, name)
        try:
            run = self._start(self._directory, name, parent, why)
        except InterplantError as error:
            log.error("task %s: no run was started: %s", name, error)
            minutes = _minutes(said(self._registry, name))
            self._note(FAILED, name, f"{why}; no run was started: {error}; tried again in {minutes} minutes")
            return
        log.info("task %s: run %s is queued: %s", name, run, why)
        self._note(STARTED, name, f"run {run} from {parent or 'fresh weights'}: {why}")

    def _note(self, kind: str, name: str, text: str) -> None:
        self._registry.add_event(kind, name, text)

    def _note_once(self, name: str, why: str) -> None:
        last = said(self._registry, name).last
        if last is None or (last.kind, last.text) != (WAITS, why):
            log.info("task %s waits: %s", name, why)
            self._note(WAITS, name, why)


def _minutes(known: Said) -> str:
    """How long to wait after one more failure."""
    return f"{pause(known.failed + 1).total_seconds() / 60:g}"


def release_to_start_from(registry: Registry, task: str) -> str:
    """Return the id of the release of a task that plants are told of; empty if there is none."""
    return next((one.id for one in registry.offered_releases() if one.task == task), "")


def approve(directory: CoordinatorDirectory, task: str) -> Event:
    """Let a run start that was put before a person.

    Raises:
        UsageError: None was.
    """
    return _say(directory, task, APPROVED, "a person has approved it", {PROPOSED: "proposed"})


def decline(directory: CoordinatorDirectory, task: str, why: str = "") -> Event:
    """Drop a run that was put before a person, also an approved one that has not started yet.

    What was proposed before counts no more.

    Raises:
        UsageError: None was, or it has started.
    """
    text = f"a person has declined it: {why}" if why else "a person has declined it"
    return _say(directory, task, DECLINED, text, {PROPOSED: "proposed", APPROVED: "approved"})


def _say(
    directory: CoordinatorDirectory, task: str, kind: str, text: str, expected: Mapping[str, str]
) -> Event:
    registry = Registry.open(directory)
    try:
        known = said(registry, task)
        if known.word not in expected:
            raise UsageError(
                f"task {task!r}: expected a {' or '.join(expected.values())} run, found none; "
                "`interplant run proposals` lists them"
            )
        event = registry.add_event(kind, task, text)
    finally:
        registry.close()
    ring(directory)
    return event


def work(directory: CoordinatorDirectory, stopping: threading.Event) -> int:
    """Step at each bell and every `LOOK_SECONDS`, until ``stopping``."""
    registry = Registry.open(directory)
    automation, bell = Automation(directory, registry), threading.Event()
    threading.Thread(target=_listen, args=(directory, bell, stopping), daemon=True).start()
    while not stopping.is_set():
        automation.step(datetime.now(UTC))
        bell.wait(LOOK_SECONDS)
        bell.clear()
    return 0


def _listen(directory: CoordinatorDirectory, bell: threading.Event, stopping: threading.Event) -> None:
    """Hear the bell, also after the gRPC process was restarted."""
    local = rpc.LocalStub(connect(directory))
    while not stopping.is_set():
        try:
            for _ in local.Bell(pb.Empty(), wait_for_ready=True):
                bell.set()
        except grpc.RpcError:
            stopping.wait(0.2)


def main(words: list[str]) -> int:
    """Run the automation of the coordinator in the directory ``words[0]``."""
    directory = CoordinatorDirectory(Path(words[0]))
    return processes.work_until_told(lambda stopping: work(directory, stopping), log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
