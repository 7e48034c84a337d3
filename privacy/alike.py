"""A unit's gradient must be the same bits whoever shares its batch.

Clipping bounds what a unit adds to the sum. It bounds nothing where the unit also moves the gradients of
others, be it by their last digits: weights can be chosen for which a last digit decides a direction. A row
of a product of matrices comes out of another routine where it stands beyond the last full block of rows, so
a batch of 271 may give other last digits than one of 272. Hence batches are filled up with rows that count
nothing, to a multiple of a number of units, and that number is tried before data is touched: the same made-up
units, in batches of other sizes and at other places, must leave the same bits. Which routines run follows
from shapes, not from values, so what holds for made-up units holds for real ones.

Importing this module does not import torch.
"""

import copy
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interplant.privacy.losses import per_window, trial_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from interplant.privacy.steps import Loss

log = logging.getLogger(__name__)

FILLS = (8, 16, 32, 64)
"""Numbers of units that are tried: blocks of rows are as wide as vector registers, or a few of them."""

FORWARD = "forward"

MOST = 1024
"""Windows that are predicted at a time."""

SIZES = (1, 2, 3, 5, 7, 9, 13, 21, 34, 55, 89)
"""Sizes of the batches that are tried, in fills; and the largest batch."""

Run = Callable[[NDArray[np.int64]], "list[Tensor]"]
"""Maps made-up units, by their numbers, to tensors whose first dimension goes through them in order."""

_found: dict[str, int] = {}
"""What was found in this process, by all that the routines depend on."""


