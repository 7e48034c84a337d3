"""A run's end becomes one signed folder, or nothing."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from interplant.core import export, models, signing
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.release import FILES, Lineage, Participant, read_release, task_digest
from interplant.core.schema import Model, Task, Window
from interplant.core.targets import Target
from interplant.server import card as cards
from interplant.server import packaging
from interplant.server.packaging import PackageOrder

MINE = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, channels, window, width=4):
        super().__init__()
        self.memory = nn.GRU(channels, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, windows):
        return self.head(self.memory(windows.transpose(1, 2))[0][:, -1]).squeeze(-1)
"""


def order_in(folder: Path, model: Model | None = None) -> PackageOrder:
    task = Task(
        name="wear",
        contract=Contract(sensors={"s1": Column("bar", 0.0, 4.0), "s2": Column("K", 200.0, 300.0)}),
        window=Window(8),
        model=model or Model(args={"width": 4, "hidden": 4}),
    )
    folder.mkdir(exist_ok=True)
    key = signing.make_key()
    (folder / "release.key").write_bytes(signing.key_pem(key))
    (folder / "release.pub").write_bytes(signing.public_pem(key.public_key()))
    weights = models.parameters(models.build(task))
    save_file({name: array + 0.125 for name, array in weights.items()}, folder / "merged.safetensors")
    plants = (
        Participant("north", {"ab" * 32: 3}, 3, "dp-sgd", "window", 0.7312, 1e-5, True),
        Participant("south", {"cd" * 32: 2}, 2, "dp-sgd", "window", 0.5, 1e-5, True),
    )
    lineage = Lineage(
        "r-1", "run-1", "wear", task_digest(task), "0.1.0", "1", None, "2025-05-01T10:00:00+00:00",
        3, "grpc", True, True, plants,
    )  # fmt: skip
    return PackageOrder(folder / "merged.safetensors", task, lineage, folder / "release.key")


def card_of(order: PackageOrder) -> str:
    return cards.markdown(cards.CardFacts(order.task, order.lineage, order.figures, order.rounds))


@pytest.fixture
def order(tmp_path: Path) -> PackageOrder:
    return order_in(tmp_path / "in")


def test_a_release_holds_everything_and_verifies(order: PackageOrder, tmp_path: Path) -> None:
    folder = tmp_path / "releases" / "r-1"
    made = packaging.package(order, folder)
    assert {path.name for path in folder.iterdir()} == {*FILES, "card.html", "manifest.json", "manifest.sig"}
    assert made == read_release(folder, signing.read_public(tmp_path / "in" / "release.pub"))
    assert (made.lineage, made.task) == (order.lineage, order.task)
    assert [path.name for path in folder.parent.iterdir()] == ["r-1"]


def test_onnx_and_weights_are_the_merged_model(order: PackageOrder, tmp_path: Path) -> None:
    folder = tmp_path / "r-1"
    packaging.package(order, folder)
    merged = export.read_weights(order.weights)
    released = export.read_weights(folder / "weights.safetensors")
    assert set(merged) == set(released)
    for name, array in merged.items():
        np.testing.assert_array_equal(released[name], array)
    model = models.build(order.task)
    fresh = export.predict(model, np.ones((1, 2, 8), np.float32))
    models.set_parameters(model, released)
    expected = export.predict(model, np.ones((1, 2, 8), np.float32))
    assert abs(expected - fresh) > 0.01
    found = export.predict_onnx(folder / "model.onnx", np.ones((1, 2, 8), np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_card_says_who_what_and_how_private(order: PackageOrder, tmp_path: Path) -> None:
    packaging.package(order, tmp_path / "r-1")
    card = (tmp_path / "r-1" / "card.md").read_text()
    assert card.startswith("# Release r-1\n")
    assert "**Simulated data.**" in card
    assert "Not private" not in card
    assert "| s1 | bar | 0 | 4 |" in card
    assert "| north | `abababababab` | 3 | window | 0.731 | 1e-05 | simulated |" in card
    assert "ab" * 32 not in card
    assert "No plant's error is given here" in card


def test_the_card_marks_what_is_not_private(order: PackageOrder) -> None:
    north, south = order.lineage.participants
    south = replace(south, mechanism="none", epsilon=0.0, delta=0.0, simulated=False)
    lineage = replace(order.lineage, private=False, participants=(north, south))
    card = card_of(replace(order, lineage=lineage))
    assert "**Not private.**" in card
    assert "| south | `cdcdcdcdcdcd` | 2 | - | not private | - | own |" in card


def test_the_card_gives_errors_only_when_given(order: PackageOrder) -> None:
    card = card_of(replace(order, figures={"RMSE on FD001": 14.25}))
    assert "- RMSE on FD001: 14.25 cycles" in card
    assert "No plant's error" not in card


def test_packaging_again_changes_nothing(order: PackageOrder, tmp_path: Path) -> None:
    first = packaging.package(order, tmp_path / "r-1")
    later = replace(order, lineage=replace(order.lineage, created="2026-01-01T00:00:00+00:00"))
    assert packaging.package(later, tmp_path / "r-1") == first
    other = replace(order, lineage=replace(order.lineage, run="run-2"))
    with pytest.raises(InterplantError, match="expected no release here, found one of run 'run-1'"):
        packaging.package(other, tmp_path / "r-1")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda w: w["net.0.bias"].fill(np.nan), "'net.0.bias' holds values that are not finite"),
        (lambda w: w["net.0.bias"].fill(np.inf), "not finite"),
        (lambda w: w.pop("net.0.bias"), "'net.0.bias' is missing"),
        (lambda w: w.update({"_module.net.0.bias": w.pop("net.0.bias")}), "unknown to the model"),
    ],
    ids=["nan", "inf", "missing", "wrapped"],
)
def test_bad_weights_leave_nothing_behind(order: PackageOrder, tmp_path: Path, spoil, says: str) -> None:
    weights = {name: array.copy() for name, array in export.read_weights(order.weights).items()}
    spoil(weights)
    save_file(weights, order.weights)
    with pytest.raises(InterplantError, match=says):
        packaging.package(order, tmp_path / "releases" / "r-1")
    assert list((tmp_path / "releases").iterdir()) == []


