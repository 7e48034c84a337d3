"""A plant serves a release only after it has passed everything; the last good one always stays."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from interplant.client import champion as pointers
from interplant.client import deployment, receiving, verdicts
from interplant.client.champion import Champion
from interplant.client.directory import PlantDirectory
from interplant.client.verdicts import Verdict
from interplant.core import export, models, signing
from interplant.core.errors import UsageError
from interplant.core.release import FILES, ReleaseRefused
from interplant.core.schema import Model, Window
from interplant.data.frames import Dataset
from interplant.data.repository import Repository

from .federation import TASK, Federation, readings, settle

# --- the gate --------------------------------------------------------------------------------------


def test_the_first_release_serves_if_it_beats_the_mean(federation: Federation) -> None:
    verdict = federation.try_out(federation.make("r-1", 0.1))
    assert (verdict.state, verdict.code) == ("active", "")
    assert verdict.figures["rmse"] == pytest.approx(2.0, abs=1e-3)
    # Four machines of 20 cycles, windows of 4: labels 16 to 0, whose spread is that of 17 numbers.
    assert verdict.figures["rmse_mean"] == pytest.approx(np.std(np.arange(17)), abs=1e-3)
    assert verdict.figures["machines"] == 24
    assert verdict.figures["windows"] == 24 * 17
    champion = pointers.champion(federation.plant)
    assert champion is not None
    assert (champion.release, champion.previous) == ("r-1", None)


def test_a_first_release_that_does_not_beat_the_mean_is_refused(federation: Federation) -> None:
    verdict = federation.try_out(federation.make("r-1", 0.3))
    assert (verdict.state, verdict.code) == ("refused", "baseline")
    assert pointers.champion(federation.plant) is None


def test_a_better_challenger_takes_over(federation: Federation, served: Champion) -> None:
    verdict = federation.try_out(federation.make("r-1", 0.05))
    assert verdict.state == "active"
    assert verdict.figures["rmse_champion"] == pytest.approx(4.0, abs=1e-3)
    assert "error on the hold-out 1.00 cycles; the champion's 4.00" in verdict.sentence
    champion = pointers.champion(federation.plant)
    assert champion is not None
    assert (champion.release, champion.previous) == ("r-1", "r-0")
    assert (federation.plant.releases / "r-0" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("shift", "margin", "state"),
    [(0.2, 0.0, "active"), (0.208, 0.05, "active"), (0.212, 0.05, "refused"), (0.208, 0.0, "refused")],
    ids=["equal", "within the margin", "past the margin", "no margin"],
)
def test_the_margin_decides(
    federation: Federation, served: Champion, shift: float, margin: float, state: str
) -> None:
    settle(federation.plant, release__margin=margin)
    verdict = federation.try_out(federation.make("r-1", shift))
    assert verdict.state == state
    assert verdict.code == ("" if state == "active" else "worse")
    champion = pointers.champion(federation.plant)
    assert champion is not None
    assert champion.release == ("r-1" if state == "active" else "r-0")


def test_figures_stay_beside_the_release_for_its_owner_only(federation: Federation, served: Champion) -> None:
    verdict = federation.try_out(federation.make("r-1", 0.5))
    path = federation.plant.releases / "r-1.verdict.json"
    assert json.loads(path.read_text())["figures"]["rmse"] == pytest.approx(10.0, abs=1e-3)
    assert path.stat().st_mode & 0o077 == 0
    assert verdicts.verdict_of(federation.plant, "r-1") == verdict
    again = deployment.try_release(federation.plant, federation.plant.releases / "r-1")
    assert again == verdict


def test_trying_the_champion_again_changes_nothing(federation: Federation, served: Champion) -> None:
    verdict = deployment.try_release(federation.plant, federation.plant.releases / "r-0")
    assert verdict.state == "active"
    assert pointers.champion(federation.plant) == served


def test_a_release_that_cuts_windows_otherwise_is_still_compared(
    federation: Federation, served: Champion
) -> None:
    longer = replace(TASK, window=Window(6))
    verdict = federation.try_out(federation.make("r-1", 0.1, longer))
    assert verdict.state == "active"
    assert verdict.figures["windows"] == 24


def test_a_release_for_another_task_than_the_champions_is_refused(
    federation: Federation, served: Champion
) -> None:
    settle(federation.plant, tasks=["wear", "heat"])
    verdict = federation.try_out(federation.make("r-1", 0.0, replace(TASK, name="heat")))
    assert (verdict.state, verdict.code) == ("refused", "other_task")
    assert pointers.champion(federation.plant) == served


def test_predictions_beyond_reason_are_refused(federation: Federation) -> None:
    verdict = federation.try_out(federation.make("r-1", 2.5))
    assert (verdict.state, verdict.code) == ("refused", "implausible")
    assert "408 of 408 predictions" in verdict.sentence


def test_without_data_nothing_is_activated(federation: Federation) -> None:
    shutil.rmtree(federation.plant.data)
    Repository.create(federation.plant.data, federation.plant.remote)
    verdict = federation.try_out(federation.make("r-1"))
    assert (verdict.state, verdict.code) == ("refused", "no_snapshot")
    Repository(federation.plant.data).snapshot(
        Dataset(readings(range(1, 3)), readings(range(1, 3)).iloc[:0], simulated=True)
    )
    verdict = deployment.try_release(federation.plant, federation.plant.releases / "r-1")
    assert (verdict.state, verdict.code) == ("refused", "no_holdout")
    assert pointers.champion(federation.plant) is None


# --- what is wrong with a release whatever the data ------------------------------------------------


def spoil_weights(folder: Path, **values: np.ndarray) -> None:
    weights = {**export.read_weights(folder / "weights.safetensors"), **values}
    (folder / "weights.safetensors").write_bytes(save(weights))


def nan_model(folder: Path) -> None:
    """Weights and ONNX agree, and both give NaN."""
    model = models.build(TASK)
    models.set_parameters(model, {"stretch": np.ones(1, np.float32), "shift": np.full(1, np.nan, np.float32)})
    export.export_onnx(model, TASK, folder / "model.onnx")
    spoil_weights(folder, shift=np.full(1, np.nan, np.float32))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (nan_model, "not_finite"),
        (lambda f: spoil_weights(f, shift=np.full(1, 0.01, np.float32)), "parity"),
        (lambda f: (f / "model.onnx").write_bytes(b"no model"), "onnx"),
        (lambda f: spoil_weights(f, stray=np.ones(1, np.float32)), "model"),
        (lambda f: spoil_weights(f, shift=np.ones(2, np.float32)), "model"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"\x80\x04pickle"), "model"),
    ],
    ids=["nan", "other weights", "no onnx", "stray name", "shape", "pickle"],
)
def test_a_signed_but_broken_model_is_refused(
    federation: Federation, served: Champion, spoil: Callable[[Path], None], code: str
) -> None:
    folder = federation.make("r-1")
    spoil(folder)
    federation.sign_again(folder)
    verdict = federation.try_out(folder)
    assert (verdict.state, verdict.code) == ("refused", code)
    assert pointers.champion(federation.plant) == served
    assert verdicts.report_for_coordinator(federation.plant.load().policy, verdict) == ("refused", code)


def test_a_model_that_is_not_installed_here_is_refused(federation: Federation, monkeypatch) -> None:
    folder = federation.make("r-1", 0.0, replace(TASK, model=Model("line_models.Other")))
    settle(federation.plant, models=["line_models.Other"])
    monkeypatch.delattr(sys.modules["line_models"], "Other")
    verdict = federation.try_out(folder)
    assert (verdict.state, verdict.code) == ("refused", "model_missing")


@pytest.mark.parametrize("name", [*FILES, "manifest.json", "manifest.sig"])
def test_every_file_is_guarded(federation: Federation, served: Champion, name: str) -> None:
    folder = federation.make("r-1")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    named = "manifest" if name.startswith("manifest") else name
    with pytest.raises(ReleaseRefused, match=named) as caught:
        federation.deliver(folder)
    assert caught.value.code == ("signature" if name.startswith("manifest") else "tampered")
    assert not (federation.plant.releases / "r-1").exists()
    assert not list((federation.plant.releases / ".incoming").iterdir())
    assert pointers.champion(federation.plant) == served
    verdict = verdicts.verdict_of(federation.plant, "r-1")
    assert verdict is not None
    assert (verdict.state, verdict.code) == ("refused", caught.value.code)


def test_a_flipped_byte_anywhere_is_seen(federation: Federation, served: Champion) -> None:
    """Every file, at 40 places in each: the manifest's digests and its signature leave no byte out."""
    folder = federation.make("r-1")
    key, policy = federation.plant.release_public_key, federation.plant.load().policy
    receiving.verify_release(folder, key, policy)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in {round(step * (len(whole) - 1) / 39) for step in range(40)}:
            content = bytearray(whole)
            content[place] ^= 1 << (place % 8)
            path.write_bytes(content)
            with pytest.raises(ReleaseRefused) as caught:
                receiving.verify_release(folder, key, policy)
            assert caught.value.code in ("signature", "tampered"), (path.name, place)
        path.write_bytes(whole)
    receiving.verify_release(folder, key, policy)


