"""Whether a model can be trained privately: tested on made-up inputs, before data is touched.

A validator that goes by layer types lets through a model that mixes samples or keeps statistics
(``x - x.mean(0)``); so the model is run.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interplant.core.errors import InterplantError
from interplant.privacy.losses import combined, per_window, square

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

MODES = ("ew", "hooks", "functorch")
"""Opacus's ways to per-sample gradients, fastest first."""


ENGINES = ("auto", "onepass", "opacus")
"""Who computes private steps: `onepass` where it can and Opacus elsewhere, or Opacus always."""


def check_model(model: "nn.Module", shape: tuple[int, ...], engine: str = "auto", outputs: int = 1) -> str:
    """Refuse a model that differential privacy cannot protect; choose how to get its gradients.

    Args:
        model: The model; it is not changed.
        shape: Shape of one input, without the batch.
        engine: One of `ENGINES`. ``onepass`` and ``auto`` choose alike; where one pass cannot handle the
            model, the first warns and the second notes it.
        outputs: Numbers that it must give for each input.

    Returns:
        ``onepass``, or the fastest of `MODES` whose per-sample gradients are right on this model.

    Raises:
        InterplantError: Why, and the way out.
    """
    _check_trainable(model)
    reason = "" if engine == "opacus" else _not_in_one_pass(model)
    tried = engine != "opacus" and not reason
    if not tried:
        _check_layers(model)
    probe, inputs, other = _probe(model, shape)
    _check_buffers(probe, inputs)
    _check_independent(probe, inputs, other, outputs)
    if tried:
        if _one_pass_right(probe, inputs):
            return "onepass"
        reason = "its norms are not those of single samples on this model"
        _check_layers(model)
    mode = _opacus_mode(probe, inputs)
    if reason:
        level = logging.WARNING if engine == "onepass" else logging.INFO
        log.log(level, "one-pass DP-SGD is not used: %s; Opacus (%s) is used", reason, mode)
    return mode


def _opacus_mode(probe: "nn.Module", inputs: "Tensor") -> str:
    for mode in MODES:
        if _right(probe, inputs, mode):
            return mode
    raise InterplantError(
        "the model's per-sample gradients cannot be computed; build it from torch's own layers"
    )


def _not_in_one_pass(model: "nn.Module") -> str:
    from interplant.privacy import onepass

    return onepass.unsupported(model) or ""


def _check_trainable(model: "nn.Module") -> None:
    if not any(p.requires_grad for p in model.parameters()):
        raise InterplantError("the model has no trainable parameter; there is nothing to train")


def _check_layers(model: "nn.Module") -> None:
    from opacus.validators import ModuleValidator

    errors = ModuleValidator.validate(copy.deepcopy(model).train(), strict=False)
    if errors:
        raise InterplantError(
            f"the model cannot be trained privately: {errors[0]}; use GroupNorm or LayerNorm in "
            "place of BatchNorm, and opacus.layers in place of torch's recurrent and attention layers"
        )