def test_an_order_that_contradicts_itself_is_refused(order: PackageOrder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected the folder of release 'r-1'"):
        packaging.package(order, tmp_path / "r-2")
    with pytest.raises(UsageError, match="another task"):
        packaging.package(replace(order, task=replace(order.task, seed=7)), tmp_path / "r-1")


def test_a_killed_packaging_leaves_no_release_and_the_next_cleans_up(
    order: PackageOrder, tmp_path: Path
) -> None:
    folder = tmp_path / "releases" / "r-1"
    (tmp_path / "order.json").write_text(order.to_json(folder))
    code = (
        "import os, signal, sys\n"
        "from interplant.core import signing\n"
        "from interplant.server import packaging\n"
        "signing.sign_folder = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "packaging.main([sys.argv[1]])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "order.json")], check=False)
    assert killed.returncode == -9
    (left,) = folder.parent.iterdir()
    assert left.name.startswith(".r-1.")
    packaging.package(order, folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_users_own_model_is_packaged_in_a_child(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "plant_models.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    order = order_in(tmp_path / "in", Model("plant_models.Mine", {"width": 6}))
    packaging.package_in_child(order, tmp_path / "r-1")
    made = read_release(tmp_path / "r-1", signing.read_public(tmp_path / "in" / "release.pub"))
    assert made.lineage == order.lineage
    assert export.predict_onnx(tmp_path / "r-1" / "model.onnx", np.zeros((5, 2, 8), np.float32)).shape == (5,)


def test_a_childs_failure_is_one_sentence(order: PackageOrder, tmp_path: Path) -> None:
    order.weights.write_bytes(b"nothing")
    with pytest.raises(InterplantError, match=r"release r-1 was not packaged: .*expected tensors as safet"):
        packaging.package_in_child(order, tmp_path / "r-1")
    assert not (tmp_path / "r-1").exists()
    with pytest.raises(InterplantError, match=r"took more than 0\.01 s"):
        packaging.package_in_child(order, tmp_path / "r-1", seconds=0.01)


def test_a_packager_that_was_begun_ahead_takes_one_order(order: PackageOrder, tmp_path: Path) -> None:
    packager = packaging.Packager()
    packager.begin()
    assert packager._child is not None
    waiting = packager._child
    packager.package(order, tmp_path / "r-1")
    assert waiting.returncode == 0
    assert read_release(tmp_path / "r-1", signing.read_public(tmp_path / "in" / "release.pub"))


def test_a_packager_that_is_killed_or_not_needed_is_no_loss(order: PackageOrder, tmp_path: Path) -> None:
    packager = packaging.Packager()
    packager.begin()
    assert packager._child is not None
    packager._child.kill()
    packager._child.wait()
    packager.package(order, tmp_path / "r-1")
    assert (tmp_path / "r-1").is_dir()
    packager.begin()
    left = packager._child
    packager.end()
    assert left is not None
    assert left.returncode == -9


def test_a_packager_without_an_order_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert packaging.main(["-"]) == 0


def test_wrong_words_exit_with_2(order: PackageOrder, tmp_path: Path, capsys) -> None:
    good = order.to_json(tmp_path / "r-1")
    for wrong in ("{", "[]", "{}", good.replace('"wear"', '"wear!"'), good.replace('"engine"', '"motor"')):
        (tmp_path / "order.json").write_text(wrong)
        assert packaging.main([str(tmp_path / "order.json")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert packaging.main([]) == 2
    assert "expected one word" in capsys.readouterr().err
    assert packaging.main([str(tmp_path / "absent.json")]) == 2
    assert not (tmp_path / "r-1").exists()


def test_the_signing_key_is_not_in_the_order(order: PackageOrder, tmp_path: Path) -> None:
    content = order.to_json(tmp_path / "r-1")
    assert json.loads(content)["key"] == str(order.key)
    assert "PRIVATE KEY" not in content


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            Target(kind="value", low=20.0, high=120.0),
            ["its value at the last reading, declared to be 20 to 120", "0 is 20 and 1 is 120"],
        ),
        (
            Target(kind="event", horizon=8.0),
            ["whether it is 1 at the last reading or within 8 after it", "float32 (batch,), in log-odds"],
        ),
        (
            Target(kind="class", classes=[3, 20]),
            ["which of 3, 20 it is at the last reading", "float32 (batch, 2)", "largest is predicted"],
        ),
    ],
)
def test_the_card_says_what_each_kind_predicts(order: PackageOrder, target: Target, said: list[str]) -> None:
    task = replace(order.task, target=target, window=Window(8, 1, ["mean", "std"]))
    card = card_of(replace(order, task=task, figures={"macro F1, plant north": 0.9}))
    assert all(part in card for part in [*said, "float32 (batch, 4, 1), the features mean, std of each"])
    assert "cycles" not in card