def test_tampering_after_delivery_is_seen_at_the_gate_and_at_activation(
    federation: Federation, served: Champion
) -> None:
    settle(federation.plant, release__approval="person")
    folder = federation.deliver(federation.make("r-1", 0.1))
    assert deployment.try_release(federation.plant, folder).state == "waiting"
    (folder / "extra.py").write_text("import os")
    with pytest.raises(ReleaseRefused, match=r"extra\.py"):
        deployment.approve(federation.plant, "r-1")
    assert pointers.champion(federation.plant) == served
    verdict = deployment.try_release(federation.plant, folder)
    assert (verdict.state, verdict.code) == ("refused", "tampered")


def test_another_key_is_refused(federation: Federation) -> None:
    folder = federation.make("r-1")
    pem = signing.public_pem(signing.make_key().public_key())
    federation.plant.release_public_key.write_bytes(pem)
    with pytest.raises(ReleaseRefused) as caught:
        federation.deliver(folder)
    assert caught.value.code == "signature"


def test_the_policy_names_tasks_models_and_privacy(federation: Federation) -> None:
    good, open_ = federation.make("r-1"), federation.make("r-2", private=False)
    plant = federation.plant

    def code(folder: Path) -> str:
        try:
            receiving.verify_release(folder, plant.release_public_key, plant.load().policy)
        except ReleaseRefused as error:
            return error.code
        return ""

    assert (code(good), code(open_)) == ("", "policy_privacy")
    settle(plant, privacy__allow_none=True)
    assert code(open_) == ""
    settle(plant, models=["cnn1d"])
    assert code(good) == "policy_model"
    settle(plant, tasks=[])
    assert code(good) == "policy_task"


