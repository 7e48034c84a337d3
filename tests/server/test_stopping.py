"""A run that has learned enough ends before its last round, by what plants were charged for."""

from dataclasses import replace

import pytest
from flwr.app import MetricRecord

from interplant.core.possible import Impossible
from interplant.core.schema import Metric, Stopping
from interplant.server.rounds import carry_out
from interplant.server.stopping import learned_enough

from .fakes import NAMES, WEIGHTS, Ringing, answer, honest, receipt_for, step_of

ASKED = {"metrics": {"loss": Metric()}, "stopping": Stopping(rounds=2, improvement=0.1)}


def telling(*losses):
    """Plants that tell the loss of each round, the first of them a little less."""

    def act(request, name):
        number = request.content.config_records["task"]["round"]
        loss = losses[number - 1] - 0.001 * (name == NAMES[0])
        step = step_of(WEIGHTS, name)
        return answer(request, step, receipt_for(request, name), metrics=MetricRecord({"loss": loss}))

    return Ringing(dict.fromkeys(NAMES, act))


def test_a_run_ends_when_its_loss_falls_no_more(start):
    run = start(number=9, learned=ASKED)
    state = carry_out(telling(1.0, 0.8, 0.6, 0.5, 0.52, 0.49, 0.5, 0.1, 0.1), run)
    # After 4 rounds 0.55 against 0.9, after 5 0.51 against 0.7, after 6 0.505 against 0.55: too little.
    assert state.round == run.restore().round == 6
    assert learned_enough(run.task(), run) == (
        "its loss falls no more: 0.5047 over 2 rounds, 0.5497 over as many before"
    )
    again = carry_out(telling(*[1.0] * 9), run)
    assert again.round == 6, "what has ended does not go on when it is taken up again"


def test_a_run_whose_loss_falls_goes_to_its_end(start):
    run = start(number=5, learned=ASKED)
    assert carry_out(telling(1.0, 0.8, 0.6, 0.4, 0.2), run).round == 5
    assert learned_enough(run.task(), run) == ""


def test_without_a_loss_and_without_the_setting_nothing_ends_early(start):
    silent = start(number=6, learned=ASKED)
    assert carry_out(Ringing(dict.fromkeys(NAMES, honest)), silent).round == 6
    unasked = start(name="other", number=6, learned={"metrics": ASKED["metrics"]})
    assert carry_out(telling(*[1.0] * 6), unasked).round == 6


@pytest.mark.parametrize(
    ("metrics", "stopping", "key"),
    [
        ({}, Stopping(rounds=3), "stopping.rounds"),
        ({"loss": Metric(mechanism="none")}, Stopping(rounds=3), "stopping.rounds"),
        ({"units": Metric()}, Stopping(rounds=3), "stopping.rounds"),
        ({"loss": Metric()}, Stopping(rounds=-1), "stopping.rounds"),
        ({"loss": Metric()}, Stopping(rounds=3, improvement=1.0), "stopping.improvement"),
    ],
)
def test_what_ends_a_run_is_charged(start, metrics, stopping, key):
    task = replace(start().task(), metrics=metrics, stopping=stopping)
    with pytest.raises(Impossible) as caught:
        task.check()
    assert caught.value.key == key
