"""A model that is not trusted: it is run as in serving, or stopped, and nothing of it stays."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from interplant.client import bounded
from interplant.client.bounded import RunawayError, run
from interplant.core.errors import InterplantError
from interplant.core.export import predict_onnx

WINDOWS = [np.random.default_rng(n).normal(size=(n, 2, 4)).astype(np.float32) for n in (1, 5, 1500)]


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    inputs: tuple[str, ...] = ("windows",),
    outputs: tuple[str, ...] = ("prediction",),
) -> Path:
    """Write a model of windows (batch, 2, 4)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "channels", "length"])
            for name in inputs
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def mean(path: Path, **words: tuple[str, ...]) -> Path:
    """The mean of a window."""
    axes = {"axes": np.array([1, 2])}
    return write(
        path, [helper.make_node("ReduceMean", ["windows", "axes"], ["prediction"], keepdims=0)], axes, **words
    )


def looping(path: Path, times: int) -> Path:
    """The mean of a window, after so many turns of a loop."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes"]),
            helper.make_node("Sin", ["value"], ["changed"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("changed", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["windows", "axes"], ["start"], keepdims=0),
        helper.make_node("Loop", ["times", "yes", "start"], ["prediction"], body=body),
    ]
    constants = {"axes": np.array([1, 2]), "times": np.array(times), "yes": np.array(True)}
    return write(path, nodes, constants)


def hungry(path: Path, floats: int) -> Path:
    """The mean of a window, and memory."""
    nodes = [
        helper.make_node("ReduceMean", ["windows", "axes"], ["start"], keepdims=0),
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["start", "nothing"], ["prediction"]),
    ]
    return write(path, nodes, {"axes": np.array([1, 2]), "shape": np.array([floats])})


def test_predictions_are_those_of_the_plants_own_runtime(tmp_path: Path) -> None:
    model = mean(tmp_path / "m.onnx")
    ran = run(model, WINDOWS, 1, 50.0)
    for found, x in zip(ran.predictions, WINDOWS, strict=True):
        np.testing.assert_array_equal(found, predict_onnx(model, x))
    assert 0.0 < ran.milliseconds < 50.0


def test_a_loop_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "LOAD_SECONDS", 1.0)
    with pytest.raises(RunawayError, match="stopped"):
        run(looping(tmp_path / "m.onnx", 1 << 60), WINDOWS[:1], 1, 0.01)


def test_a_loop_by_the_clock_is_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "PATIENCE", 0.2)
    with pytest.raises(RunawayError, match="stopped after 2 s"):
        run(looping(tmp_path / "m.onnx", 1 << 60), WINDOWS[:1], 1, 0.01)


def test_a_slow_model_is_measured_by_the_processors_time(tmp_path: Path) -> None:
    quick, slow = (
        run(looping(tmp_path / f"{times}.onnx", times), WINDOWS[:1], 1, 1000.0).milliseconds
        for times in (1, 20_000)
    )
    assert slow > 10 * quick


def test_a_model_that_takes_much_memory_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(RunawayError, match=r"memory|ended with"):
        run(hungry(tmp_path / "m.onnx", 1 << 30), WINDOWS[:1], 1, 50.0)
    assert run(hungry(tmp_path / "m.onnx", 1 << 20), WINDOWS[:1], 1, 50.0).predictions[0].shape == (1,)


@pytest.mark.parametrize(
    "words", [{"inputs": ("windows", "more")}, {"inputs": ("other",)}, {"outputs": ("other",)}]
)
def test_other_inputs_and_outputs_are_named(tmp_path: Path, words: dict[str, tuple[str, ...]]) -> None:
    names = {"inputs": ("windows",), "outputs": ("prediction",)} | words
    axes = {"axes": np.array([1, 2])}
    node = helper.make_node("ReduceMean", [names["inputs"][0], "axes"], [names["outputs"][0]], keepdims=0)
    nodes = [node] + [
        helper.make_node("ReduceMean", [name, "axes"], [f"unused {name}"], keepdims=0)
        for name in names["inputs"][1:]
    ]
    model = write(tmp_path / "m.onnx", nodes, axes, names["inputs"], names["outputs"])
    with pytest.raises(InterplantError, match="expected windows and prediction, found") as caught:
        run(model, WINDOWS[:1], 1, 50.0)
    assert not isinstance(caught.value, RunawayError)


def test_a_wrong_number_of_predictions_is_named(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", [helper.make_node("Identity", ["windows"], ["prediction"])])
    with pytest.raises(InterplantError, match="expected one prediction for each of 1 windows"):
        run(model, WINDOWS[:1], 1, 50.0)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(InterplantError, match="cannot be loaded"):
        run(tmp_path / "m.onnx", WINDOWS[:1], 1, 50.0)


def test_nothing_of_windows_or_child_is_left(tmp_path: Path) -> None:
    model = mean(tmp_path / "m.onnx")
    before = set(os.listdir("/proc/self/fd"))
    run(model, WINDOWS, 1, 50.0)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert set(os.listdir("/proc/self/fd")) == before
