"""How a plant's readings come in: its contract, its store, its sources."""

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interplant.client.directory import PlantDirectory
from interplant.core import config
from interplant.core.contract import Contract
from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import Source, Task
from interplant.data import ingest
from interplant.data.ingest import Brought
from interplant.data.snapshots import Snapshot, reader_of
from interplant.data.sources import Place, open_source
from interplant.data.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

FILES: Final = "files"
"""Name of the source that stands for files given by hand."""


def contract_of(directory: PlantDirectory) -> Contract | None:
    """Return the plant's own contract; None if ``data.contract`` names none.

    Raises:
        UsageError: The file is missing or wrong.
    """
    name = directory.load().data.contract
    return config.load(directory.path / name, Contract) if name else None


def store_of(directory: PlantDirectory, task: Task | None = None) -> Store:
    """Return the plant's store.

    Args:
        directory: The plant.
        task: Whose contract holds where the plant has none of its own.

    Raises:
        UsageError: Neither has one.
    """
    contract = contract_of(directory) or (task.contract if task else None)
    if contract is None:
        raise UsageError(
            f"{directory.config}: data.contract: expected the file of the plant's contract, found none; "
            "name one, or a task with --task"
        )
    return Store(directory.path / directory.load().data.store, contract)


def require_version(directory: PlantDirectory, task: Task) -> None:
    """Refuse a task that needs another version of the contract than the plant's readings keep.

    Raises:
        Refusal: ``contract_version``.
    """
    own = contract_of(directory)
    if own is None:
        return
    if own.version != task.contract.version:
        wanted, name = task.contract.version, directory.load().data.contract
        raise Refusal("contract_version", f"the task needs version {wanted}, {name} has {own.version}")
    known = {**own.settings, **own.sensors}
    for name, column in {**task.contract.settings, **task.contract.sensors}.items():
        if name not in known or known[name].unit != column.unit:
            found = f"in {known[name].unit!r}" if name in known else "nothing"
            raise Refusal(
                "contract_version", f"{name!r}: the task needs it in {column.unit!r}, found {found}"
            )


def require_kept(snapshot: Snapshot, task: Task) -> None:
    """Refuse a snapshot of a store that is held to another version than the task needs.

    It follows from the contract and from what people did (`interplant.data.held`), whatever readings there
    are: a coordinator may be told of it. What says how readings become rows is looked at by itself: where
    values are held over, one reading stands in many.

    Raises:
        Refusal: ``contract_version``.
    """
    reader = reader_of(snapshot)
    if reader is None:
        return
    wanted = config.dump(task.contract)
    for name in ("version", "machine", "time", "clock", "interval", "hold"):
        found = reader.manifest["contract"][name]
        if found != wanted[name]:
            raise Refusal(
                "contract_version",
                f"contract.{name}: the task needs {wanted[name]!r}, the snapshot has {found!r}",
            )
    texts, told = task.contract.texts, reader.manifest["contract"].get("texts", [])
    same = reader.manifest["contract"]["label"] == task.contract.label  # else it is not looked at
    if same and (bool(texts) != bool(told) or not set(texts) <= set(told)):
        raise Refusal("contract_version", f"contract.texts: the task needs {texts}, the snapshot has {told}")
    if (held := reader.manifest["held"]) != [str(task.contract.version)]:
        others = reader.manifest["others"]
        raise Refusal(
            "contract_version",
            f"readings that came under version {' and '.join(held)} were not held to version "
            f"{task.contract.version} yet ({len(others)} partitions: {', '.join([*others][:1]) or 'none'}): "
            "`interplant data check --again`, then snapshot",
        )


def bring(
    directory: PlantDirectory,
    store: Store,
    names: list[str] | None = None,
    path: Path | None = None,
    watch: bool = False,
    stop: threading.Event | None = None,
) -> list[Brought]:
    """Bring readings into the store.

    Args:
        directory: The plant.
        store: Its store.
        names: Of its sources; by default all.
        path: Files in place of sources: a table, or a folder of tables.
        watch: Whether to go on until ``stop``.
        stop: Ends it.

    Raises:
        UsageError: There is no such source, or none at all; a source's words are wrong.
    """
    sources = _sources(directory, names, path)
    feeds = []
    for source in sources:
        state = store.path / "sources" / source.name
        feeds.append((source, open_source(source, Place(directory.path, state, store.contract))))
    return ingest.ingest(store, feeds, watch, stop or threading.Event())


def sample(path: Path, label: str = "") -> "pa.Table":
    """Return the first readings of a table, or of the first in a folder, as they stand there.

    Args:
        path: The table, or the folder.
        label: Column of a CSV that is read as text, whatever stands in it.

    Raises:
        UsageError: There is none.
    """
    source = Source(name=FILES, kind="folder", args={"path": str(path.absolute())})
    with tempfile.TemporaryDirectory() as state:
        feed = open_source(source, Place(path, Path(state), Contract(label=label, texts=[label])))
        for batch in feed.batches(False, threading.Event()):
            return batch.table
    raise UsageError(f"{path}: expected a table of readings, found none")


def _sources(directory: PlantDirectory, names: list[str] | None, path: Path | None) -> list[Source]:
    if path is not None:
        return [Source(name=FILES, kind="folder", args={"path": str(path.absolute())})]
    known = {source.name: source for source in directory.load().data.sources}
    if not known:
        raise UsageError(
            f"{directory.config}: data.sources: expected at least one, found none; or name files with --from"
        )
    for name in names or []:
        if name not in known:
            raise UsageError(f"source {name!r}: expected one of {', '.join(known)}")
    return [known[name] for name in names or known]
