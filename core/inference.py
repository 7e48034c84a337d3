"""ONNX models run here: one loaded, on a bounded number of threads, for as many calls as one likes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import InterplantError

# Or ONNX Runtime tells its makers over the network how it is used; it asks for this when it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

INPUT: Final = "windows"
OUTPUT: Final = "prediction"

Floats = NDArray[np.float32]


class Windows(Protocol):
    """Windows, float32 (N, channels, length): an array, or a file of which some are taken at a time."""

    def __len__(self) -> int:
        """Windows."""

    def __getitem__(self, wanted: Any, /) -> Floats:
        """Return those of a slice."""


class Session:
    """A model that takes ``windows`` and gives ``prediction``; see `interplant.core.export`.

    Safe to call from several threads.

    Args:
        model: The file, or its content. Weights outside it are not read.
        outputs: Numbers that the model gives for each window.
        threads: For one call.
        arena: Keep memory between calls: faster, for a model that stays.

    Raises:
        InterplantError: The model cannot be loaded, or has other inputs and outputs.
    """

    def __init__(self, model: Path | bytes, outputs: int = 1, threads: int = 1, arena: bool = False) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_cpu_mem_arena = arena
        options.log_severity_level = 4
        # A thread that waits for work would otherwise spin, and take the processor from training.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        content = model if isinstance(model, bytes) else model.read_bytes()
        self._errors = _runtime_errors()
        self._outputs = outputs
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except self._errors as error:
            raise InterplantError(f"the ONNX model cannot be loaded: {_line(error)}") from None
        names = [[item.name for item in items] for items in (session.get_inputs(), session.get_outputs())]
        if names != [[INPUT], [OUTPUT]]:
            raise InterplantError(f"the ONNX model: expected {INPUT} and {OUTPUT}, found {names}")
        self._session: Any = session

    def run(self, x: Floats) -> Floats:
        """Predict.

        Args:
            x: Windows (N, channels, length), contiguous.

        Returns:
            Predictions, (N,) for one output and else (N, outputs), in the model's units.

        Raises:
            InterplantError: The model does not take these windows, or does not give so many numbers for each.
        """
        try:
            prediction = self._session.run([OUTPUT], {INPUT: x})[0]
        except self._errors as error:
            raise InterplantError(f"the ONNX model does not take these windows: {_line(error)}") from None
        return each(prediction, len(x), self._outputs)


def predict_in(session: Session, x: Windows, batch: int = 1024, outputs: int = 1) -> Floats:
    """Predict with a model that is loaded.

    Args:
        session: The model.
        x: Windows (N, channels, length).
        batch: Windows at a time.
        outputs: Numbers that the model gives for each window.

    Returns:
        Predictions, (N,) for one output and else (N, outputs), in the target's units.

    Raises:
        InterplantError: See `Session.run`.
    """
    return joined([session.run(part) for part in parts(x, batch)], outputs)


def parts(x: Windows, batch: int) -> Iterator[Floats]:
    """Yield windows, some at a time: those in a file are never all in memory."""
    return (np.ascontiguousarray(x[start : start + batch]) for start in range(0, len(x), batch))


def joined(predictions: list[Floats], outputs: int) -> Floats:
    """Put predictions of several parts together; there may be none."""
    return np.concatenate(predictions) if predictions else np.empty(shape_of(0, outputs), dtype=np.float32)


def each(prediction: NDArray[Any], windows: int, outputs: int) -> Floats:
    """Return predictions as (windows,), or (windows, outputs) for several outputs.

    Raises:
        InterplantError: There are not so many.
    """
    if prediction.shape != (windows, outputs) and (outputs > 1 or prediction.shape != (windows,)):
        wanted = "one prediction" if outputs == 1 else f"{outputs} predictions"
        raise InterplantError(
            f"expected {wanted} for each of {windows} windows, found shape {prediction.shape}"
        )
    return prediction.reshape(shape_of(windows, outputs)).astype(np.float32, copy=False)


def shape_of(windows: int, outputs: int) -> tuple[int, ...]:
    """Shape of predictions."""
    return (windows,) if outputs == 1 else (windows, outputs)


def _runtime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    raised = [kind for kind in vars(state).values() if isinstance(kind, type)]
    return (ValueError, RuntimeError, *(kind for kind in raised if issubclass(kind, Exception)))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
