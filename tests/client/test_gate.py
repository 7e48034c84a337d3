"""The gate's own pieces, and trials at a plant; what becomes of a release stands in test_deployment.py."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interplant.client import bounded, deployment, gate, holdout, local_model, verdicts
from interplant.client import champion as pointers
from interplant.client.directory import PlantDirectory
from interplant.client.verdicts import Verdict
from interplant.core import config
from interplant.core.contract import Column, Contract
from interplant.core.release import ReleaseRefused
from interplant.core.schema import Target, Task, Window
from interplant.data.frames import Dataset
from interplant.data.repository import Repository

from .federation import TASK, Federation, readings, settle
from .test_bounded import looping, write

WEAR = Task(name="wear", contract=Contract(sensors={"s": Column("bar", 0.0, 1.0)}), target=Target(50.0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.1, -1.1])
def test_one_senseless_prediction_is_enough(value: float) -> None:
    gate._check_plausible(np.array([-1.0, 0.0, 2.0], np.float32), WEAR.target)
    with pytest.raises(ReleaseRefused, match="1 of 3 predictions") as caught:
        gate._check_plausible(np.array([0.1, value, 0.9], np.float32), WEAR.target)
    assert caught.value.code == "implausible"


FIGURES = {"rmse": 12.0, "units": 24, "try": 3, "level": 0.01}


def test_a_result_names_its_rivals_and_how_sure_it_is() -> None:
    champion = {"rmse_champion": 15.0, "limit_champion": 15.75, "high_champion": -0.123}
    assert gate.result(FIGURES | champion, WEAR.target) == (
        "error on the hold-out 12.00 cycles; the champion's 15.00, surely at least 12.3 % lower, at most "
        "15.75 allowed (99 % sure by 24 units, try 3)"
    )
    mean = {"rmse_mean": 40.0, "limit_mean": 40.0, "high_mean": 0.08}
    local = {"rmse_local": 13.0, "limit_local": 13.65, "high_local": 20.0}
    said = gate.result(FIGURES | mean | local, WEAR.target)
    assert "of predicting the mean: 40.00, surely at most 8 % higher" in said
    assert "the plant's own model's 13.00, against which nothing can be told" in said


def test_the_reason_leaves_without_its_figures() -> None:
    champion = {"rmse_champion": 15.0, "limit_champion": 15.75, "high_champion": 0.2}
    error = gate.Worse("worse", FIGURES | champion, WEAR.target)
    assert error.code == "worse"
    assert "12.00" in error.detail


# --- how sure it has to be --------------------------------------------------------------------------


def fleet(plant: PlantDirectory, held: range, noise: float, seed: int = 0) -> None:
    """Give a plant held-out machines whose sensor is wrong by a few cycles, each by its own."""
    frame = readings(held)
    off = np.random.default_rng(seed).normal(0.0, noise, len(held))
    frame["health"] = np.clip(frame["health"] + off[frame["machine"] - held.start], -0.8, 1.6)
    Repository(plant.data).snapshot(Dataset(readings(range(1, 7)), frame, simulated=True))


@pytest.fixture
def served(federation: Federation) -> PlantDirectory:
    """A plant whose champion is off by 4 cycles."""
    assert federation.try_out(federation.make("r-0", 0.2)).state == "active"
    return federation.plant


def test_what_is_better_by_chance_alone_is_refused(federation: Federation, served: PlantDirectory) -> None:
    """The same two models: on 12 machines that scatter nobody can tell, on 200 anybody can."""
    settle(served, release__margin=0.0)
    fleet(served, range(101, 113), 0.6)
    few = federation.try_out(federation.make("r-1", 0.15))
    assert few.figures["rmse"] < few.figures["rmse_champion"], few.sentence
    assert (few.state, few.code) == ("refused", "worse")
    assert few.figures["high_champion"] > 0.0
    fleet(served, range(201, 401), 0.6, seed=1)
    many = federation.try_out(federation.make("r-2", 0.15))
    assert many.state == "active", many.sentence
    assert many.figures["high_champion"] < 0.0


def test_each_try_on_one_hold_out_has_to_be_surer(federation: Federation, served: PlantDirectory) -> None:
    fleet(served, range(101, 161), 0.3)
    found = [federation.try_out(federation.make(f"r-{n}", 0.4)) for n in (1, 2, 3)]
    assert [one.code for one in found] == ["worse"] * 3
    assert [one.figures["try"] for one in found] == [1, 2, 3]
    levels = [one.figures["level"] for one in found]
    assert levels == sorted(levels, reverse=True)
    assert found[0].figures["high_champion"] < found[2].figures["high_champion"]
    again = deployment.try_release(served, served.releases / "r-2")
    assert again.figures == found[1].figures  # the same question has the same answer, and costs nothing


def test_a_trial_that_is_killed_while_the_model_predicts_counts(
    federation: Federation, served: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = holdout.predicted

    def dying(*words: Any) -> Any:
        raise KeyboardInterrupt

    folder = federation.deliver(federation.make("r-1", 0.15))
    monkeypatch.setattr(holdout, "predicted", dying)
    with pytest.raises(KeyboardInterrupt):
        deployment.try_release(served, folder)
    monkeypatch.setattr(holdout, "predicted", really)
    assert federation.try_out(federation.make("r-2", 0.4)).figures["try"] == 3
    assert deployment.try_release(served, folder).figures["try"] == 2


def test_confidence_is_the_plants(federation: Federation, served: PlantDirectory) -> None:
    settle(served, release__confidence=0.5)
    verdict = federation.try_out(federation.make("r-1", 0.1))
    assert verdict.figures["level"] == pytest.approx(0.5 * 6 / np.pi**2 / 4 + 0.05 * 6 / np.pi**2)


# --- hold-outs that tell too little -----------------------------------------------------------------


def test_a_hold_out_with_five_rows_is_refused_with_a_reason(
    federation: Federation, served: PlantDirectory
) -> None:
    Repository(served.data).snapshot(
        Dataset(readings(range(1, 7)), readings(range(50, 51)).iloc[:5], simulated=True)
    )
    verdict = federation.try_out(federation.make("r-1", 0.0))
    assert (verdict.state, verdict.code) == ("refused", "holdout_small")
    assert "expected at least 10 independent blocks, found 1" in verdict.sentence
    champion = pointers.champion(served)
    assert champion is not None
    assert champion.release == "r-0"
    assert verdicts.report_for_coordinator(served.load().policy, verdict) == ("received", "")


def test_few_machines_with_long_records_are_judged_by_blocks(
    federation: Federation, served: PlantDirectory
) -> None:
    Repository(served.data).snapshot(Dataset(readings(range(1, 7)), readings(range(60, 64)), simulated=True))
    verdict = federation.try_out(federation.make("r-1", 0.1))
    assert verdict.state == "active", verdict.sentence
    assert (verdict.figures["machines"], verdict.figures["units"]) == (4, 16)


# --- models that are no good to run -----------------------------------------------------------------


def spoiled(federation: Federation, make: Callable[[Path], object], name: str = "r-1") -> Verdict:
    """Try a release whose ONNX is another program."""
    folder = federation.make(name)
    make(folder / "model.onnx")
    federation.sign_again(folder)
    return federation.try_out(folder)


def wide(path: Path, inputs: tuple[str, ...]) -> None:
    from onnx import helper

    nodes = [
        helper.make_node(
            "ReduceMean", [name, "axes"], ["prediction" if not place else f"x{place}"], keepdims=0
        )
        for place, name in enumerate(inputs)
    ]
    write(path, nodes, {"axes": np.array([1, 2])}, inputs)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: wide(path, ("windows", "more")), "onnx"),
        (lambda path: path.write_bytes(b"no model"), "onnx"),
        (lambda path: looping(path, 1 << 60), "runaway"),
    ],
    ids=["more inputs", "no model", "loops"],
)
def test_a_program_that_is_not_the_tasks_is_refused_and_stopped(
    federation: Federation,
    served: PlantDirectory,
    make: Callable[[Path], object],
    code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded, "LOAD_SECONDS", 1.0)
    settle(served, release__latency_ms=1.0)
    verdict = spoiled(federation, make)
    assert (verdict.state, verdict.code) == ("refused", code)
    assert verdicts.report_for_coordinator(served.load().policy, verdict) == ("refused", code)
    champion = pointers.champion(served)
    assert champion is not None
    assert champion.release == "r-0"


def test_a_model_that_takes_longer_than_the_plant_allows_is_refused(
    federation: Federation, served: PlantDirectory
) -> None:
    settle(served, release__latency_ms=0.001)
    verdict = federation.try_out(federation.make("r-1", 0.1))
    assert (verdict.state, verdict.code) == ("refused", "slow")
    assert "policy.release.latency_ms is 0.001" in verdict.sentence
    settle(served, release__latency_ms=50.0)
    assert deployment.try_release(served, served.releases / "r-1").state == "active"


def test_a_model_that_stops_at_some_readings_is_refused_and_only_the_plant_knows(
    federation: Federation, served: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = bounded.run

    def run(model: Path, arrays: Any, outputs: int, latency: float, **more: Any) -> bounded.Ran:
        if len(arrays) == 1 and "r-1" in str(model):
            raise bounded.RunawayError("stopped: more than 12 s")
        return really(model, arrays, outputs, latency, **more)

    monkeypatch.setattr(bounded, "run", run)
    verdict = federation.try_out(federation.make("r-1", 0.1))
    assert (verdict.state, verdict.code) == ("refused", "stopped")
    assert verdicts.report_for_coordinator(served.load().policy, verdict) == ("received", "")


# --- contract ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_a_release_for_another_version_of_the_contract_is_refused(
    federation: Federation, served: PlantDirectory, version: int
) -> None:
    settings = served.load()
    settings.data.contract = "contract.yaml"
    served.config.write_text(config.to_yaml(settings))
    (served.path / "contract.yaml").write_text(config.to_yaml(replace(TASK.contract, version=2)))
    task = replace(TASK, contract=replace(TASK.contract, version=version))
    verdict = federation.try_out(federation.make("r-1", 0.1, task))
    assert (verdict.state, verdict.code) == (
        ("active", "") if version == 2 else ("refused", "contract_version")
    )
    if version == 1:
        assert verdicts.report_for_coordinator(served.load().policy, verdict) == (
            "refused",
            "contract_version",
        )


# --- the plant's own model --------------------------------------------------------------------------


def test_a_release_has_to_hold_against_the_plants_own_model_too(
    federation: Federation, served: PlantDirectory
) -> None:
    """The plant's machines tell exactly what is left: a model of its own learns it."""
    settle(served, release__local=True)
    verdict = federation.try_out(federation.make("r-1", 0.1))
    assert (verdict.state, verdict.code) == ("refused", "local")
    assert verdict.figures["rmse_local"] < 0.5 < verdict.figures["rmse"] < verdict.figures["rmse_champion"]
    assert "the plant's own model's" in verdict.sentence
    assert verdicts.report_for_coordinator(served.load().policy, verdict) == ("received", "")
    settle(served, release__local=False)
    assert deployment.try_release(served, served.releases / "r-1").state == "active"


