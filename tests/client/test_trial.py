"""What decides a trial: failures, latency, disagreement, errors where labels came; and what it leads to."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interplant.client import champion as pointers
from interplant.client import deployment, history, rollback, tally, trial, verdicts
from interplant.client.champion import CANARY, PROBATION, SHADOW, Challenger
from interplant.client.directory import PlantDirectory
from interplant.client.evidence import Apart, seconds_of
from interplant.client.predictions import Prediction, Predictions, new_id
from interplant.client.tally import Tally
from interplant.client.trial import GO_ON, OUT, OVER, Watch, judge, judge_probation
from interplant.core.errors import UsageError
from interplant.core.possible import Impossible
from interplant.core.schema import Target, Window
from interplant.core.trial_config import Probation, Trial

from .conftest import edit
from .federation import TASK, Federation, settle

CAP = TASK.target.cap
TRIAL = Trial(predictions=100, seconds=10.0)


def counted(**words: int | str) -> Tally:
    return replace(Tally("r-1", SHADOW, "2025-05-01T10:00:00+00:00"), **words)  # type: ignore[arg-type]


def apart(count: int = 0, mean: float = 0.0) -> Apart:
    made = Apart(TASK.target, "r-1", "r-0", "2025-05-01T10:00:00+00:00")
    made.count, made._sum = count, mean * count
    return made


# --- by what needs no label ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "seconds", "what"),
    [
        (counted(predictions=99), 11.0, GO_ON),
        (counted(predictions=100), 9.9, GO_ON),
        (counted(predictions=100), 10.0, OVER),
        (counted(stage=CANARY, predictions=100, heard=99), 10.0, GO_ON),
        (counted(stage=CANARY, predictions=500, heard=100), 10.0, OVER),
    ],
)
def test_a_stage_lasts_as_long_as_the_policy_says(found: Tally, seconds: float, what: str) -> None:
    assert judge(found, apart(), TRIAL, seconds).what == what


def test_without_predictions_asked_time_alone_decides() -> None:
    asked = counted(requests=1, predictions=1)
    assert judge(asked, apart(), Trial(seconds=5.0), 4.9).what == GO_ON
    assert judge(asked, apart(), Trial(seconds=5.0), 5.0).what == OVER
    assert judge(counted(), apart(), Trial(seconds=5.0), 1e6).what == GO_ON, "nobody has asked it"


@pytest.mark.parametrize(
    ("found", "distance", "code"),
    [
        (counted(requests=1000, failures=1, trouble="not a finite number"), apart(), "trial_failed"),
        (counted(requests=100, late=6), apart(), "trial_slow"),
        (counted(requests=1000), apart(20, 0.26), "trial_disagrees"),
    ],
)
def test_it_is_out_at_once_with_a_code_and_figures(found: Tally, distance: Apart, code: str) -> None:
    decision = judge(replace(found, predictions=1000), distance, TRIAL, 1000.0)
    assert (decision.what, decision.code) == (OUT, code)
    assert decision.figures["requests"] == found.requests


@pytest.mark.parametrize(
    ("found", "distance"),
    [
        (counted(requests=19, late=19), apart()),
        (counted(requests=100, late=5), apart()),
        (counted(requests=100), apart(19, 1.0)),
        (counted(requests=100), apart(1000, 0.25)),
    ],
    ids=["few requests", "one of twenty", "few pairs", "at the limit"],
)
def test_it_goes_on_within_the_limits(found: Tally, distance: Apart) -> None:
    assert judge(found, distance, TRIAL, 1.0).what == GO_ON


def test_a_probation_ends_with_the_first_failure_that_the_one_before_had_not() -> None:
    length = Probation(predictions=10, seconds=5.0)
    assert judge_probation(counted(predictions=9), length, 6.0).what == GO_ON
    assert judge_probation(counted(predictions=10), length, 6.0).what == OVER
    decision = judge_probation(counted(predictions=10, champion_failures=1), length, 6.0)
    assert (decision.what, decision.code) == (OUT, "probation_failed")


@pytest.mark.parametrize(
    ("target", "one", "two", "distance"),
    [
        (Target(20.0), (10.0,), (5.0,), 0.25),
        (Target(20.0), (10.0,), (1000.0,), 1.0),
        (Target(kind="value", low=-1.0, high=3.0), (0.0,), (1.0,), 0.25),
        (Target(kind="event"), (0.9,), (0.2,), 0.7),
        (Target(kind="class", classes=["a", "b"]), (0.9, 0.1), (0.6, 0.4), 0.0),
        (Target(kind="class", classes=["a", "b"]), (0.9, 0.1), (0.4, 0.6), 1.0),
    ],
)
def test_how_far_predictions_are_apart(
    target: Target, one: tuple[float, ...], two: tuple[float, ...], distance: float
) -> None:
    from interplant.client import evidence

    assert evidence.distance(target, one, two) == pytest.approx(distance)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ({"predictions": -1}, "predictions"),
        ({"seconds": float("nan")}, "seconds"),
        ({"canary": 1.5, "seconds": 1.0}, "canary"),
        ({"canary": 0.1}, "canary"),
        ({"milliseconds": 0.0}, "milliseconds"),
        ({"disagreement": -0.1}, "disagreement"),
    ],
)
def test_a_trial_that_cannot_be_is_named(words: dict[str, float], key: str) -> None:
    with pytest.raises(Impossible) as caught:
        Trial(**words).check("policy.release.trial.")  # type: ignore[arg-type]
    assert caught.value.key == f"policy.release.trial.{key}"


def test_counts_of_another_stage_are_none(plant: PlantDirectory) -> None:
    second = Challenger("r-1", SHADOW, "2025-05-01T10:00:00+00:00", 0.0, "r-0")
    assert tally.of(plant, second) == counted()
    tally.note(plant, counted(requests=7))
    assert tally.of(plant, second).requests == 7
    assert plant.tally.stat().st_mode & 0o077 == 0
    assert tally.of(plant, replace(second, stage=CANARY)).requests == 0
    assert tally.of(plant, replace(second, since="2025-06-01T10:00:00+00:00")).requests == 0
    plant.tally.write_text("{")
    assert tally.of(plant, second).requests == 0


# --- the whole way ---------------------------------------------------------------------------------


class Trials:
    """A plant on whose log and counts a test writes what serving would."""

    def __init__(self, federation: Federation) -> None:
        self.federation, self.plant = federation, federation.plant
        self.watch = Watch(self.plant)
        self.machine = 0

    def second(self) -> Challenger:
        found = pointers.challenger(self.plant)
        assert found is not None
        return found

    def answer(self, windows: int, own: float, other: float, label: float | None = None) -> None:
        """Both predict windows: off by ``own`` and ``other`` from what is true, 10 cycles; 8 a machine."""
        second, log = self.second(), Predictions.open(self.plant)
        noise = np.random.default_rng(windows).normal(0.0, 0.5, windows)
        rows = []
        for place in range(windows):
            self.machine += place % 8 == 0
            said = tuple((10.0 + off + noise[place],) for off in (own, other))
            rows.append(
                Prediction(
                    new_id(), time.time(), second.against, said[1], f"m{self.machine}", float(place),
                    second.release, said[0],
                )
            )  # fmt: skip
        log.add(rows)
        if label is not None:
            for row in rows:
                assert log.label(row.id, label)
        log.close()
        before = tally.of(self.plant, second)
        more = {name: getattr(before, name) + windows for name in ("requests", "predictions", "heard")}
        tally.note(self.plant, replace(before, **more))

    def count(self, **words: int) -> None:
        tally.note(self.plant, replace(tally.of(self.plant, self.second()), **words))

    def look(self, seconds: float = 0.0) -> str:
        """What the watch decides so long after the stage's begin."""
        decision = self.watch.look(seconds_of(self.second().since) + seconds)
        assert decision is not None
        return decision.what

    @property
    def state(self) -> dict[str, str]:
        return {name: one.state for name, one in deployment.standing(self.plant)}

    def serving(self) -> str:
        champion = pointers.champion(self.plant)
        assert champion is not None
        return champion.release


