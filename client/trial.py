"""The trial: from shadow to canary to champion, or withdrawn; and a new champion's probation.

A process of its own beside serving looks at what serving counts (`interplant.client.tally`) and at the
prediction log (`interplant.client.evidence`), decides, and moves the pointers. Whatever it decides is on
record with its figures, which stay in the plant.
"""

import logging
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from interplant.client import champion as pointers
from interplant.client import deployment, evidence, rollback, tally
from interplant.client.champion import CANARY, PROBATION, SHADOW, Challenger, Champion
from interplant.client.directory import PlantDirectory
from interplant.client.evidence import Apart, Pair, seconds_of
from interplant.client.predictions import Predictions
from interplant.client.tally import Tally
from interplant.client.verdicts import ACTIVE, Verdict, deciding, record, verdict_of
from interplant.core import processes
from interplant.core.errors import InterplantError
from interplant.core.release import TASK, ReleaseRefused, parse_task
from interplant.core.schema import Policy, Task
from interplant.core.trial_config import Probation, Trial

log = logging.getLogger(__name__)

LEAST: Final = 20
"""Requests, or pairs of predictions, from which on a share or a mean is judged."""

LATE: Final = 0.05
"""Share of the requests that may take longer than `Trial.milliseconds`."""

LEVEL: Final = 0.05
"""Of the bound beyond which a release is worse, one-sided."""

_TICK: Final = 0.5
_REST: Final = 20.0
"""After a look the process rests so many times the processor seconds that it took, and at most `_MOST`."""

_MOST: Final = 5.0

GO_ON: Final = "go on"
OVER: Final = "over"
OUT: Final = "out"


@dataclass(frozen=True)
class Decision:
    """What comes of a look.

    Args:
        what: `GO_ON`, `OVER` (the stage is passed) or `OUT`.
        code: Why it is out, a key of `interplant.core.release.RELEASE_REFUSALS`.
        why: For the plant's own people.
        figures: Exact; they stay in the plant.
    """

    what: str
    code: str = ""
    why: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


def length_over(length: Trial | Probation, predictions: int, seconds: float) -> bool:
    """Whether a stage has lasted as long as the policy says."""
    return predictions >= length.predictions and seconds >= length.seconds


def judge(counted: Tally, apart: Apart, trial: Trial, seconds: float) -> Decision:
    """Judge a stage of a trial by what needs no label.

    Args:
        counted: By serving.
        apart: How far challenger and champion are from each other.
        trial: Its length and limits.
        seconds: How long the stage has lasted.
    """
    figures = _figures(counted, apart)
    if counted.failures:
        said = f"{counted.failures} of {counted.requests} requests; the last: {counted.trouble}"
        return Decision(OUT, "trial_failed", said, figures)
    if counted.requests >= LEAST and counted.late > LATE * counted.requests:
        said = f"{counted.late} of {counted.requests} requests took more than {trial.milliseconds:g} ms"
        return Decision(OUT, "trial_slow", said, figures)
    if apart.count >= LEAST and apart.mean > trial.disagreement:
        said = f"{apart.mean:.3g} apart on average over {apart.count} predictions"
        return Decision(OUT, "trial_disagrees", f"{said}, at most {trial.disagreement:g} allowed", figures)
    # What a canary is to show is that it answers: those count that were heard.
    predicted = counted.heard if counted.stage == CANARY else counted.predictions
    if predicted and length_over(trial, predicted, seconds):
        return Decision(OVER, "", f"{predicted} predictions in {seconds:.0f} s", figures)
    return Decision(GO_ON, figures=figures)


def judge_probation(counted: Tally, length: Probation, seconds: float) -> Decision:
    """Judge a new champion's probation by what needs no label; the release beside it is the one before."""
    figures = {"failures": float(counted.champion_failures), "predictions": float(counted.predictions)}
    if counted.champion_failures:
        said = f"{counted.champion_failures} requests that the one before it answered"
        return Decision(OUT, "probation_failed", said, figures)
    if length_over(length, counted.predictions, seconds):
        return Decision(OVER, "", f"{counted.predictions} predictions in {seconds:.0f} s", figures)
    return Decision(GO_ON, figures=figures)


