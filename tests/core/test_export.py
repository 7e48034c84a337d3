"""ONNX predicts what torch predicts, in any batch size, or the export says no."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from interplant.core import export, models
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError
from interplant.core.schema import Model, Task, Window
from interplant.core.targets import Target

CHANNELS, LENGTH = 3, 12


def task_of(name: str = "cnn1d") -> Task:
    columns = {f"s{i}": Column("unit", -1.0, 1.0) for i in range(CHANNELS)}
    return Task(
        name="small", contract=Contract(sensors=columns), window=Window(LENGTH), model=Model(name=name)
    )


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.memory = kind(CHANNELS, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, windows: Tensor) -> Tensor:
        out: Tensor = self.memory(windows.transpose(1, 2))[0]
        head: Tensor = self.head(out[:, -1])
        return head.squeeze(-1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(CHANNELS, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, windows: Tensor) -> Tensor:
        tokens = self.into(windows.transpose(1, 2))
        mixed: Tensor = self.attention(tokens, tokens, tokens)[0]
        head: Tensor = self.head(mixed.mean(1))
        return head


class Branching(nn.Module):
    """A tracing exporter keeps only the branch that zeros take."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(CHANNELS * LENGTH, 1)

    def forward(self, windows: Tensor) -> Tensor:
        out: Tensor = self.head(windows.flatten(1))
        return out if windows.abs().max() < 2.0 else out + 1.0


