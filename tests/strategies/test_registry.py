"""A task names its strategy; what cannot be is said before anything starts."""

import pytest

from interplant.core.errors import UsageError
from interplant.core.schema import Strategy
from interplant.strategies.fedavg import FedAvg
from interplant.strategies.registry import REGISTERED, build


def test_a_strategy_by_name():
    assert build(Strategy()) == FedAvg()
    assert build(Strategy("fedavg", {"learning_rate": 0.5})) == FedAvg(0.5)


@pytest.mark.parametrize("name", sorted(REGISTERED))
def test_every_registered_strategy_can_be_built(name):
    strategy = build(Strategy(name))
    assert all(callable(getattr(strategy, part)) for part in ("begin", "fold", "finish"))


@pytest.mark.parametrize("name", ["", "FedAvg", "fedprox", "os.system"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(UsageError, match=r"strategy\.name: expected one of fedavg, found") as failed:
        build(Strategy(name))
    assert failed.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"momentum": 0.9}, "momentum"),
        ({"learning_rate": -1}, "above 0"),
        ({"learning_rate": "1"}, "above 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(UsageError, match=f"strategy.args: .*{words}"):
        build(Strategy("fedavg", arguments))