def split(chosen: NDArray[np.int64], units: int, fill: int) -> list[NDArray[np.int64]]:
    """Split a logical batch evenly into physical ones, of whole fills where it can be.

    Args:
        chosen: The units.
        units: How many there is memory for at a time; one fill is always taken.
        fill: See `fill_of`.
    """
    size = 1 if fill == 1 else max(fill, units // fill * fill)
    return np.array_split(chosen, -(-len(chosen) // size)) if len(chosen) else []


def fill_of(
    model: "nn.Module", shape: tuple[int, ...], mode: str, windows: int = 1, loss: str = "mse"
) -> int:
    """Find the number of units to whose multiple physical batches are filled up.

    Args:
        model: It is not changed.
        shape: Of one window.
        mode: How gradients are computed: ``onepass`` or one of `checks.MODES`; `FORWARD` asks for
            predictions and their losses.
        windows: Rows of each unit.
        loss: The task's; one with logarithms is tried too.

    Returns:
        One of `FILLS`; 1 means that only one unit at a time is safe on this model and machine.
    """
    import torch

    key = repr((_shape_of(model), shape, mode, windows, loss, torch.get_num_threads()))
    if key not in _found:
        _found[key] = _try_fills(model, shape, mode, windows, trial_of(loss))
    return _found[key]


def holds(run: Run, limit: int, fill: int) -> bool:
    """Tell whether units leave the same bits in batches of any multiple of ``fill`` and at any place.

    Args:
        run: What is tried.
        limit: Units in the largest batch.
        fill: The multiple.
    """
    import torch

    limit = -(-limit // fill) * fill
    generator = np.random.default_rng(0)
    expected = run(np.arange(limit))
    for size in [*(one * fill for one in SIZES if one * fill < limit), limit]:
        chosen = generator.permutation(limit)[:size]
        found = run(chosen)
        if not all(torch.equal(one[chosen], other) for one, other in zip(expected, found, strict=True)):
            return False
    return True


def _try_fills(model: "nn.Module", shape: tuple[int, ...], mode: str, windows: int, loss: "Loss") -> int:
    probe = copy.deepcopy(model).eval()  # dropout falls by place: what is compared is everything else
    _shake(probe)
    kind = {"onepass": _one_pass, FORWARD: _forward}.get(mode, _opacus)
    limit, run = kind(probe, shape, mode, windows, loss)
    if limit == 1:
        return 1  # memory takes no more
    for fill in FILLS:
        if holds(run, limit, fill):
            return fill
    log.warning(
        "gradients depend in their last digits on who shares a batch, whatever its size: one unit is taken "
        "at a time, which is slow (MKL_CBWR=AUTO in the environment may help)"
    )
    return 1


def _shake(probe: "nn.Module") -> None:
    """Give a model ordinary weights: with those that came in, all zero perhaps, nothing might differ."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for own in probe.parameters():
            drawn = torch.randn(own.shape, generator=generator)
            own.copy_(drawn / max(1, own[0].numel()) ** 0.5 if own.dim() > 1 else 1.0 + 0.1 * drawn)


def _made_up(shape: tuple[int, ...], windows: int) -> "Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]":
    """Inputs and targets of made-up units, all rows of each."""
    import torch

    generator = torch.Generator().manual_seed(0)
    block = torch.randn((256, windows, *shape), generator=generator)

    def rows(chosen: NDArray[np.int64]) -> tuple["Tensor", "Tensor"]:
        scale = torch.from_numpy(1.0 + chosen / 7.0).float()
        x = block[torch.from_numpy(chosen % len(block))] * scale.view(-1, 1, *[1] * len(shape))
        return x.flatten(0, 1), scale.repeat_interleave(windows)

    return rows


def _one_pass(
    probe: "nn.Module", shape: tuple[int, ...], _mode: str, windows: int, loss: "Loss"
) -> tuple[int, Run]:
    from interplant.privacy import onepass

    engine, rows = onepass.OnePass(probe, 1.0), _made_up(shape, windows)

    def run(chosen: NDArray[np.int64]) -> "list[Tensor]":
        kept = engine.kept(loss, *rows(chosen), windows)
        return [part.reshape(len(chosen), -1) for part in kept]

    run(np.arange(engine.units(windows)))  # from then on it knows what its layers keep
    return engine.units(windows), run


def _opacus(
    probe: "nn.Module", shape: tuple[int, ...], mode: str, windows: int, loss: "Loss"
) -> tuple[int, Run]:
    from interplant.privacy import dpsgd, steps

    for layer in probe.modules():
        layer.training = any(True for _ in layer.parameters(recurse=False))  # Opacus watches no others
    wrapped, rows = dpsgd.wrap(probe, mode), _made_up(shape, windows)
    trained = [own for own in probe.parameters() if own.requires_grad]

    def run(chosen: NDArray[np.int64]) -> "list[Tensor]":
        dpsgd.per_sample(wrapped, loss, steps.Batch(*rows(chosen)))
        found = [own.grad_sample for own in trained]  # type: ignore[attr-defined]
        for own in trained:
            own.grad = own.grad_sample = None  # type: ignore[attr-defined]
        return [part.reshape(len(chosen), -1) for part in found]

    return dpsgd.units(probe, windows), run


def _forward(
    probe: "nn.Module", shape: tuple[int, ...], _mode: str, windows: int, loss: "Loss"
) -> tuple[int, Run]:
    import torch

    rows, kind = _made_up(shape, windows), next(probe.parameters()).dtype

    def run(chosen: NDArray[np.int64]) -> "list[Tensor]":
        x, numbers = rows(chosen)
        with torch.no_grad():
            predicted = per_window(probe(x.to(kind)), len(chosen))
            return [predicted.reshape(len(chosen), -1), loss(predicted, numbers.to(kind))]

    return MOST, run


def _shape_of(model: "nn.Module") -> list[object]:
    """All that says which routines run: the layers, their settings, and their weights' shapes."""
    plain = int, float, str, bool, tuple, type(None)
    layers = [
        (name, type(layer), sorted((key, own) for key, own in vars(layer).items() if isinstance(own, plain)))
        for name, layer in model.named_modules()
    ]
    return [layers, [(tuple(own.shape), own.dtype, own.requires_grad) for own in model.parameters()]]
