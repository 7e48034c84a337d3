"""Models leave torch: weights by name, ONNX, and the check that both predict the same.

An ONNX model takes ``windows``, float32 (batch, channels, window), normalised as the task's contract
says, and gives ``prediction``, float32 (batch,), or (batch, classes) where classes are told apart, in the
units that `interplant.core.targets.unit` names.
"""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core import inference
from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.core.inference import Session, Windows, each, joined, parts, predict_in
from interplant.core.schema import Task

if TYPE_CHECKING:
    from torch import nn

OPSET: Final = 18
INPUT: Final = inference.INPUT
OUTPUT: Final = inference.OUTPUT

TOLERANCE: Final = 1e-4
"""ONNX may differ from torch by this much of a unit, or of the prediction where that is more."""

FURTHEST: Final = 10.0
"""Probes reach this far; a declared range is -1 to 1, and what a contract accepts -3 to 3."""

Floats = inference.Floats


def export_onnx(model: "nn.Module", task: Task, path: Path) -> float:
    """Write ``model`` as ONNX, checked against torch.

    Torch's tracing exporter: 0.2 s and 30 MB for a small network, recurrent ones included; its newer
    one takes 3 to 7 s and 160 MB for the same file. Tracing keeps only the branch it saw, and the
    check notices.

    Args:
        model: See `interplant.core.models.build`.
        task: Gives the shapes of inputs and outputs.
        path: Where to write; whole or not there.

    Returns:
        The largest difference found, in the model's units.

    Raises:
        InterplantError: The exporter does not know an operation of the model, or ONNX and torch
            differ by more than `TOLERANCE` on a probe.
    """
    try:
        with _evaluating(model):
            content = _trace(model, task)
    except Exception as error:
        raise InterplantError(
            f"model {task.model.name} cannot be exported to ONNX: {_line(error)}"
        ) from error
    difference = _difference(model, content, task)
    write_atomic(path, content)
    return difference


def parity(model: "nn.Module", found: Sequence[Floats], task: Task) -> float:
    """Return the largest difference between a model and what its ONNX file gave for `probes`, in its units.

    Raises:
        InterplantError: They differ by more than `TOLERANCE`.
    """
    largest, outputs = 0.0, task.target.outputs
    for x, one in zip(probes(task), found, strict=True):
        expected = predict(model, x, outputs=outputs)
        gap = _gap(expected, one)
        size = np.where(np.isfinite(expected), np.abs(expected), 0.0)
        allowed = TOLERANCE * np.maximum(1.0, size)
        if not (gap <= allowed).all():
            raise InterplantError(
                f"ONNX and torch differ by {gap.max():.3g} of the output's unit, more than {TOLERANCE:g}"
            )
        largest = max(largest, float(gap.max()))
    return largest


def predict(model: "nn.Module", x: Floats, batch: int = 1024, outputs: int = 1) -> Floats:
    """Predict with torch, without gradients.

    Args:
        model: The network; it is left in the mode (training or not) it was in.
        x: Windows (N, channels, length).
        batch: Windows at a time.
        outputs: Numbers that the model gives for each window.

    Returns:
        Predictions, (N,) for one output and else (N, outputs), in the target's units.

    Raises:
        InterplantError: The model does not give so many numbers for each window.
    """
    import torch

    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            found = [
                each(model(torch.from_numpy(part)).numpy(), len(part), outputs) for part in parts(x, batch)
            ]
    finally:
        model.train(training)
    return joined(found, outputs)


def predict_onnx(model: Path | bytes, x: Windows, batch: int = 1024, outputs: int = 1) -> Floats:
    """Predict with ONNX Runtime on one thread; see `predict`.

    Args:
        model: The file, or its content. Weights outside it are not read.
        x: Windows (N, channels, length).
        batch: Windows at a time.
        outputs: Numbers that the model gives for each window.

    Raises:
        InterplantError: The model cannot be loaded, wants other inputs, or does not give so many
            numbers for each window.
    """
    return predict_in(Session(model, outputs), x, batch, outputs)


def probes(task: Task) -> list[Floats]:
    """Return inputs that try a model: constants, random signs and normals, up to `FURTHEST`."""
    shape = task.shape
    drawn = np.random.default_rng(0)
    levels = np.array([0.0, 1.0, -1.0, 3.0, -3.0, FURTHEST, -FURTHEST])
    constants = np.broadcast_to(levels[:, None, None], (len(levels), *shape))
    signs = FURTHEST * drawn.choice([-1.0, 1.0], (2, *shape))
    normals = [drawn.normal(0.0, scale, (n, *shape)) for n, scale in ((1, 1.0), (33, 0.5), (64, 3.0))]
    return [np.array(array, dtype=np.float32) for array in (constants, signs, *normals)]


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file.

    Raises:
        InterplantError: It is missing or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(path.read_bytes()))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InterplantError(f"{path}: expected tensors as safetensors: {error}") from None


def _trace(model: "nn.Module", task: Task) -> bytes:
    import torch

    axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
    # It warns that it is the older exporter, and of branches it fixes; `_difference` tests for those.
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(scratch) / "model.onnx"
        torch.onnx.export(
            _flat(model, task.target.outputs),
            (torch.zeros(2, *task.shape),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes=axes,
        )
        return path.read_bytes()


@contextmanager
def _evaluating(model: "nn.Module") -> Iterator[None]:
    """Evaluation mode, and afterwards each part in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _flat(model: "nn.Module", outputs: int) -> "nn.Module":
    """The model with predictions as (batch,), or as they are where there are several."""
    from torch import Tensor, nn

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, windows: Tensor) -> Tensor:
            prediction: Tensor = self.model(windows)
            return prediction.flatten() if outputs == 1 else prediction

    return Flat().eval()


def _difference(model: "nn.Module", content: bytes, task: Task) -> float:
    outputs = task.target.outputs
    session = Session(content, outputs)
    return parity(model, [predict_in(session, x, outputs=outputs) for x in probes(task)], task)


def _gap(expected: Floats, found: Floats) -> NDArray[np.float64]:
    """Differences: none where both are NaN (whether such a model may serve is asked elsewhere)."""
    alike = (expected == found) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore"):
        gap = np.abs(expected.astype(np.float64) - found)
    return np.where(alike, 0.0, np.where(np.isfinite(gap), gap, np.inf))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