@pytest.fixture
def trials(federation: Federation) -> Trials:
    """A plant that serves r-0, on whose hold-out r-1 has passed the gate: it is in its shadow."""
    plant = federation.plant
    edit(plant, lambda one: setattr(one.serving, "listen", "0"))
    settle(plant, release__trial__predictions=100, release__trial__canary=0.25, release__margin=0.2)
    federation.try_out(federation.make("r-0", 0.2))
    assert federation.try_out(federation.make("r-1", 0.1)).state == "shadow"
    return Trials(federation)


def test_a_release_goes_from_shadow_to_canary_to_champion(trials: Trials) -> None:
    assert (trials.state, trials.serving()) == ({"r-0": "active", "r-1": "shadow"}, "r-0")
    trials.answer(99, 1.0, 2.0)
    assert trials.look() == GO_ON
    trials.answer(1, 1.0, 2.0)
    assert trials.look() == OVER
    second = trials.second()
    assert (second.release, second.stage, second.share) == ("r-1", CANARY, 0.25)
    assert (trials.state["r-1"], trials.serving()) == ("canary", "r-0")
    trials.answer(100, 1.0, 2.0)
    assert trials.look() == OVER
    assert (trials.state, trials.serving()) == ({"r-0": "superseded", "r-1": "active"}, "r-1")
    assert pointers.challenger(trials.plant) is None
    assert trials.watch.look(time.time()) is None
    verdict = verdicts.verdict_of(trials.plant, "r-1")
    assert verdict is not None
    assert verdict.figures["disagreement"] == pytest.approx(1.0 / CAP, abs=1e-6)
    states = [step.state for step in history.steps(trials.plant) if step.release == "r-1"]
    assert states == ["shadow", "canary", "active"]


