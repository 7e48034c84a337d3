"""What bringing readings in costs: ingest, snapshots, windows, sources; and the bars they are held to.

Ratios within one run decide. ``ingest`` compares a whole command's work (reading, the contract at the door,
the store with its files fsynced) with pyarrow alone reading the same file and writing it as one Parquet,
fsynced too. ``snapshot`` compares the second snapshot, after 1 % of the partitions changed, with the first,
in one process: imports (0.3 s) are in neither. ``windows`` measures memory (PSS) beyond what the process
held with torch and the libraries loaded, while batches are drawn. ``mqtt`` and ``opcua`` need a broker
(mosquitto) and the extra ``opcua``. ``large`` brings one CSV file of 10 GB in; it runs where it is named, and
takes as much disk twice.

    python benchmarks/data.py --json [--cases ingest,snapshot,windows,mqtt,opcua,large] [--rows 4000000]
        [--store-rows 16000000] [--seconds 60] [--short]
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import sources
from meters import Peak, memory

from interplant.core.contract import Column, Contract
from interplant.core.schema import Source, Split, Task, Window
from interplant.core.targets import VALUE, Target
from interplant.data import door
from interplant.data.dvc_session import object_stores
from interplant.data.ingest import Brought, ingest, take
from interplant.data.repository import Repository
from interplant.data.snapshots import reader_of
from interplant.data.sources import Batch, Place, open_source
from interplant.data.store import Store

SENSORS, MACHINES = 14, 50
CONTRACT = Contract(
    clock="timestamp", time="at", label="wear", sensors={f"s{n}": Column("", 0, 100) for n in range(SENSORS)}
)
START = 1_767_225_600_000_000
DAY = 86_400_000_000


@dataclass(frozen=True)
class Result:
    """One figure.

    Args:
        case: What was measured.
        value: The figure.
        unit: Its unit.
        bar: What it is held to; None: nothing.
        holds: Whether it keeps the bar: ratios of speed at least, all else at most.
    """

    case: str
    value: float
    unit: str
    bar: float | None = None
    holds: bool = True


def readings(rows: int, day: int, seed: int = 0) -> pa.Table:
    """Readings of all machines over one day, in the order of time."""
    rng = np.random.default_rng([seed, day])
    ticks = np.repeat(np.arange(rows // MACHINES), MACHINES)
    times = START + day * DAY + ticks * (DAY // max(1, rows // MACHINES))
    columns = {
        "machine": pa.array(np.tile([f"press-{n}" for n in range(MACHINES)], rows // MACHINES)),
        "at": pa.array(times, pa.timestamp("us", "UTC")),
        **{name: np.round(rng.random(len(ticks)) * 100, 3) for name in CONTRACT.sensors},
        "wear": rng.random(len(ticks)),
    }
    return pa.table(columns).select(door.layout(CONTRACT).names)


def measure_ingest(folder: Path, rows: int) -> Iterator[Result]:
    """Ingest of one CSV and one Parquet file against pyarrow alone, the two in turns."""
    table = pa.concat_tables([readings(rows // 4, day) for day in range(4)])
    pyarrow.csv.write_csv(table, folder / "readings.csv")
    pq.write_table(table, folder / "readings.parquet")
    del table
    for kind in ("csv", "parquet"):
        path = folder / f"readings.{kind}"
        ratios = []
        for turn in range(3):
            os.sync()
            begun = time.monotonic()
            whole = pyarrow.csv.read_csv(path) if kind == "csv" else pq.read_table(path)
            pq.write_table(whole, folder / "plain.parquet")
            with (folder / "plain.parquet").open("rb") as file:
                os.fsync(file.fileno())
            plain = time.monotonic() - begun
            del whole
            begun = time.monotonic()
            brought = bring(path, folder / f"{kind}-{turn}")
            ours = time.monotonic() - begun
            assert (brought.rows, brought.bad) == (rows, 0), brought
            ratios.append(plain / ours)
            yield Result(f"{kind} ingest, seconds", round(ours, 2), "s")
        ratio = sorted(ratios)[1]
        yield Result(f"{kind} ingest, speed of pyarrow alone", round(ratio, 2), "x", 0.5, ratio >= 0.5)


def bring(path: Path, folder: Path) -> Brought:
    """Bring one file into a new store."""
    source = Source(name="files", kind="folder", args={"path": str(path), "settle_seconds": 0.01})
    store = Store(folder / "store", CONTRACT)
    feed = open_source(source, Place(folder, folder / "state", CONTRACT))
    (brought,) = ingest(store, [(source, feed)], False, threading.Event())
    return brought


def fill(store: Store, days: int, rows: int) -> None:
    for day in range(days):
        store.add(readings(rows // days, day))
    store.settle()


def measure_snapshot(folder: Path, rows: int) -> Iterator[Result]:
    """The second snapshot, after 1 % of the partitions changed, against the first."""
    store = Store(folder / "store", CONTRACT)
    repository = Repository.create(folder / "data", folder / "remote")
    fill(store, 20, rows)
    with object_stores(repository.path):
        pass  # what a command imports once
    settled()
    begun = time.monotonic()
    made = repository.freeze(store)
    first = time.monotonic() - begun
    layout = door.layout(CONTRACT)
    changed = store.partitions()[::100]
    for one in changed:
        row = {name: [1.0] for name in layout.names} | {"machine": [one.machine], "at": [int(one.first) + 1]}
        store.add(pa.table(row, schema=layout))
    store.settle()
    settled()
    begun = time.monotonic()
    again = repository.freeze(store)
    second = time.monotonic() - begun
    assert again.rows == made.rows + len(changed)
    yield Result("snapshot, first", round(first, 2), "s")
    yield Result("snapshot, 1 % of partitions changed", round(second, 2), "s")
    share = second / first
    yield Result("snapshot, second of the first", round(share, 4), "share", 0.05, share <= 0.05)


def settled() -> None:
    """Leave neither writes nor garbage of what went before to what is measured next."""
    os.sync()
    gc.collect()


def measure_windows(folder: Path, rows: int) -> Iterator[Result]:
    """Memory for the windows of a store, in a process of its own."""
    store = Store(folder / "store", CONTRACT)
    fill(store, 20, rows)
    Repository.create(folder / "data", folder / "remote").freeze(store)
    size = sum(one.rows for one in store.partitions()) * (SENSORS + 2) * 8 / 1e9
    done = subprocess.run(
        [sys.executable, __file__, "--draw", str(folder)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    yield Result("windows, readings", round(size, 2), "GB in memory")
    yield Result("windows, seconds to cut", found["cut"], "s")
    yield Result("windows, seconds for 200 batches of 256", found["draw"], "s")
    peak = found["peak"]
    yield Result("windows, peak memory beyond the start", peak, "MB", 300, peak <= 300)


def draw(folder: Path) -> None:
    """Cut the windows of a repository and draw batches; print what it took."""
    import torch

    from interplant.data.mapped import Cut, mapped_windows

    contract = CONTRACT
    task = Task(
        name="wear", contract=contract, window=Window(30), split=Split("unit", 0.2),
        target=Target(kind=VALUE, low=0.0, high=1.0),
    )  # fmt: skip
    snapshot = Repository(folder / "data").open()
    reader = reader_of(snapshot)
    assert reader is not None
    start = memory([os.getpid()]).pss
    with watched() as peak:
        begun = time.monotonic()
        windows = mapped_windows(reader, task, folder / "windows", Cut())
        cut = time.monotonic() - begun
        rng = np.random.default_rng(0)
        begun = time.monotonic()
        for _ in range(200):
            torch.from_numpy(windows.x[rng.integers(0, len(windows), 256)]).sum()
        took = time.monotonic() - begun
    print(json.dumps({"cut": round(cut, 2), "draw": round(took, 3), "peak": round(peak.pss - start, 1)}))


class Stored:
    """Keeps a source's batches in a store, as `interplant data ingest --watch` does; see `sources.Sink`."""

    def __init__(self, contract: Contract, source: Source, folder: Path, since: datetime | None) -> None:
        self.store, self.source = Store(folder / "store", contract), source
        self.since, self.brought = since, Brought(source.name)

    def __call__(self, batch: Batch) -> None:
        """Bring a batch in."""
        take(self.store, self.source, replace(batch, kept=lambda: None), self.brought)

    def _tables(self) -> Iterator[pa.Table]:
        self.store.settle()
        for one in self.store.partitions():
            yield self.store.read(one)

    def unique(self) -> int:
        """Readings in the store; where time is a moment, single values since the first was expected.

        A value that is a broken sensor's status is kept too, in quarantine.
        """
        if self.since is None:
            self.store.settle()
            return sum(one.rows for one in self.store.partitions())
        found = self.store.quarantine.rows()
        for table in self._tables():
            own = table.filter(pc.greater_equal(table.column("at"), pa.scalar(self.since)))
            found += sum(len(own) - own.column(name).null_count for name in self.store.contract.sensors)
        return found

    def doubled(self) -> int:
        """Readings of which another with the same machine and time stands in the store."""
        contract = self.store.contract
        keys = [table.select([contract.machine, contract.time]) for table in self._tables()]
        table = pa.concat_tables(keys)
        return len(table) - len(table.group_by([contract.machine, contract.time]).aggregate([]))