def _probe(model: "nn.Module", shape: tuple[int, ...]) -> "tuple[nn.Module, Tensor, Tensor]":
    """A copy with shaken weights (a gate at zero would hide mixing), and two batches of inputs.

    The batches differ in the second sample only.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    probe = copy.deepcopy(model).train()
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    inputs = torch.randn((4, *shape), generator=generator)
    other = inputs.clone()
    other[1] = 3 * torch.randn(shape, generator=generator) + 1
    return probe, inputs, other


def _check_buffers(probe: "nn.Module", inputs: "Tensor") -> None:
    import torch

    before = {name: buffer.clone() for name, buffer in probe.named_buffers()}
    with _same_dropout(), torch.no_grad():
        probe(inputs)
    after = dict(probe.named_buffers())
    for name in sorted(before.keys() | after.keys()):
        same = name in before and name in after and torch.equal(before[name], after[name])
        if not same:
            raise InterplantError(
                f"the model changes its buffer {name!r} while it trains: a statistic of the data "
                "that no noise covers; remove it, or use GroupNorm or LayerNorm"
            )


def _check_independent(probe: "nn.Module", inputs: "Tensor", other: "Tensor", outputs: int) -> None:
    """Exchange one sample: what the model makes of another must stay, and its gradient too."""
    import torch

    here, there = _first(probe, inputs, outputs), _first(probe, other, outputs)
    for one, two in zip(here, there, strict=True):
        if not torch.allclose(one, two, rtol=1e-4, atol=1e-6):
            raise InterplantError(
                "the model mixes the samples of a batch (one sample's result depends on another), "
                "so that clipping cannot bound what one of them does; make it treat each alone"
            )


def _first(probe: "nn.Module", inputs: "Tensor", each: int) -> "list[Tensor]":
    """Outputs of all samples but the second, and the gradient of the first."""
    import torch

    trainable = {name: p for name, p in probe.named_parameters() if p.requires_grad}
    with _same_dropout():
        outputs = probe(inputs)
    if outputs.numel() != each * len(inputs):
        wanted = "one prediction" if each == 1 else f"{each} predictions"
        raise InterplantError(
            f"the model: expected {wanted} a window, found an output of shape "
            f"{tuple(outputs.shape)} for {len(inputs)} windows"
        )
    outputs = per_window(outputs, len(inputs))
    gradients = torch.autograd.grad(combined(outputs)[0], list(trainable.values()), allow_unused=True)
    for name, gradient in zip(trainable, gradients, strict=True):
        if gradient is None:
            raise InterplantError(
                f"the model does not use its parameter {name!r}; remove it or freeze it "
                "(requires_grad = False)"
            )
    kept = torch.cat([outputs[:1], outputs[2:]]).detach()
    return [kept, *(gradient for gradient in gradients if gradient is not None)]


def _right(probe: "nn.Module", inputs: "Tensor", mode: str) -> bool:
    """Compare Opacus's per-sample gradients with torch's own, one sample at a time."""
    import torch

    from interplant.privacy import dpsgd, steps

    target = torch.zeros(len(inputs))
    expected = [_alone(probe, inputs, index) for index in range(len(inputs))]
    subject = copy.deepcopy(probe)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _same_dropout():
                dpsgd.per_sample(dpsgd.wrap(subject, mode), square, steps.Batch(inputs, target))
        found = [getattr(p, "grad_sample", None) for p in subject.parameters() if p.requires_grad]
        return all(
            grads is not None and torch.allclose(torch.stack(column), grads, rtol=1e-3, atol=1e-5)
            for column, grads in zip(zip(*expected, strict=True), found, strict=True)
        )
    except Exception:  # noqa: BLE001 # each mode fails in its own way on layers it does not know
        return False


def _one_pass_right(probe: "nn.Module", inputs: "Tensor") -> bool:
    """Compare one pass with torch's own gradients: every norm, and a sum that clips some units.

    Once with samples as units, and once with pairs of samples.
    """
    single = [_alone(probe, inputs, index) for index in range(len(inputs))]
    pairs = [
        tuple(one + other for one, other in zip(*pair, strict=True))
        for pair in zip(single[::2], single[1::2], strict=True)
    ]
    return _as_in_a_loop(probe, inputs, single, 1) and _as_in_a_loop(probe, inputs, pairs, 2)


def _as_in_a_loop(probe: "nn.Module", inputs: "Tensor", units: "list[tuple[Tensor, ...]]", rows: int) -> bool:
    """Compare one pass, ``rows`` samples a unit, with the units' gradients."""
    import torch

    from interplant.privacy import onepass, steps

    norms = torch.stack([torch.cat([part.flatten() for part in one]).norm() for one in units])
    clip = float(norms.median())
    factors = steps.clip_factors(norms, clip, "norm")
    try:
        with _same_dropout():
            found = onepass.OnePass(copy.deepcopy(probe), clip).clipped(
                square, inputs, torch.zeros(len(inputs)), rows=rows
            )
    except InterplantError:
        return False
    columns = (torch.stack(column) for column in zip(*units, strict=True))
    return torch.allclose(norms, found.norms, rtol=1e-3, atol=1e-5) and all(
        torch.allclose(torch.tensordot(factors, column, 1), total, rtol=1e-3, atol=1e-5)
        for column, total in zip(columns, found.sums, strict=True)
    )


def _alone(probe: "nn.Module", inputs: "Tensor", index: int) -> "tuple[Tensor, ...]":
    """One sample's gradient, with the dropout it has in its batch."""
    import torch

    trainable = [p for p in probe.parameters() if p.requires_grad]
    with _same_dropout():
        output = combined(per_window(probe(inputs), len(inputs)))[index]
    return torch.autograd.grad(output.square(), trainable)


@contextmanager
def _same_dropout() -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