def test_without_a_canary_the_shadow_leads_to_the_champion(trials: Trials) -> None:
    settle(trials.plant, release__trial__canary=0.0)
    trials.answer(100, 1.0, 2.0)
    assert trials.look() == OVER
    assert trials.serving() == "r-1"


@pytest.mark.parametrize(
    ("words", "code"),
    [({"requests": 40, "failures": 1}, "trial_failed"), ({"requests": 40, "late": 3}, "trial_slow")],
)
@pytest.mark.parametrize("stage", [SHADOW, CANARY])
def test_it_is_withdrawn_and_the_champion_stays(
    trials: Trials, words: dict[str, int], code: str, stage: str
) -> None:
    if stage == CANARY:
        trials.answer(100, 1.0, 2.0)
        trials.look()
    trials.count(**words)
    assert trials.look() == OUT
    assert (trials.state, trials.serving()) == ({"r-0": "active", "r-1": "withdrawn"}, "r-0")
    verdict = verdicts.verdict_of(trials.plant, "r-1")
    assert verdict is not None
    assert verdict.code == code
    assert verdicts.report_for_coordinator(trials.plant.load().policy, verdict) == ("received", "")
    assert pointers.challenger(trials.plant) is None


def test_one_that_disagrees_is_withdrawn(trials: Trials) -> None:
    trials.answer(30, 9.0, 2.0)
    assert trials.look() == OUT
    verdict = verdicts.verdict_of(trials.plant, "r-1")
    assert verdict is not None
    assert verdict.code == "trial_disagrees"
    assert verdict.figures["disagreement"] == pytest.approx(0.35, abs=1e-3)


@pytest.mark.parametrize(
    ("own", "other", "what"),
    [(4.0, 2.0, OUT), (2.0, 4.0, GO_ON), (2.2, 2.0, GO_ON)],
    ids=["worse", "better", "within the margin"],
)
def test_errors_decide_where_labels_came(trials: Trials, own: float, other: float, what: str) -> None:
    trials.answer(90, own, other, label=10.0)
    assert trials.look() == what
    assert trials.serving() == "r-0"
    assert trials.state["r-1"] == ("withdrawn" if what == OUT else "shadow")


def test_the_same_model_is_not_worse_even_without_a_margin(trials: Trials) -> None:
    settle(trials.plant, release__margin=0.0)
    trials.answer(90, 2.0, 2.0, label=10.0)
    assert trials.look() == GO_ON


def test_few_labels_decide_nothing_before_the_end_and_are_looked_at_then(trials: Trials) -> None:
    trials.answer(39, 4.0, 2.0, label=10.0)
    assert trials.look() == GO_ON
    trials.answer(61, 4.0, 2.0)
    assert trials.look() == GO_ON or trials.state["r-1"] == "canary"