def measure_large(folder: Path, gigabytes: float) -> Iterator[Result]:
    """Ingest of one CSV file of many gigabytes, in a process of its own."""
    path, rows, day = folder / "readings.csv", 0, 0
    with path.open("wb") as file:
        while file.tell() < gigabytes * 1e9:
            table = readings(500_000 if gigabytes >= 1 else 5_000, day)
            options = pyarrow.csv.WriteOptions(include_header=not day)
            pyarrow.csv.write_csv(table, file, options)
            rows, day = rows + len(table), day + 1
    size = path.stat().st_size / 1e9
    done = subprocess.run(
        [sys.executable, __file__, "--bring", str(path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert (found["rows"], found["bad"]) == (rows, 0), found
    yield Result("large file, size", round(size, 2), "GB")
    yield Result("large file, readings in the store", found["rows"], "readings", rows, found["rows"] == rows)
    yield Result("large file, seconds", found["seconds"], "s")
    yield Result("large file, peak memory beyond the start", found["peak"], "MB")


def bring_alone(path: Path) -> None:
    """Bring one file into a new store beside it; print what it took."""
    start = memory([os.getpid()]).pss
    with watched() as peak:
        begun = time.monotonic()
        brought = bring(path, path.parent)
        seconds = round(time.monotonic() - begun, 1)
    rows = sum(one.rows for one in Store(path.parent / "store", CONTRACT).partitions())
    assert rows == brought.rows, (rows, brought)
    peak_megabytes = round(peak.pss - start, 1)
    print(json.dumps({"rows": rows, "bad": brought.bad, "seconds": seconds, "peak": peak_megabytes}))


def measure_mqtt(folder: Path, seconds: float) -> Iterator[Result]:
    """10 000 readings a second into a store, the broker stopped and started twice."""
    yield from _streamed("mqtt", sources.mqtt(seconds, 10_000, Stored))


def measure_opcua(folder: Path, seconds: float) -> Iterator[Result]:
    """200 nodes at 10 Hz into a store, the server stopped and started twice."""
    yield from _streamed("opcua", sources.opcua(seconds, 200, 10.0, Stored))


def _streamed(case: str, outcome: sources.Outcome) -> Iterator[Result]:
    for one in sources.results(case, outcome):
        yield Result(**one)


@contextmanager
def watched() -> Iterator[Peak]:
    """Look at this process's memory all the while."""
    peak, stop = Peak(lambda: memory([os.getpid()])), threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak.look()

    thread = threading.Thread(target=watch)
    thread.start()
    yield peak
    stop.set()
    thread.join()
    peak.look()


CASES = {
    "ingest": measure_ingest,
    "snapshot": measure_snapshot,
    "windows": measure_windows,
    "mqtt": measure_mqtt,
    "opcua": measure_opcua,
    "large": measure_large,
}
USUAL = [name for name in CASES if name != "large"]


SHORT = {"mqtt": 6.0, "opcua": 12.0, "large": 0.02}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=4_000_000, help="readings of ingest")
    parser.add_argument("--store-rows", type=int, default=16_000_000, help="readings of snapshot and windows")
    parser.add_argument("--seconds", type=float, default=60.0, help="of mqtt and opcua")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of large")
    parser.add_argument("--cases", default=",".join(USUAL), help=f"some of {','.join(CASES)}")
    parser.add_argument(
        "--short", action="store_true", help="few readings: shows that it runs, decides nothing"
    )
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bring", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.draw:
        draw(words.draw)
        return
    if words.bring:
        bring_alone(words.bring)
        return
    sizes = {"ingest": words.rows, "snapshot": words.store_rows, "windows": words.store_rows}
    sizes |= {"mqtt": words.seconds, "opcua": words.seconds, "large": words.gigabytes}
    cases, results = words.cases.split(","), []
    if len(cases) > 1:
        # Each in a process of its own: none is measured with what another has left in memory.
        for case in cases:
            command = [sys.executable, __file__, *sys.argv[1:], "--json", "--cases", case]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            results += [Result(**one) for one in json.loads(done.stdout)["results"]]
    else:
        with tempfile.TemporaryDirectory(prefix="interplant-data-") as place:
            own = SHORT.get(cases[0], 20_000) if words.short else sizes[cases[0]]
            results += CASES[cases[0]](Path(place), own)
    document = {
        "machine": platform.processor() or platform.machine(),
        "results": [asdict(one) for one in results],
    }
    if words.json:
        print(json.dumps(document, indent=1))
        return
    for one in results:
        print(
            f"{one.case}: {one.value} {one.unit}"
            + (f" (bar {one.bar}: {one.holds})" if one.bar is not None else "")
        )


if __name__ == "__main__":
    main()
