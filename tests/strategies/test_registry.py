"""A task names its strategy, also one that a user has installed; what cannot be is said at once."""

import subprocess
import sys

import pytest

from interplant.core.errors import UsageError
from interplant.core.schema import Strategy
from interplant.strategies import registry
from interplant.strategies.fedavg import FedAvg
from interplant.strategies.multikrum import MultiKrum
from interplant.strategies.registry import REGISTERED, build, proximal

KNOWN = "fedadagrad, fedadam, fedavg, fedavgm, fedprox, fedyogi, krum, median, multikrum, trimmed_mean"


def test_a_strategy_by_name():
    assert build(Strategy()) == FedAvg()
    assert build(Strategy("fedavg", {"learning_rate": 0.5})) == FedAvg(0.5)
    assert build(Strategy("multikrum", {"faulty": 2, "keep": 4})) == MultiKrum(2, 4)


@pytest.mark.parametrize("name", sorted(REGISTERED))
def test_every_registered_strategy_can_be_built(name):
    strategy = build(Strategy(name))
    assert all(callable(getattr(strategy, part)) for part in ("init", "begin", "fold", "finish"))
    assert type(strategy).__module__ == f"interplant.strategies.{name}"


@pytest.mark.parametrize("name", ["", "FedAvg", "mode", "os.system"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(
        UsageError, match=rf"^strategy\.name: expected one of {KNOWN}, found '{name}'$"
    ) as failed:
        build(Strategy(name))
    assert failed.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("fedavg", {"momentum": 0.9}, "expected any of learning_rate, found 'momentum'; remove it"),
        ("krum", {"keep": 3}, "expected any of faulty, learning_rate, found 'keep'; remove it"),
        ("fedavg", {"learning_rate": -1}, "learning_rate: expected a number above 0, found -1"),
        ("fedavg", {"learning_rate": "1"}, "learning_rate: expected a number above 0, found '1'"),
        ("trimmed_mean", {"beta": None}, "beta: expected a number from 0 and below 0.5, found None"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name, arguments, words):
    with pytest.raises(UsageError) as failed:
        build(Strategy(name, arguments))
    assert str(failed.value) == f"strategy.args: {words}"


def test_only_fedprox_holds_plants():
    assert proximal(Strategy("fedprox", {"mu": 0.25})) == 0.25
    assert proximal(Strategy("fedavg")) == 0.0
    assert proximal(Strategy("not-installed-here")) == 0.0
    with pytest.raises(UsageError, match=r"strategy\.args: mu: expected"):
        proximal(Strategy("fedprox", {"mu": -1}))


# --- a user's own --------------------------------------------------------------------------------------

MINE = """
from dataclasses import dataclass
from interplant.strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Twice(FedAvg):
    times: int = 2

    def finish(self, merge, weights, state):
        return {name: array + self.times for name, array in weights.items()}, state

class Half:
    def begin(self, weights, scratch): ...

class Vain:
    def __init__(self): raise SystemExit(0)
    def init(self, weights): ...
    def begin(self, weights, scratch): ...
    def fold(self, merge, update, weight=1.0): ...
    def finish(self, merge, weights, state): ...

nothing = 3
"""
POINTS = {
    "twice": "own_strategies:Twice",
    "half": "own_strategies:Half",
    "no-class": "own_strategies:nothing",
    "gone": "own_strategies:Gone",
    "broken": "own_broken:Any",
    "leaving": "own_leaving:Any",
    "vain": "own_strategies:Vain",
    "fedavg": "own_strategies:Twice",
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution of a user's own, installed by pip."""
    project, place = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    (project / "own_strategies.py").write_text(MINE)
    (project / "own_broken.py").write_text("1 / 0")
    (project / "own_leaving.py").write_text("raise SystemExit(0)")
    points = "\n".join(f'"{name}" = "{value}"' for name, value in POINTS.items())
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "own-strategies"\nversion = "1"\n'
        f'[project.entry-points."{registry.GROUP}"]\n{points}\n'
        '[tool.setuptools]\npy-modules = ["own_strategies", "own_broken", "own_leaving"]\n'
    )
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(place)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *words, str(project)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(str(place))
    yield place
    for name in ("own_strategies", "own_broken", "own_leaving"):
        sys.modules.pop(name, None)


def test_an_installed_one_by_entry_point(installed):
    strategy = build(Strategy("twice", {"times": 3}))
    assert type(strategy).__name__ == "Twice"
    assert strategy.finish(None, {"w": 1}, {}) == ({"w": 4}, {})
    # What cannot be used is one sentence each; an own name takes nothing from ours.
    assert type(build(Strategy("fedavg"))) is FedAvg
    for name, words in {
        "half": "expected own_strategies:Half of own-strategies to be a class with init, .* found no init",
        "no-class": "expected own_strategies:nothing of own-strategies to be a class",
        "gone": "'gone' of own-strategies cannot be imported .*Gone.*; mend or uninstall it",
        "broken": r"'broken' of own-strategies cannot be imported \(ZeroDivisionError: ",
        "leaving": r"'leaving' of own-strategies cannot be imported \(SystemExit: 0\)",
        "vain": r"'vain' cannot be made \(SystemExit: 0\); mend it",
        "mode": "expected one of broken, fedadagrad, .*, trimmed_mean, twice, vain, found 'mode'",
    }.items():
        with pytest.raises(UsageError, match=rf"^strategy\.name: {words}"):
            build(Strategy(name))
    with pytest.raises(
        UsageError, match=r"^strategy\.args: expected any of .*, times, found 'tims'; remove it$"
    ):
        build(Strategy("twice", {"tims": 3}))


def test_a_name_that_two_distributions_offer_is_nobodys(tmp_path, monkeypatch):
    for name in ("first", "second"):
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\nmine = json:JSONDecoder\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"'mine' is offered by first, second; uninstall all but one"):
        build(Strategy("mine"))


def test_a_plant_loads_nobodys_own(installed):
    assert proximal(Strategy("broken")) == 0.0
    assert "own_broken" not in sys.modules
