"""What a plant sends and takes in fewer bytes, where its coordinator offers it and its ``plant.yaml`` agrees.

Nothing here touches privacy. The model that comes is what the coordinator chose to send. The update is packed
after the gateway has let it out: it is noised and paid for by then, and what is computed from it alone is
post-processing, which differential privacy allows for nothing (Dwork and Roth, "The algorithmic foundations
of differential privacy", 2014, proposition 2.1). So is the residual: what packing left out of updates that
were let out. Raw gradients are never seen here.

In ``compression/<run>`` of the plant's directory lie the model of the last round, which the next one is sent
as a difference from, and the residual after each of the last two rounds. A round takes the residual of an
earlier round only: one that is trained again after a crash does not find its own. Losing a file costs the
residual, or one round in which the plant says ``model_lost`` and is sent the next model whole.
"""

import logging
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from safetensors import SafetensorError, safe_open

from interplant.client.directory import PlantDirectory
from interplant.core import blobs
from interplant.core.compression import (
    COMPRESSION,
    NONE,
    PACKED,
    Layout,
    difference,
    digest_of,
    moved,
    pack,
    unpack,
)
from interplant.core.errors import InterplantError, Refusal
from interplant.core.flower import arrays, records_of
from interplant.core.schema import CODECS
from interplant.core.tensors import UPDATE, Tensors

log = logging.getLogger(__name__)

RUNS = 2
"""Runs of which a plant keeps a model and residuals: the one that goes on, and one beside it."""

_RESIDUAL = re.compile(r"residual-(\d+)\.safetensors")


@dataclass(frozen=True)
class Terms:
    """What a request says of compression.

    Args:
        run: The run's id.
        round: The round.
        rounds: How many the run has.
        update: Codec of the update, ``none`` if there is none that both sides take.
        keep: Share of the values that ``top_k`` sends.
        holds: Whether the plant keeps the model, so that the next one can come as a difference.
        codec: How the model in this request is packed; ``none``: it is whole.
        base: Digest of the model that it is a difference from.
        digest: Digest of the model to train from; empty if no difference will be sent.
    """

    run: str
    round: int
    rounds: int
    update: str
    keep: float
    holds: bool
    codec: str
    base: str
    digest: str

    @classmethod
    def of(cls, message: Message, plant: PlantDirectory) -> "Terms | None":
        """Read a request's words, if it has any, and hold them against ``connection.compression``.

        Raises:
            Refusal: They are not words that this version understands.
        """
        words = records_of(message.content, ConfigRecord).get(COMPRESSION)
        if words is None:
            return None
        takes = plant.load().connection.compression
        try:
            task = records_of(message.content, ConfigRecord)["task"]
            codecs = {key: str(words[key]) for key in ("update", "model", "codec")}
            keep = float(str(words["keep"]))
            if not set(codecs.values()) <= {NONE, *CODECS} or not 0 < keep <= 0.5:
                raise ValueError(f"codecs {codecs}, keep {keep}")
            return cls(
                str(task["run"]),
                int(str(task["round"])),
                int(str(task["rounds"])),
                codecs["update"] if codecs["update"] in takes else NONE,
                keep,
                codecs["model"] in takes,
                codecs["codec"],
                str(words["base"]),
                str(words["digest"]),
            )
        except (KeyError, ValueError) as error:
            raise Refusal("task_invalid", f"compression: {error}") from None

    @property
    def reply(self) -> dict[str, str]:
        """The words that leave beside the update; they follow from settings and from the model that came."""
        return {"update": self.update, "holds": self.digest if self.holds else ""}


def whole(plant: PlantDirectory, terms: Terms | None, sent: Tensors) -> Tensors:
    """Return the model to train from, and keep it if the next one may be a difference from it.

    Args:
        plant: The plant's directory.
        terms: Of the request.
        sent: Its arrays.

    Raises:
        Refusal: ``model_lost``, if the plant does not hold what the difference is from; ``task_invalid``, if
            what came cannot be unpacked or is another model than was said.
    """
    if terms is None or (terms.codec == NONE and not terms.holds):
        return sent
    file = _folder(plant, terms.run) / "model.safetensors"
    held = _read(file)
    digest = digest_of(held) if held else ""
    if held and digest == terms.digest:
        return held  # a round that is tried again
    if terms.codec == NONE:
        weights = sent
    elif held and digest == terms.base:
        weights = _moved(held, sent, terms)
    else:
        raise Refusal("model_lost", f"expected {terms.base[:12]}, found {digest[:12] or 'none'} in {file}")
    if digest_of(weights) != terms.digest:
        raise Refusal("task_invalid", "the model that came has another digest than was said")
    blobs.replace(file, weights, {"rounds": str(terms.rounds)})
    return weights