# --- what leaves the plant -------------------------------------------------------------------------


def test_nothing_hides_every_verdict_that_depends_on_data(federation: Federation) -> None:
    settle(federation.plant, release__report="nothing")
    policy = federation.plant.load().policy
    made = [Verdict("active", "", "fine"), Verdict("waiting", "", "waits")]
    made += [
        Verdict("refused", code, "no", {"rmse": 3.0})
        for code in ("worse", "baseline", "implausible", "no_holdout", "other_task", "contract")
    ]
    said = {verdicts.report_for_coordinator(policy, verdict) for verdict in made}
    assert said == {("received", "")}


def test_nothing_still_names_what_is_wrong_with_the_release_itself(federation: Federation) -> None:
    policy = federation.plant.load().policy
    for code in ("signature", "tampered", "policy_privacy", "parity"):
        verdict = Verdict("refused", code, "long sentence")
        assert verdicts.report_for_coordinator(policy, verdict) == ("refused", code)


def test_verdict_reports_the_plain_state_and_no_figure(federation: Federation) -> None:
    settle(federation.plant, release__report="verdict")
    policy = federation.plant.load().policy
    verdict = Verdict("refused", "worse", "error 9.1", {"rmse": 9.1})
    assert verdicts.report_for_coordinator(policy, verdict) == ("refused", "worse")
    assert verdicts.report_for_coordinator(policy, Verdict("active", "", "")) == ("active", "")