def test_a_newer_release_takes_the_place_of_the_one_on_trial(trials: Trials) -> None:
    trials.federation.try_out(trials.federation.make("r-2", 0.05))
    assert trials.second().release == "r-2"
    assert trials.state == {"r-0": "active", "r-1": "withdrawn", "r-2": "shadow"}


@pytest.mark.parametrize("how", ["flipped byte", "revoked key"])
def test_what_does_not_verify_when_its_trial_is_over_is_withdrawn(trials: Trials, how: str) -> None:
    if how == "flipped byte":
        path = trials.plant.releases / "r-1" / "weights.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        trials.federation.revoke_key()
    trials.answer(100, 1.0, 2.0)
    trials.look()
    verdict = verdicts.verdict_of(trials.plant, "r-1")
    assert verdict is not None
    assert (verdict.state, verdict.code) == (
        "withdrawn", "tampered" if how == "flipped byte" else "revoked_key"
    )  # fmt: skip
    assert trials.serving() == "r-0"


def test_going_back_ends_the_trial(trials: Trials) -> None:
    settle(trials.plant, release__trial__predictions=0, release__trial__canary=0.0)
    trials.federation.try_out(trials.federation.make("r-2", 0.05))
    settle(trials.plant, release__trial__predictions=100)
    trials.federation.try_out(trials.federation.make("r-3", 0.05))
    rollback.roll_back(trials.plant)
    assert trials.serving() == "r-0"
    assert (trials.state["r-2"], trials.state["r-3"]) == ("rolled_back", "withdrawn")


def test_what_takes_other_windows_cannot_answer_beside_and_is_put_to_a_person(trials: Trials) -> None:
    longer = trials.federation.make("r-2", 0.05, replace(TASK, window=Window(6)))
    verdict = trials.federation.try_out(longer)
    assert verdict.state == "waiting"
    assert "other windows" in verdict.sentence
    assert trials.second().release == "r-1", "the other's trial goes on"
    assert deployment.approve(trials.plant, "r-2").state == "active"
    assert trials.serving() == "r-2"
    assert trials.state["r-1"] == "withdrawn"


def test_a_person_lets_it_go_on_to_its_trial(trials: Trials) -> None:
    settle(trials.plant, release__approval="person")
    assert trials.federation.try_out(trials.federation.make("r-2", 0.05)).state == "waiting"
    assert trials.second().release == "r-1"
    assert deployment.approve(trials.plant, "r-2").state == "shadow"
    assert trials.second().release == "r-2"
    with pytest.raises(UsageError, match="it is shadow"):
        deployment.approve(trials.plant, "r-2")


def test_a_person_ends_a_trial_and_rejects_what_waits(trials: Trials) -> None:
    assert deployment.reject(trials.plant, "r-1", "too many alarms").code == "rejected"
    assert pointers.challenger(trials.plant) is None
    assert (trials.state["r-1"], trials.serving()) == ("withdrawn", "r-0")
    settle(trials.plant, release__approval="person")
    assert trials.federation.try_out(trials.federation.make("r-2", 0.05)).state == "waiting"
    verdict = deployment.reject(trials.plant, "r-2")
    assert (verdict.state, verdict.code) == ("withdrawn", "rejected")
    for name, state in (("r-2", "withdrawn"), ("r-0", "active"), ("r-9", "not tried here")):
        with pytest.raises(UsageError, match=f"waits for approval or is on trial; it is {state}"):
            deployment.reject(trials.plant, name)


def test_what_was_refused_is_tried_again_at_a_persons_word(trials: Trials) -> None:
    deployment.reject(trials.plant, "r-1")
    settle(trials.plant, release__latency_ms=0.001)
    folder = trials.federation.make("r-2", 0.05)
    assert trials.federation.try_out(folder).code == "slow"
    settle(trials.plant, release__latency_ms=1000.0)
    deployment.retry(trials.plant, "r-2")
    assert verdicts.untried(trials.plant) == ["r-2"]
    assert deployment.try_release(trials.plant, trials.plant.releases / "r-2").state == "shadow"
    deployment.retry(trials.plant, "r-1")
    for name, state in (("r-1", "not tried here"), ("r-2", "shadow"), ("r-0", "active")):
        with pytest.raises(UsageError, match=f"was refused or withdrawn; it is {state}"):
            deployment.retry(trials.plant, name)


