"""The demo without its processes: the simulate engine, a folder's fate, the presets."""

import json
from pathlib import Path

import pytest

from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import only_one
from interplant.core.schema import PlantData
from interplant.lab import demo
from interplant.lab.demo import Settings, run_demo
from interplant.lab.federation import LocalFederation
from interplant.lab.prepared import Source
from interplant.lab.summary import Summary
from interplant.privacy.accounting import spent
from interplant.privacy.plan import Plan

TINY = ("rounds=2", "training.steps=2", "training.batch=64")


class Heard:
    """A teller that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.rounds: list[tuple[str, int, int]] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def round(self, label: str, done: int, rounds: int) -> None:
        self.rounds.append((label, done, rounds))


def tiny(path: Path) -> Settings:
    return Settings(path, Source(machines=2), engine="simulate", overrides=TINY)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def made(path: Path, heard: Heard) -> Summary:
    return run_demo(tiny(path), heard)


def test_the_whole_loop_leaves_a_summary_and_a_picture(path: Path, made: Summary) -> None:
    folder = demo.runs_folder(path, made)
    assert json.loads((folder / "summary.json").read_text()) == json.loads(made.to_json())
    assert (folder / "summary.png").read_bytes()[:4] == b"\x89PNG"
    assert folder == path / "runs" / made.run


def test_every_plant_spent_what_its_plan_says(made: Summary, path: Path) -> None:
    task = tiny(path).task()
    for plant in made.plants:
        declared = LocalFederation(path / "federation").plant(plant.name).load().data
        events = [Plan.of(task, declared).event] * task.rounds
        assert plant.epsilon == pytest.approx(spent(events, plant.delta).epsilon)
        assert 0 < plant.epsilon < plant.epsilon_budget


def test_the_release_was_verified_and_tried_at_every_plant(made: Summary, path: Path) -> None:
    assert made.release["signature_verified"] is True
    assert len(made.release["sha256"]) == 64
    for plant in made.plants:
        assert plant.release == made.release["id"]
        assert plant.release_state in ("active", "refused")
        assert plant.release_reason


def test_a_tampered_release_is_not_called_verified(made: Summary, path: Path) -> None:
    federation = LocalFederation(path / "federation")
    plants = [federation.plant(plant.name) for plant in made.plants]
    card = plants[0].releases / made.release["id"] / "card.md"
    content = card.read_bytes()
    try:
        card.write_bytes(content + b"x")
        assert demo._release(made.release["id"], plants)["signature_verified"] is False
    finally:
        card.write_bytes(content)
    assert demo._release(made.release["id"], plants)["signature_verified"] is True


def test_the_keyed_snapshot_is_the_one_in_the_lineage(made: Summary, path: Path) -> None:
    release = LocalFederation(path / "federation").coordinator.releases / made.release["id"]
    lineage = json.loads((release / "lineage.json").read_text())
    keyed = {one["name"]: list(one["snapshots"]) for one in lineage["participants"]}
    assert keyed == {plant.name: [plant.snapshot_keyed] for plant in made.plants}
    assert not {one for own in keyed.values() for one in own} & {plant.snapshot for plant in made.plants}


def test_progress_is_told(made: Summary, heard: Heard) -> None:
    assert ("training without privacy", 2, 2) in heard.rounds
    assert ("training with privacy", 2, 2) in heard.rounds
    assert any("starting a coordinator and 4 plants" in stage for stage in heard.stages)


def test_a_stopped_demo_leaves_no_result(made: Summary, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    runs = sorted((path / "runs").iterdir())
    monkeypatch.setattr(demo.carriers.SimulateCarrier, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tiny(path))
    assert sorted((path / "runs").iterdir()) == runs


def test_the_next_demo_reuses_the_data_and_nothing_else(made: Summary, path: Path) -> None:
    heard = Heard()
    keys = LocalFederation(path / "federation").coordinator.release_public_key
    before = keys.read_bytes()
    again = run_demo(tiny(path), heard)
    assert not any("preparing" in stage for stage in heard.stages)
    assert [one.snapshot for one in again.plants] == [one.snapshot for one in made.plants]
    assert [one.epsilon for one in again.plants] == [one.epsilon for one in made.plants]
    assert keys.read_bytes() != before
    assert again.run != made.run
    assert demo.runs_folder(path, made).is_dir()


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "federation" / "coordinator"
    theirs.mkdir(parents=True)
    with pytest.raises(UsageError, match="choose --dir"):
        demo._fresh(tmp_path / "federation")
    assert theirs.is_dir()


def test_a_demos_old_federation_goes(tmp_path: Path) -> None:
    old = demo._fresh(tmp_path / "federation") / "coordinator"
    old.mkdir()
    demo._fresh(tmp_path / "federation")
    assert not old.exists()


def test_two_demos_in_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    with only_one(tmp_path / "demo.lock", "a demo"), pytest.raises(InterplantError, match="already running"):
        run_demo(tiny(tmp_path))
    assert not (tmp_path / "federation").exists()


@pytest.mark.parametrize("dataset", ["simulated", "cmapss"])
def test_each_preset_stays_within_its_budget(dataset: str, tmp_path: Path) -> None:
    settings = Settings(tmp_path, Source(dataset, tmp_path))
    task, smallest = settings.task(), {"simulated": 3700, "cmapss": 18_000}[dataset]
    events = [Plan.of(task, PlantData(declared_windows=smallest)).event] * task.rounds
    assert spent(events, task.privacy.delta).epsilon < 0.9 * settings.budget


def test_rounds_and_seed_reach_the_task(tmp_path: Path) -> None:
    task = Settings(tmp_path, rounds=7, seed=3).task()
    assert (task.rounds, task.seed) == (7, 3)


def test_stock_flower_gets_few_rounds_and_as_many_steps(tmp_path: Path) -> None:
    usual, flower = Settings(tmp_path).task(), Settings(tmp_path, engine="flower").task()
    assert flower.rounds < usual.rounds
    assert flower.rounds * flower.training.steps == usual.rounds * usual.training.steps
    assert Settings(tmp_path, engine="flower", rounds=2).task().rounds == 2


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one of grpc, simulate, flower, found 'ray'"):
        Settings(tmp_path, engine="ray")
    with pytest.raises(UsageError, match="rounds and seed"):
        Settings(tmp_path, rounds=-1)