def test_the_plants_own_model_is_trained_once_for_a_snapshot_and_a_task(
    federation: Federation, served: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    really = local_model._train

    def train(task: Task, learned: Any) -> Any:
        trained.append(task.name)
        return really(task, learned)

    monkeypatch.setattr(local_model, "_train", train)
    settle(served, release__local=True)
    for name in ("r-1", "r-2"):
        federation.try_out(federation.make(name, 0.1))
    assert len(trained) == 1
    (kept,) = served.local_models.iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    fleet(served, range(101, 131), 0.1)
    federation.try_out(federation.make("r-3", 0.1))
    assert len(trained) == 2
    (other,) = served.local_models.iterdir()
    assert other != kept
    federation.try_out(federation.make("r-4", 0.1, replace(TASK, window=Window(6))))
    assert len(trained) == 3


def test_a_task_cannot_have_the_plant_train_for_ever(plant: PlantDirectory) -> None:
    from interplant.data.windows import training_windows

    task = replace(TASK, rounds=10**6)
    learned = training_windows(readings(range(1, 3)), task)
    x = learned.x[:]
    found = local_model.predictions(plant, "ab" * 32, task, learned, x)
    assert np.abs(found - x[:, 0, -1]).max() < 0.1


def test_nothing_of_a_trial_but_words_and_pointers_is_left(
    federation: Federation, served: PlantDirectory
) -> None:
    federation.try_out(federation.make("r-1", 0.1))
    (record,) = json.loads((served.tries / "tries.json").read_text())[1:]
    assert record["passed"] is True
    assert not list(served.path.glob("**/*.npy"))
