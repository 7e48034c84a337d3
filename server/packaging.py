"""A finished run becomes a release: weights, ONNX, lineage and card in one signed folder.

Exporting needs torch and ONNX Runtime, some 300 MB that the coordinator does not want to keep, so it
happens in a process of its own: `Packager`, or by hand ``python -m interplant.server.packaging ORDER.json``.
"""

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from interplant.core import config, export, keyring, models, signing
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import disk_errors, sync_folder, write_atomic
from interplant.core.processes import python_module
from interplant.core.release import (
    CARD,
    CARD_HTML,
    LINEAGE,
    ONNX,
    TASK,
    WEIGHTS,
    Lineage,
    Release,
    check_id,
    manifest_meta,
    parse_lineage,
    parse_task,
    read_release,
    task_digest,
)
from interplant.core.schema import Task
from interplant.server import card, card_html
from interplant.server.card import CardFacts, RoundFigures

_ORDER_COMES: Final = "-"
"""In place of an order's file: its name comes by standard input."""


@dataclass(frozen=True)
class PackageOrder:
    """What a release is made of.

    Args:
        weights: The merged model, safetensors with plain parameter names.
        task: What was learned.
        lineage: Where it comes from; its ``release`` names the release.
        key: The federation's Ed25519 signing key, PEM.
        figures: Errors for the card, by what they are; a time's in cycles. Whoever gives them says that these
            numbers about data may be published (simulators, public benchmarks).
        rounds: What each round came to, for the card's curves.
    """

    weights: Path
    task: Task
    lineage: Lineage
    key: Path
    figures: Mapping[str, float] = field(default_factory=dict)
    rounds: tuple[RoundFigures, ...] = ()

    def to_json(self, folder: Path) -> str:
        """Return the order for a child process that is to write ``folder``."""
        content = {
            "weights": str(self.weights.absolute()),
            "task": config.dump(self.task),
            "lineage": json.loads(self.lineage.to_json()),
            "key": str(self.key.absolute()),
            "figures": dict(self.figures),
            "rounds": [asdict(one) for one in self.rounds],
            "folder": str(folder.absolute()),
        }
        return json.dumps(content)


def package(order: PackageOrder, folder: Path) -> Release:
    """Build and sign a release; ``folder`` is whole or not there, whenever this process is killed.

    Args:
        order: What goes in.
        folder: ``releases/<id>``. If it is there already and good, it is left as it is.

    Raises:
        UsageError: The order contradicts itself.
        InterplantError: The weights do not fit the model or are not finite, the model cannot be
            exported, the key cannot be read, or the disk is full.
    """
    _check(order, folder)
    keys = keyring.of(signing.read_private(order.key).public_key())
    statements = order.key.with_name(keyring.FILE)
    if statements.exists():
        keys = keys.extended(keyring.parse(statements.read_bytes(), str(statements)))
    with disk_errors(folder):
        if not folder.exists():
            _build(order, folder)
    release = read_release(folder, keys)
    if (release.lineage.run, release.lineage.task_digest) != (order.lineage.run, order.lineage.task_digest):
        raise InterplantError(f"{folder}: expected no release here, found one of run {release.lineage.run!r}")
    return release