def lighter(plant: PlantDirectory, terms: Terms | None, reply: Message) -> Message:
    """Pack the update in a reply that the gateway has let out, with what packing has left of earlier ones.

    Args:
        plant: The plant's directory.
        terms: Of the request.
        reply: From `gateway.let_out`.

    Returns:
        The reply, with one array of bytes in place of the update's.
    """
    if terms is None or terms.update == NONE:
        return reply
    update = {name: array.numpy() for name, array in records_of(reply.content, ArrayRecord)[UPDATE].items()}
    meant = moved(update, _residual(plant, terms, update))
    if not all(np.isfinite(array).all() for array in meant.values()):
        meant = update
    packed = pack(terms.update, meant, terms.keep)
    left = difference(meant, unpack(terms.update, packed, update, terms.keep))
    _keep_residual(plant, terms, {name: left[name] for name in Layout.of(update).coded})
    reply.content[UPDATE] = arrays({PACKED: np.frombuffer(packed, np.uint8)})
    return reply


def settle(plant: PlantDirectory, run: str, number: int) -> None:
    """Forget a run whose last round is on the coordinator's disk."""
    for folder in plant.compression.glob("*"):
        files = folder.glob("[!.]*.safetensors")
        if folder.name == run and any(number >= _rounds(file) for file in files):
            shutil.rmtree(folder, ignore_errors=True)


def _moved(held: Tensors, sent: Tensors, terms: Terms) -> Tensors:
    if sent.keys() != {PACKED} or sent[PACKED].dtype != np.uint8:
        raise Refusal("task_invalid", f"expected one array {PACKED!r} of bytes")
    try:
        return moved(held, unpack(terms.codec, sent[PACKED].tobytes(), held, terms.keep))
    except InterplantError as error:
        raise Refusal("task_invalid", str(error)) from None


def _residual(plant: PlantDirectory, terms: Terms, update: Tensors) -> Tensors:
    """What was left after the last round before this one; zeros if that was another model's or is not there.

    Arrays that are not coded leave nothing: they stand as they are, as `moved` wants them.
    """
    files, layout = _residuals(plant, terms.run), Layout.of(update)
    before = [number for number in files if number < terms.round]
    found = (_read(files[max(before)]) if before else None) or {}
    shapes = {name: array.shape for name, array in found.items()}
    if shapes != {name: update[name].shape for name in layout.coded}:
        found = {name: np.zeros_like(update[name]) for name in layout.coded}
    return found | {name: update[name] for name in layout.rest}


def _keep_residual(plant: PlantDirectory, terms: Terms, left: Tensors) -> None:
    """Write what this round leaves; beside it stays only that of the last round before."""
    known = _residuals(plant, terms.run)
    before = max((number for number in known if number < terms.round), default=None)
    for number, file in known.items():
        if number != before:
            file.unlink()
    file = _folder(plant, terms.run) / f"residual-{terms.round}.safetensors"
    blobs.replace(file, left, {"rounds": str(terms.rounds)})


def _residuals(plant: PlantDirectory, run: str) -> Mapping[int, Path]:
    files = (plant.compression / run).glob("residual-*.safetensors")
    return {int(match[1]): file for file in files if (match := _RESIDUAL.fullmatch(file.name))}


def _folder(plant: PlantDirectory, run: str) -> Path:
    """The folder of a run; of others only the newest stays."""
    folder = plant.compression / run
    if not folder.exists():
        others = sorted(plant.compression.glob("*"), key=lambda path: path.stat().st_mtime)
        for other in others[: max(0, len(others) - RUNS + 1)]:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def _read(file: Path) -> Tensors | None:
    """The arrays of a file, if it is there; a damaged one is worth as much as none."""
    try:
        return blobs.load(file) if file.exists() else None
    except InterplantError as error:
        log.warning("%s: %s", file, error)
        return None


def _rounds(file: Path) -> float:
    """How many rounds a file's run has; a damaged one does not say."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return int(opened.metadata()["rounds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return math.inf