class Noisy(nn.Module):
    """Drops half of its input while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(CHANNELS * LENGTH, 1))

    def forward(self, windows: Tensor) -> Tensor:
        out: Tensor = self.net(windows)
        return out


class TwoAnswers(nn.Module):
    def forward(self, windows: Tensor) -> Tensor:
        return windows[:, :2, 0]


def windows(n: int, seed: int = 1) -> export.Floats:
    return np.random.default_rng(seed).normal(size=(n, CHANNELS, LENGTH)).astype(np.float32)


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.build(task_of()),
        lambda: Recurrent(nn.GRU),
        lambda: Recurrent(nn.LSTM),
        Attention,
    ],
    ids=["cnn1d", "gru", "lstm", "attention"],
)
def test_onnx_predicts_what_torch_predicts(make, tmp_path: Path) -> None:
    model, path = make(), tmp_path / "model.onnx"
    assert export.export_onnx(model, task_of(), path) <= export.TOLERANCE
    for n in (1, 2, 5, 300):
        expected, found = export.predict(model, windows(n)), export.predict_onnx(path, windows(n))
        assert found.shape == (n,)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(export.predict_onnx(path, windows(5))) > 1e-4


def test_the_file_says_what_goes_in_and_out(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export.export_onnx(models.build(task_of()), task_of(), path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    (given,), (taken,) = proto.graph.input, proto.graph.output
    dims = given.type.tensor_type.shape.dim
    assert (given.name, taken.name) == ("windows", "prediction")
    assert dims[0].dim_param == "batch"
    assert [dim.dim_value for dim in dims[1:]] == [CHANNELS, LENGTH]
    assert proto.opset_import[0].version >= 17


def test_a_branch_that_tracing_loses_is_a_mismatch(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(InterplantError, match=r"ONNX and torch differ by .* more than 0\.0001"):
        export.export_onnx(Branching(), task_of(), path)
    assert not path.exists()


def test_a_model_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    class Inverse(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            return torch.linalg.matrix_exp(windows[:, :, :CHANNELS]).sum((1, 2))

    with pytest.raises(InterplantError, match=r"model mine\.Inverse cannot be exported to ONNX"):
        export.export_onnx(Inverse(), task_of("mine.Inverse"), tmp_path / "model.onnx")


def parity(model: nn.Module, path: Path, task: Task) -> float:
    """Of a model and what its file gives."""
    found = [export.predict_onnx(path, x, outputs=task.target.outputs) for x in export.probes(task)]
    return export.parity(model, found, task)


def test_parity_notices_other_weights(tmp_path: Path) -> None:
    model, path = models.build(task_of()), tmp_path / "model.onnx"
    export.export_onnx(model, task_of(), path)
    assert parity(model, path, task_of()) <= export.TOLERANCE
    with torch.no_grad():
        next(model.parameters())[0] += 0.01
    with pytest.raises(InterplantError, match="differ"):
        parity(model, path, task_of())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_sided_nan_or_infinity_is_a_mismatch(tmp_path: Path, value: float) -> None:
    model, path = models.build(task_of()), tmp_path / "model.onnx"
    export.export_onnx(model, task_of(), path)
    with torch.no_grad():
        list(model.parameters())[-1][:] = value
    with pytest.raises(InterplantError, match="differ"):
        parity(model, path, task_of())
    export.export_onnx(model, task_of(), path)
    assert parity(model, path, task_of()) == 0.0


def test_dropout_is_off_in_predictions_and_the_mode_is_kept(tmp_path: Path) -> None:
    model, path = Noisy().train(), tmp_path / "model.onnx"
    export.export_onnx(model, task_of(), path)
    assert model.training
    first, again = export.predict(model, windows(4)), export.predict(model, windows(4))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(export.predict_onnx(path, windows(4)), first, atol=1e-4)
    assert model.training


def test_predicting_in_pieces_changes_nothing(tmp_path: Path) -> None:
    model, path = models.build(task_of()), tmp_path / "model.onnx"
    export.export_onnx(model, task_of(), path)
    whole = export.predict(model, windows(10))
    np.testing.assert_allclose(export.predict(model, windows(10), batch=3), whole, atol=1e-6)
    np.testing.assert_allclose(export.predict_onnx(path, windows(10), batch=3), whole, atol=1e-5)
    assert export.predict(model, windows(0)).shape == (0,)
    assert export.predict_onnx(path, windows(0)).shape == (0,)


def test_a_model_answers_once_for_each_window() -> None:
    with pytest.raises(InterplantError, match=r"one prediction for each of 4 windows, found shape \(4, 2\)"):
        export.predict(TwoAnswers(), windows(4))


def test_onnx_that_is_not_a_model_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InterplantError, match="cannot be loaded"):
        export.predict_onnx(path, windows(2))
    export.export_onnx(models.build(task_of()), task_of(), path)
    with pytest.raises(InterplantError, match="does not take these windows"):
        export.predict_onnx(path, windows(2)[:, :, :5])
    proto = onnx.load(path)
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "other"
    with pytest.raises(InterplantError, match=r"expected windows and prediction, found .*other"):
        export.predict_onnx(proto.SerializeToString(), windows(2))


def test_onnx_weights_outside_the_file_are_not_read(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.onnx"
    export.export_onnx(models.build(task_of()), task_of(), path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="aside.bin", size_threshold=0)
    assert (tmp_path / "aside.bin").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InterplantError, match="cannot be loaded"):
        export.predict_onnx(path, windows(2))


def test_weights_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\x80\x04pickle")
    for path in (tmp_path / "w", tmp_path / "absent"):
        with pytest.raises(InterplantError, match="expected tensors as safetensors"):
            export.read_weights(path)


def test_light_processes_do_not_import_torch() -> None:
    heavy = ["torch", "onnx", "onnxruntime", "safetensors", "pandas"]
    code = f"import sys, interplant.core.export; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["cnn1d", "mlp"])
@pytest.mark.parametrize("features", [[], ["mean", "band1", "band2"]])
def test_classes_come_out_side_by_side(tmp_path: Path, name: str, features: list[str]) -> None:
    target = Target(kind="class", classes=["low", "mid", "high"])
    task = replace(task_of(name), target=target, window=Window(LENGTH, 1, features))
    model, path = models.build(task), tmp_path / "m.onnx"
    assert export.export_onnx(model, task, path) <= export.TOLERANCE
    for count in (0, 1, 5):
        x = np.random.default_rng(count).standard_normal((count, *task.shape)).astype(np.float32)
        expected, found = export.predict(model, x, outputs=3), export.predict_onnx(path, x, outputs=3)
        assert found.shape == expected.shape == (count, 3)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(InterplantError, match=r"expected one prediction for each of 5 windows, found shape"):
        export.predict(model, x)
    assert parity(model, path, task) <= export.TOLERANCE


def test_one_output_stays_a_list_of_numbers(tmp_path: Path) -> None:
    task = replace(task_of("mlp"), target=Target(kind="event"))
    model = models.build(task)
    export.export_onnx(model, task, tmp_path / "m.onnx")
    x = np.zeros((3, *task.shape), np.float32)
    assert export.predict_onnx(tmp_path / "m.onnx", x).shape == (3,)
    with pytest.raises(InterplantError, match="expected 2 predictions for each of 3 windows"):
        export.predict_onnx(tmp_path / "m.onnx", x, outputs=2)