# --- a person --------------------------------------------------------------------------------------


def test_a_person_may_have_the_last_word(federation: Federation, served: Champion) -> None:
    settle(federation.plant, release__approval="person")
    verdict = federation.try_out(federation.make("r-1", 0.1))
    assert verdict.state == "waiting"
    assert pointers.champion(federation.plant) == served
    assert deployment.approve(federation.plant, "r-1").state == "active"
    champion = pointers.champion(federation.plant)
    assert champion is not None
    assert (champion.release, champion.previous) == ("r-1", "r-0")
    with pytest.raises(UsageError, match="expected one that waits for approval; it is active"):
        deployment.approve(federation.plant, "r-1")


def test_a_refused_release_cannot_be_approved(federation: Federation, served: Champion) -> None:
    federation.try_out(federation.make("r-1", 0.5))
    with pytest.raises(UsageError, match="it is refused"):
        deployment.approve(federation.plant, "r-1")
    with pytest.raises(UsageError, match="it is not tried here"):
        deployment.approve(federation.plant, "r-9")
    assert pointers.champion(federation.plant) == served


def test_what_waits_under_a_key_that_is_revoked_is_refused_when_a_person_approves_it(
    federation: Federation, served: Champion
) -> None:
    settle(federation.plant, release__approval="person", release__report="nothing")
    federation.try_out(federation.make("r-1", 0.1))
    pointers.challenge(federation.plant, "r-1", pointers.SHADOW)
    federation.try_out(federation.make("r-2", 0.05))
    federation.revoke_key()
    with pytest.raises(ReleaseRefused) as caught:
        deployment.approve(federation.plant, "r-2")
    verdict = verdicts.verdict_of(federation.plant, "r-2")
    assert verdict is not None
    assert (caught.value.code, verdict.state, verdict.code) == ("revoked_key", "refused", "revoked_key")
    with pytest.raises(UsageError, match="it is refused"):
        deployment.approve(federation.plant, "r-2")
    assert pointers.champion(federation.plant) == served
    assert pointers.challenger(federation.plant) is not None, "it gave way to nothing"
    policy = federation.plant.load().policy
    told = verdicts.report_for_coordinator(policy, verdict)
    assert told == ("received", ""), "only what has passed the gate waits: the word would tell of readings"


# --- crashes ---------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from interplant.client import deployment
from interplant.client.directory import PlantDirectory
from interplant.core import files

replace = os.replace
def dying(source, target):
    if Path(target).name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = dying