class Packager:
    """A process that packages one release. Begun ahead, it has loaded torch when the order comes."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start the process, if there is none; the order comes later."""
        if self._child is not None and self._child.poll() is not None:
            self.end()  # it was killed while it waited
        if self._child is None:
            self._child = subprocess.Popen(
                python_module("interplant.server.packaging", _ORDER_COMES),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )

    def package(self, order: PackageOrder, folder: Path, seconds: float = 300.0) -> None:
        """Do `package` in the process, and end it.

        Raises:
            UsageError: The child's one line, if the order is wrong.
            InterplantError: The child's one line; or it took longer than ``seconds``, or was killed.
        """
        self.begin()
        assert self._child is not None
        try:
            with tempfile.TemporaryDirectory(prefix="interplant-") as scratch:
                file = Path(scratch) / "order.json"
                file.write_text(order.to_json(folder), encoding="utf-8")
                _, said = self._child.communicate(f"{file}\n", timeout=seconds)
            code = self._child.returncode
        except subprocess.TimeoutExpired:
            raise InterplantError(
                f"release {order.lineage.release}: packaging took more than {seconds:g} s"
            ) from None
        finally:
            self.end()
        if code:
            line = (said.strip().splitlines() or ["it ended without a word"])[-1]
            kind = UsageError if code == UsageError.exit_code else InterplantError
            raise kind(f"release {order.lineage.release} was not packaged: {line}")

    def end(self) -> None:
        """End the process, also in the middle of its work: a release is whole or not there."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stderr):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):  # what a dead one did not read
                        pipe.close()
            self._child = None


def package_in_child(order: PackageOrder, folder: Path, seconds: float = 300.0) -> None:
    """Do `package` in a process of its own; see `Packager.package`."""
    Packager().package(order, folder, seconds)


def _check(order: PackageOrder, folder: Path) -> None:
    lineage = order.lineage
    if check_id(lineage.release) != folder.name:
        raise UsageError(f"{folder}: expected the folder of release {lineage.release!r}")
    if (lineage.task, lineage.task_digest) != (order.task.name, task_digest(order.task)):
        raise UsageError(f"release {lineage.release}: the lineage names another task than the order")
    parse_lineage(lineage.to_json())


def _build(order: PackageOrder, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(left)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    temporary.mkdir()
    try:
        _fill(order, temporary)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(order: PackageOrder, folder: Path) -> None:
    from safetensors.numpy import save

    model = models.build(order.task)
    models.set_parameters(model, export.read_weights(order.weights))
    weights = models.parameters(model, frozen=True)
    for name, array in weights.items():
        if not bool((abs(array) < float("inf")).all()):
            raise InterplantError(f"{order.weights}: {name!r} holds values that are not finite")
    export.export_onnx(model, order.task, folder / ONNX)
    write_atomic(folder / WEIGHTS, save(weights))
    write_atomic(folder / TASK, json.dumps(config.dump(order.task), indent=2) + "\n")
    write_atomic(folder / LINEAGE, order.lineage.to_json())
    facts = CardFacts(order.task, order.lineage, order.figures, order.rounds, _fingerprint(order.key))
    write_atomic(folder / CARD, card.markdown(facts))
    write_atomic(folder / CARD_HTML, card_html.page(facts))
    statements = order.key.with_name(keyring.FILE)
    if statements.exists():
        shutil.copyfile(statements, folder / keyring.IN_RELEASE)
    key = signing.read_private(order.key)
    signing.sign_folder(folder, manifest_meta(order.lineage), key)


def _fingerprint(key: Path) -> str:
    """The public key of a signing key, as `interplant coordinator rotate-key` names it."""
    return signing.read_private(key).public_key().public_bytes_raw().hex()


def _read_order(path: Path) -> tuple[PackageOrder, Path]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        order = PackageOrder(
            Path(content["weights"]),
            parse_task(json.dumps(content["task"]), str(path)),
            parse_lineage(json.dumps(content["lineage"])),
            Path(content["key"]),
            {str(name): float(value) for name, value in content.get("figures", {}).items()},
            tuple(RoundFigures(**one) for one in content.get("rounds", [])),
        )
        return order, Path(content["folder"])
    except (InterplantError, OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: expected an order as JSON: {error}") from None
    except KeyError as error:
        raise UsageError(f"{path}: expected the key {error}, found none") from None


def _load() -> None:
    """Load what `package` will load otherwise: nobody waits for it yet."""
    for module in ("torch.onnx", "onnxruntime", "safetensors.numpy", "interplant.core.networks"):
        importlib.import_module(module)


def main(words: list[str]) -> int:
    """Package the order in the file ``words[0]``; return the exit code, with one line on stderr.

    Where the word is ``-``, what takes long to load is loaded, and then the file's name is read from standard
    input; if that ends without one, there is nothing to do.
    """
    try:
        if len(words) != 1:
            raise UsageError("expected one word: the order's JSON file")
        if words == [_ORDER_COMES]:
            _load()
            words = sys.stdin.read().split("\n")[:1]
        if words[0]:
            package(*_read_order(Path(words[0])))
    except InterplantError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped; no release was written\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
