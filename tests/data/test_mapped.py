"""Windows in a file: those of the tables in memory, bit for bit, whatever a machine's record looks like."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interplant.core.contract import Column, Contract
from interplant.core.errors import Refusal
from interplant.core.schema import Split, Task, Window
from interplant.core.targets import CLASS, EVENT, TIME, VALUE, Target
from interplant.data import door, mapped, partitions
from interplant.data.frozen import Frozen, FrozenReader
from interplant.data.late import Late
from interplant.data.mapped import Cut, mapped_windows
from interplant.data.pieces import dataset_of
from interplant.data.store import Store
from interplant.data.windows import Windows, last_windows, training_windows

SENSORS = {"a": Column("", 0, 10), "b": Column("", -5, 5)}
COUNTED = Contract(label="y", cycle="lot", gap=3, sensors=SENSORS)
STAMPED = Contract(label="y", clock="timestamp", time="at", gap=90, sensors=SENSORS)
HELD = Contract(label="y", interval=2, hold=4, gap=8, sensors=SENSORS)
TARGETS = {
    TIME: Target(cap=9.0),
    VALUE: Target(kind=VALUE, low=0, high=3),
    EVENT: Target(kind=EVENT, horizon=2),
    CLASS: Target(kind=CLASS, classes=[0, 1, 2]),
}


def frozen(folder: Path, contract: Contract, machines: list[dict[str, Any]]) -> FrozenReader:
    """A store's readings, as they lie in a snapshot's folder."""
    layout = door.layout(contract)
    kept = Store(folder / "store", contract)
    for columns in machines:
        size = len(columns[contract.time])
        own = {name: columns.get(name, [None] * size) for name in layout.names}
        kept.add(pa.table(own, schema=layout))
        said = columns.get("said", [])
        kept.correct(lambda said=said: said)  # type: ignore[misc]
    kept.settle()
    content = Frozen.of(kept.readings, kept.partitions(), contract, False, kept.held.versions())
    content.place(folder / "readings", {})
    return FrozenReader(folder / "readings", content.hashes)


def in_memory(reader: FrozenReader, task: Task, cut: Cut) -> Windows:
    dataset = dataset_of(reader, task.split)
    frame = dataset.holdout if cut.held else dataset.train
    return (last_windows if cut.last else training_windows)(frame, task, cut.checked)


def same(reader: FrozenReader, task: Task, folder: Path, cut: Cut = Cut()) -> None:  # noqa: B008 # frozen
    expected = in_memory(reader, task, cut)
    found = mapped_windows(reader, task, folder / "windows", cut)
    order = np.lexsort((found.machine,))
    assert found.x.shape == expected.x.shape
    assert np.array_equal(found.machine[order], expected.machine)
    assert np.array_equal(found.y[order], expected.y)
    assert found.x[order].tobytes() == np.asarray(expected.x).tobytes()


def machine(
    contract: Contract, name: str, times: list[int], rng: np.random.Generator, *, known: float, said: float
) -> dict[str, Any]:
    size, scale = len(times), 1_000_000 if contract.clock == "timestamp" else 1.0
    partial = contract.hold > 0

    def some(values: Any, share: float) -> list[float | None]:
        return [float(value) if rng.random() < share else None for value in values]

    corrections = [
        Late(
            name, time * scale, "y", float(rng.integers(0, 2)), "", "",
            float(rng.choice([0, 2])), rng.random(), f"{time}"
        )
        for time in times
        if rng.random() < said
    ]  # fmt: skip
    return {
        "said": corrections,
        "machine": [name] * size, contract.time: [time * scale for time in times],
        "lot": [float(time // 7) for time in times],
        "a": some(rng.uniform(-9, 19, size), 0.7 if partial else 1.0),
        "b": some(rng.uniform(-14, 14, size), 0.7 if partial else 1.0),
        "y": some(rng.integers(0, 2, size), known),
    }  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    contract=st.sampled_from([COUNTED, STAMPED, HELD]),
    kind=st.sampled_from(sorted(TARGETS)),
    window=st.sampled_from(
        [Window(4), Window(1), Window(5, stride=3), Window(4, features=["mean", "slope"])]
    ),
    split=st.sampled_from([Split("unit", 0.4), Split("time", 0.3)]),
    records=st.lists(
        st.lists(st.integers(0, 40), min_size=1, max_size=25, unique=True), min_size=1, max_size=4
    ),
    known=st.sampled_from([1.0, 0.8, 0.0]),
    said=st.sampled_from([0.0, 0.3]),
    cut=st.builds(Cut, held=st.booleans(), last=st.booleans(), checked=st.booleans()),
    seed=st.integers(0, 99),
)
def test_they_are_the_windows_of_the_tables(
    tmp_path_factory: pytest.TempPathFactory, contract: Contract, kind: str, window: Window, split: Split,
    records: list[list[int]], known: float, said: float, cut: Cut, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("mapped")
    machines = [
        machine(contract, f"m{place}", sorted(times), rng, known=known, said=said)
        for place, times in enumerate(records)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "BLOCK", 16)
        patch.setattr(partitions, "DAY", 16_000_000)
        reader = frozen(folder, contract, machines)
    task = Task(name="t", contract=contract, window=window, target=TARGETS[kind], split=split)
    try:
        if cut.held and dataset_of(reader, split).holdout.empty:
            assert len(mapped_windows(reader, task, folder / "windows", cut)) == 0
            return
        in_memory(reader, task, cut)
    except Refusal as refusal:
        with pytest.raises(Refusal, match=refusal.code):
            mapped_windows(reader, task, folder / "windows", cut)
        return
    same(reader, task, folder, cut)


def ramp(name: str, size: int) -> dict[str, Any]:
    values = np.linspace(0, 10, size)
    return {"machine": [name] * size, "cycle": np.arange(float(size)), "a": values, "b": values / 3}


TASK = Task(
    name="t", contract=Contract(label="y", sensors=SENSORS), window=Window(4), split=Split("unit", 0.01)
)


def test_a_record_that_ends_with_the_failure_needs_no_label(tmp_path: Path) -> None:
    reader = frozen(tmp_path, TASK.contract, [ramp("1", 9), ramp("2", 3), ramp("3", 12)])
    same(reader, TASK, tmp_path)


def test_windows_are_cut_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = frozen(tmp_path, TASK.contract, [ramp("1", 9), ramp("2", 9)])
    first = mapped_windows(reader, TASK, tmp_path / "windows", Cut())
    monkeypatch.setattr(mapped, "_cut", None)
    again = mapped_windows(reader, TASK, tmp_path / "windows", Cut())
    assert np.array_equal(first.x[:], again.x[:])


def test_windows_that_were_half_cut_are_cut_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = frozen(tmp_path, TASK.contract, [ramp("1", 9), ramp("2", 9)])
    with monkeypatch.context() as patch:
        patch.setattr(mapped, "write_atomic", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mapped_windows(reader, TASK, tmp_path / "windows", Cut())
    (tmp_path / "windows" / mapped.ROWS).write_bytes(b"half")
    same(reader, TASK, tmp_path)


def test_pages_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "DROPPED", 1)
    reader = frozen(tmp_path, TASK.contract, [ramp("1", 500), ramp("2", 500)])
    same(reader, TASK, tmp_path)


def test_only_the_windows_used_last_are_kept(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / str(number)).mkdir()
    mapped.forget_windows(tmp_path, "0")
    assert len(list(tmp_path.iterdir())) == 5
    assert (tmp_path / "0").is_dir()


def test_too_many_strays_over_all_machines_are_refused(tmp_path: Path) -> None:
    contract = replace(TASK.contract, sensors={"a": Column("", 0, 0.1), "b": SENSORS["b"]})
    reader = frozen(tmp_path, TASK.contract, [ramp("1", 9), ramp("2", 9)])
    with pytest.raises(Refusal, match="column 'a': far outside its declared range"):
        mapped_windows(reader, replace(TASK, contract=contract), tmp_path / "windows", Cut())