def judge_errors(task: Task, found: list[Pair], margin: float, code: str, at_the_end: bool) -> Decision:
    """Judge by the errors where labels came: out who is worse by more than the margin, at 95 % one-sided.

    Errors are looked at when `evidence.FIRST_LOOK` labels are there, when there are twice as many, and so
    on, and at the end. The looks share the level, half for the last: who is no worse is out once in twenty.
    """
    count = len(found) if at_the_end else evidence.looked_at(len(found))
    if not count:
        return Decision(GO_ON)
    looks = max(1, evidence.looked_at(count) // evidence.FIRST_LOOK).bit_length()
    level = LEVEL / 2.0 if at_the_end else LEVEL / 2.0 ** (looks + 1)
    errors = evidence.compared(task, found[:count], margin, level)
    if errors is None:
        return Decision(GO_ON)
    figures = {"error": errors.own, "error_beside": errors.other, "labels": float(count)}
    if errors.worse:
        said = f"error {errors.own:.4g}, beside it {errors.other:.4g}, on {count} labelled predictions"
        return Decision(OUT, code, said, figures)
    return Decision(GO_ON, figures=figures)


class Watch:
    """Looks at what is on trial, again and again.

    Args:
        plant: The plant's directory.
    """

    def __init__(self, plant: PlantDirectory) -> None:
        self._plant = plant
        self._second: Challenger | None = None
        self._apart: Apart | None = None
        self._task: Task | None = None
        self._labels = -1
        self._log: Predictions | None = None

    def look(self, now: float) -> Decision | None:
        """Decide about what is on trial or on probation, and act on it.

        Args:
            now: Seconds since 1970.

        Returns:
            The decision, or None if nothing is.
        """
        if not self._plant.challenger.exists():
            self.close()
            return None
        with deciding(self._plant):
            rollback.mend(self._plant)
            champion, second = pointers.champion(self._plant), pointers.challenger(self._plant)
            if champion is None or second is None:
                return None
            try:
                self._follow(second)
            except (InterplantError, OSError) as error:
                why = f"its folder cannot be read: {error.strerror if isinstance(error, OSError) else error}"
                deployment.withdraw(self._plant, second.release, "trial_failed", why, {})
                return Decision(OUT, "trial_failed", why)
            decision = self._decide(champion, second, now)
            if decision.what != GO_ON:
                self._act(champion, second, decision)
            return decision

    def close(self) -> None:
        """Close the prediction log."""
        if self._log:
            self._log.close()
            self._log = None

    def _follow(self, second: Challenger) -> None:
        """Begin anew with each stage."""
        if second == self._second:
            return
        self._task = parse_task((self._plant.releases / second.release / TASK).read_bytes())
        self._apart = Apart(self._task.target, second.release, second.against, second.since)
        self._second, self._labels = second, -1

    def _decide(self, champion: Champion, second: Challenger, now: float) -> Decision:
        policy, counted = self._plant.load().policy, tally.of(self._plant, second)
        seconds = now - seconds_of(second.since)
        assert self._task
        assert self._apart
        self._log = self._log or Predictions.open(self._plant)
        if second.stage == PROBATION:
            decision = judge_probation(counted, policy.release.probation, seconds)
            own, other, code = champion.release, second.release, "probation_worse"
        else:
            self._apart.read_on(self._log)
            decision = judge(counted, self._apart, policy.release.trial, seconds)
            own, other, code = second.release, champion.release, "trial_worse"
        if decision.what == OUT:
            return decision
        found = evidence.labelled(self._log, own, other, second.since)
        return self._with_errors(decision, found, policy, code)

    def _with_errors(self, decision: Decision, found: list[Pair], policy: Policy, code: str) -> Decision:
        at_the_end, due = decision.what == OVER, evidence.looked_at(len(found))
        if not at_the_end and due == self._labels:
            return decision
        self._labels = due
        assert self._task
        errors = judge_errors(self._task, found, policy.release.margin, code, at_the_end)
        figures = {**decision.figures, **errors.figures}
        if errors.what == OUT:
            return Decision(OUT, errors.code, errors.why, figures)
        return Decision(decision.what, decision.code, decision.why, figures)

    def _act(self, champion: Champion, second: Challenger, decision: Decision) -> None:
        release, plant = second.release, self._plant
        trial = plant.load().policy.release.trial
        log.warning("release %s, %s: %s", release, second.stage, decision.why)
        if second.stage == PROBATION:
            self._end_probation(champion, second, decision)
        elif decision.what == OUT:
            deployment.withdraw(plant, release, decision.code, decision.why, decision.figures)
        else:
            self._advance(second, decision, trial)

    def _advance(self, second: Challenger, decision: Decision, trial: Trial) -> None:
        """Go on to the next stage; a release that does not verify any more is withdrawn instead."""
        release, plant = second.release, self._plant
        try:
            if second.stage == SHADOW and trial.canary:
                deployment.to_canary(plant, release, trial.canary, f"its shadow is over: {decision.why}")
            else:
                deployment.promote(plant, release, f"its trial is over: {decision.why}", decision.figures)
        except ReleaseRefused as error:
            deployment.withdraw(plant, release, error.code, error.detail, decision.figures)

    def _end_probation(self, champion: Champion, second: Challenger, decision: Decision) -> None:
        if decision.what == OUT:
            rollback.leave(
                self._plant, champion, second.release, decision.code, decision.why, decision.figures
            )
            return
        known = verdict_of(self._plant, champion.release)
        code = known.code if known else ""  # a word of the federation stands
        why = f"its probation is over: {decision.why}"
        record(self._plant, champion.release, Verdict(ACTIVE, code, why, decision.figures))
        pointers.withdraw(self._plant)


def main(words: list[str]) -> int:
    """Watch the trials of the plant in the directory ``words[0]`` until told to stop."""
    return processes.work_until_told(lambda stopping: watch(PlantDirectory(Path(words[0])), stopping), log)


def watch(plant: PlantDirectory, stopping: threading.Event) -> int:
    """Look until told to stop; a look that fails is tried again."""
    plant.load()
    watched = Watch(plant)
    said = ""
    pause = _TICK
    while not stopping.wait(pause):
        begun = time.process_time()
        try:
            watched.look(time.time())
            said = ""
        except (InterplantError, OSError) as error:
            watched.close()
            if str(error) != said:
                log.error("%s", error)
            said = str(error)
        pause = min(_MOST, max(_TICK, _REST * (time.process_time() - begun)))
    watched.close()
    return 0


def _figures(counted: Tally, apart: Apart) -> dict[str, float]:
    return {
        "predictions": float(counted.predictions),
        "heard": float(counted.heard),
        "requests": float(counted.requests),
        "late": float(counted.late),
        "missed": float(counted.missed),
        "disagreement": apart.mean,
        "compared": float(apart.count),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