plant = PlantDirectory(Path(sys.argv[1]))
deployment.try_release(plant, plant.releases / "r-1")
"""


@pytest.mark.parametrize(
    ("at", "champion"), [("champion.json", "r-0"), ("r-1.verdict.json", "r-1")], ids=["before", "after"]
)
def test_a_kill_around_the_swap_leaves_the_old_model_or_the_new(
    federation: Federation, served: Champion, tmp_path: Path, at: str, champion: str
) -> None:
    plant = federation.plant
    folder = federation.deliver(federation.make("r-1", 0.1))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(plant.path), at], env=environment, check=False)
    assert killed.returncode == -9
    now = pointers.champion(plant)
    assert now is not None
    assert now.release == champion
    assert verdicts.untried(plant) == ["r-1"]
    assert deployment.try_release(plant, folder).state == "active"
    now = pointers.champion(plant)
    assert now is not None
    assert (now.release, now.previous) == ("r-1", "r-0")
    assert verdicts.untried(plant) == []


# --- fetching --------------------------------------------------------------------------------------


def test_half_a_release_is_never_in_its_place(federation: Federation) -> None:
    plant, folder = federation.plant, federation.make("r-1")
    part = receiving.incoming(plant, "r-1")
    shutil.copy(folder / "manifest.json", part)
    assert receiving.incoming(plant, "r-1") == part
    assert (part / "manifest.json").exists()
    assert not (plant.releases / "r-1").exists()
    assert verdicts.untried(plant) == []
    receiving.discard_leftovers(plant)
    assert not part.exists()
    with pytest.raises(ReleaseRefused):
        receiving.accept(plant, "r-1")
    assert federation.deliver(folder) == plant.releases / "r-1"
    assert not part.exists()


def test_a_release_that_is_here_already_stays(federation: Federation) -> None:
    folder = federation.make("r-1")
    first = federation.deliver(folder)
    before = (first / "model.onnx").stat().st_mtime_ns
    assert federation.deliver(folder) == first
    assert (first / "model.onnx").stat().st_mtime_ns == before


def test_an_older_release_under_a_new_name_is_refused(federation: Federation) -> None:
    folder = federation.make("r-1")
    shutil.copytree(folder, receiving.incoming(federation.plant, "r-7"), dirs_exist_ok=True)
    with pytest.raises(ReleaseRefused, match="expected release 'r-7', found 'r-1'"):
        receiving.accept(federation.plant, "r-7")


def test_the_agent_stays_light() -> None:
    heavy = ["torch", "onnx", "onnxruntime", "safetensors", "pandas", "dvc", "flwr"]
    code = f"import sys, interplant.client.deployment; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_good_copy_after_a_bad_one_is_tried(federation: Federation) -> None:
    folder = federation.make("r-1", 0.1)
    shutil.copytree(folder, receiving.incoming(federation.plant, "r-1"), dirs_exist_ok=True)
    (receiving.incoming(federation.plant, "r-1") / "card.md").write_text("other")
    with pytest.raises(ReleaseRefused, match=r"card\.md"):
        receiving.accept(federation.plant, "r-1")
    federation.deliver(folder)
    assert verdicts.untried(federation.plant) == ["r-1"]


def test_a_fault_in_a_trial_is_a_verdict_and_the_champion_stays(
    plant: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interplant.client import worker

    def fail(directory: PlantDirectory, folder: Path) -> None:
        raise RuntimeError("the disk ate row 7")

    monkeypatch.setattr(deployment, "try_release", fail)
    answer = worker._answer(plant, None, {"kind": "try", "release": "r-1"})
    assert answer["refusal"] == "internal"
    verdict = verdicts.verdict_of(plant, "r-1")
    assert verdict is not None
    assert (verdict.state, verdict.code) == ("refused", "internal")
    assert "row 7" in verdict.sentence
    assert pointers.champion(plant) is None
    assert verdicts.report_for_coordinator(plant.load().policy, verdict)[1] in ("", "internal")


@pytest.mark.parametrize(("told", "state"), [("declared", "refused"), ("billed", "active")])
def test_a_verdict_does_not_tell_for_nothing_what_the_plant_bills(
    plant: PlantDirectory, federation: Federation, told: str, state: str
) -> None:
    """One reading that is not finite breaks the contract: exactly so where that is declared public."""
    settle(plant, privacy__data_refusals=told)
    spoiled = readings(range(1, 7))
    spoiled.loc[5, "health"] = np.nan
    Repository(plant.data).snapshot(Dataset(spoiled, readings(range(11, 35)), simulated=True))
    verdict = federation.try_out(federation.make("r-1"))
    assert (verdict.state, verdict.code) == (state, "contract" if told == "declared" else "")