def test_what_waits_and_is_older_than_the_new_champion_waits_no_more(trials: Trials) -> None:
    settle(
        trials.plant, release__approval="person", release__trial__predictions=0, release__trial__canary=0.0
    )
    made = {}
    for name, day in (("r-2", "2025-05-02"), ("r-3", "2025-05-03"), ("r-4", "2025-05-04")):
        made[name] = trials.federation.make(name, 0.05)
        path = made[name] / "lineage.json"
        path.write_text(path.read_text().replace("2025-05-01", day))
        trials.federation.sign_again(made[name])
        assert trials.federation.try_out(made[name]).state == "waiting"
    deployment.approve(trials.plant, "r-3")
    assert (trials.state["r-2"], trials.state["r-4"]) == ("withdrawn", "waiting")
    known = verdicts.verdict_of(trials.plant, "r-2")
    assert known is not None
    assert known.code == "replaced"


@pytest.mark.parametrize("content", [b'{"name', b"", b'{"name": 3}'])
def test_a_challenger_whose_task_is_damaged_is_withdrawn(trials: Trials, content: bytes) -> None:
    (trials.plant.releases / "r-1" / "task.json").write_bytes(content)
    assert trials.look() == "out"
    assert trials.state["r-1"] == "withdrawn"
    assert trials.serving() == "r-0"


# --- probation -------------------------------------------------------------------------------------


@pytest.fixture
def probation(trials: Trials) -> Trials:
    """The same plant when r-1 has taken over, and r-0 answers beside it for 100 predictions."""
    settle(trials.plant, release__trial__canary=0.0, release__probation__predictions=100)
    trials.answer(100, 1.0, 2.0)
    assert trials.look() == OVER
    second = trials.second()
    assert (second.release, second.stage, second.against) == ("r-0", PROBATION, "r-1")
    return trials


def test_a_probation_that_goes_well_ends(probation: Trials) -> None:
    probation.answer(100, own=2.0, other=1.0, label=10.0)  # the one before is twice as bad
    assert probation.look() == OVER
    assert probation.serving() == "r-1"
    assert pointers.challenger(probation.plant) is None
    assert probation.state == {"r-0": "superseded", "r-1": "active"}


def test_a_champion_that_fails_on_probation_is_left(probation: Trials) -> None:
    probation.count(champion_failures=1)
    assert probation.look() == OUT
    assert (probation.serving(), probation.state["r-1"]) == ("r-0", "rolled_back")
    verdict = verdicts.verdict_of(probation.plant, "r-1")
    assert verdict is not None
    assert verdict.code == "probation_failed"
    assert pointers.challenger(probation.plant) is None


def test_a_champion_that_turns_out_worse_is_left(probation: Trials) -> None:
    probation.answer(90, own=1.0, other=3.0, label=10.0)
    assert probation.look() == OUT
    assert (probation.serving(), probation.state["r-1"]) == ("r-0", "rolled_back")
    verdict = verdicts.verdict_of(probation.plant, "r-1")
    assert verdict is not None
    assert verdict.code == "probation_worse"
    assert verdict.figures["error"] == pytest.approx(3.0, abs=0.3)


def test_a_newer_release_ends_the_probation_without_a_word_against_it(probation: Trials) -> None:
    probation.federation.try_out(probation.federation.make("r-2", 0.05))
    assert probation.second().release == "r-2"
    assert probation.state == {"r-0": "superseded", "r-1": "active", "r-2": "shadow"}


def test_a_stage_that_a_kill_has_cut_off_is_mended(trials: Trials, tmp_path: Path) -> None:
    """The pointer moved, and the process died before it was on record."""
    pointers.challenge(trials.plant, "r-1", CANARY, 0.25)
    trials.look()
    assert trials.state["r-1"] == "canary"
    pointers.activate(trials.plant, "r-1")
    with verdicts.deciding(trials.plant):
        assert rollback.mend(trials.plant)
    assert trials.state == {"r-0": "superseded", "r-1": "active"}
    assert history.line_of_champions(trials.plant) == ["r-0", "r-1"]


def test_looks_share_the_level() -> None:
    levels = [trial.LEVEL / 2.0 ** (look + 1) for look in range(1, 30)]
    assert sum(levels) + trial.LEVEL / 2.0 <= trial.LEVEL
