"""The reference experiment: stages, and what DVC makes of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from interplant.core.errors import UsageError
from interplant.data.git import git
from interplant.lab import experiment

ROOT = Path(__file__).parents[2]
PARAMS = {
    "prepare": {"dataset": "simulated", "data": "", "machines": 2, "seed": 0},
    "task": ["rounds=1", "training.steps=2", "training.batch=64"],
    "budget": 4.0,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's pipeline over tiny data, in a Git repository of its own."""
    folder = tmp_path_factory.mktemp("project")
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    needed = {name for stage in pipeline["stages"].values() for name in stage["deps"]}
    for name in ["dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", *sorted(needed)]:
        if not name.startswith("experiment/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (folder / ".venv").symlink_to(sys.prefix)
    git(folder, "init", "--quiet")
    return folder


def repro(project: Path) -> str:
    """Run the pipeline as the README says; return what DVC printed."""
    command = [str(Path(sys.executable).parent / "dvc"), "repro"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def first(project: Path) -> str:
    return repro(project)


def test_every_stage_runs_and_leaves_its_metrics(project: Path, first: str) -> None:
    for stage in ("prepare", "alone", "pooled", "federated", "private", "plots"):
        assert f"Running stage '{stage}'" in first
    results = {
        kind: json.loads((project / f"experiment/{kind}.json").read_text()) for kind in experiment.KINDS
    }
    plants = ["plant-1", "plant-2", "plant-3", "plant-4"]
    assert all(list(result["rmse"]) == plants for result in results.values())
    assert all(0 < spent < 4 for spent in results["private"]["epsilon"].values())
    assert results["private"]["unit"] == "window"
    assert "epsilon" not in results["federated"]
    summary = json.loads((project / "experiment/summary.json").read_text())
    assert summary == {kind: result["mean"] for kind, result in results.items()}
    assert (project / "experiment/errors.png").read_bytes()[:4] == b"\x89PNG"


def test_a_second_repro_runs_nothing(project: Path, first: str) -> None:
    again = repro(project)
    assert "Running stage" not in again
    assert "up to date" in again


def test_lost_plants_come_back_from_dvcs_cache(project: Path, first: str) -> None:
    before = (project / "experiment/plants/plant-1/train.parquet").read_bytes()
    shutil.rmtree(project / "experiment/plants")
    assert "Running stage" not in repro(project)
    assert (project / "experiment/plants/plant-1/train.parquet").read_bytes() == before


def test_a_change_runs_what_depends_on_it_alone(project: Path, first: str) -> None:
    params = PARAMS | {"budget": 3.0}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    again = repro(project)
    assert "Running stage 'private'" in again
    assert "Running stage 'plots'" in again
    assert "Running stage 'prepare'" not in again
    assert "Running stage 'pooled'" not in again


def test_git_sees_none_of_what_the_experiment_writes(project: Path, first: str) -> None:
    left = git(project, "status", "--porcelain", "--untracked-files=all")
    assert "experiment/" not in left
    assert ".dvc/tmp" not in left


def test_the_projects_own_parameters_are_good() -> None:
    from interplant.core import config

    params = config.load(ROOT / "params.yaml", experiment.Params)
    assert params.source.simulated
    assert params.load_task().privacy.mechanism == "dp-sgd"


def test_a_wrong_stage_or_parameter_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert experiment.main(["draw"]) == 2
    assert "expected one stage of prepare, alone" in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text("budget: -1\n")
    assert experiment.main(["prepare"]) == UsageError.exit_code
    assert capsys.readouterr().err.startswith("interplant: params.yaml:1: budget: expected more than 0")
