"""The door: what keeps the contract goes in as the contract says it, what breaks it is told why."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from interplant.core.contract import Column, Condition, Contract
from interplant.core.errors import UsageError
from interplant.core.schema import Source
from interplant.data import door, parsing, reasons

PRESS = Contract(
    clock="timestamp",
    time="at",
    zone="Europe/Berlin",
    label="scrap",
    never=["cause"],
    sensors={"temperature": Column("degC", 0, 100), "force": Column("kN", 0, 10)},
)
COUNTED = Contract(sensors={"s": Column("", 0, 1)})
HISTORIAN = Source(name="historian", kind="folder")
NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
GOOD: dict[str, Any] = {"machine": "press-1", "at": "2026-03-01T10:00:00Z", "temperature": 20.0, "force": 5.0}


def admit(contract: Contract = PRESS, source: Source = HISTORIAN, **columns: Any) -> door.Admitted:
    """Send one reading through the door; a column given as ``...`` is not there."""
    row = {name: [value] for name, value in (GOOD | columns).items() if value is not ...}
    return door.admit(pa.table(row), contract, source, "here", now=NOW)


def why(admitted: door.Admitted) -> list[tuple[str, str, str | None]]:
    rows = admitted.bad.select(["_rule", "_column", "_value"]).to_pylist()
    return [(row["_rule"], row["_column"], row["_value"]) for row in rows]


def test_a_good_reading_goes_in_as_the_contract_lays_it_out() -> None:
    admitted = admit()
    assert admitted.good.schema == door.layout(PRESS)
    (row,) = admitted.good.to_pylist()
    assert row == {
        "machine": "press-1", "at": datetime(2026, 3, 1, 10, tzinfo=UTC), "temperature": 20.0, "force": 5.0,
        "scrap": None, "cause": None,
    }  # fmt: skip
    assert not len(admitted.bad)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"machine": None}, ("machine", "machine", None)),
        ({"machine": "  "}, ("machine", "machine", "")),
        ({"machine": ...}, ("column", "machine", None)),
        ({"at": "yesterday"}, ("time", "at", "yesterday")),
        ({"at": None}, ("time", "at", None)),
        ({"at": 1772359200}, ("time", "at", "1772359200")),
        ({"at": 20260105}, ("time", "at", "20260105")),
        ({"at": "20260105"}, ("time", "at", "20260105")),
        ({"at": "2026"}, ("time", "at", "2026")),
        ({"at": "2026-10-25T02:30:00"}, ("clock_change", "at", "2026-10-25T02:30:00")),
        ({"at": "2026-03-29T02:30:00"}, ("clock_change", "at", "2026-03-29T02:30:00")),
        ({"at": "2026-06-01T01:00:00Z"}, ("ahead", "at", "2026-06-01T01:00:00Z")),
        ({"temperature": ...}, ("column", "temperature", None)),
        ({"temperature": None}, ("missing", "temperature", None)),
        ({"temperature": ""}, ("missing", "temperature", "")),
        ({"temperature": "warm"}, ("type", "temperature", "warm")),
        ({"temperature": "1,5"}, ("type", "temperature", "1,5")),
        ({"temperature": [1.0]}, ("type", "temperature", "[1.0]")),
        ({"temperature": "inf"}, ("finite", "temperature", "inf")),
        ({"temperature": np.nan}, ("finite", "temperature", "nan")),
        ({"temperature": 200.1}, ("range", "temperature", "200.1")),
        ({"temperature": "-100.5"}, ("range", "temperature", "-100.5")),
        ({"scrap": "perhaps"}, ("type", "scrap", "perhaps")),
    ],
)
def test_what_breaks_the_contract_goes_to_quarantine_with_rule_column_and_value(
    columns: dict[str, Any], reason: tuple[str, str, str | None]
) -> None:
    admitted = admit(**columns)
    assert why(admitted) == [reason]
    assert not len(admitted.good)
    assert reason[0] in reasons.RULES
    (row,) = admitted.bad.to_pylist()
    assert (row["_source"], row["_origin"]) == ("historian", "here")


@pytest.mark.parametrize(
    ("written", "hour"),
    [
        ("2026-03-01T10:00:00", 9),  # Berlin, winter
        ("2026-05-01 10:00:00", 8),  # Berlin, summer
        ("2026-03-01T10:00:00+05:00", 5),
        ("2026-03-01T10:00:00Z", 10),
        ("2026-03-01", 23),
        ("20260301T100000", 9),
        (datetime(2026, 3, 1, 10), 9),
        (datetime(2026, 3, 1, 10, tzinfo=UTC), 10),
    ],
)
def test_times_are_kept_in_utc(written: Any, hour: int) -> None:
    (row,) = admit(at=written).good.to_pylist()
    assert row["at"].hour == hour


@pytest.mark.parametrize(
    ("unit", "number"), [("s", 1772359200), ("ms", 1772359200000), ("us", 1772359200000000)]
)
def test_a_number_is_a_moment_only_in_the_unit_that_the_source_declares(unit: str, number: int) -> None:
    declared = Source(name="plc", kind="mqtt", units={"at": unit})
    (row,) = admit(source=declared, at=number).good.to_pylist()
    assert row["at"] == datetime(2026, 3, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_nanoseconds_are_kept_as_microseconds(zone: str | None) -> None:
    moment = pa.array([1767225600000000123]).cast(pa.timestamp("ns", zone))
    (row,) = at(moment, replace(PRESS, zone="UTC")).good.to_pylist()
    assert row["at"] == datetime(2026, 1, 1, tzinfo=UTC)


def at(moments: pa.Array, contract: Contract = PRESS) -> door.Admitted:
    """Send a reading for each of these times through the door."""
    rows = {name: [value] * len(moments) for name, value in GOOD.items()}
    return door.admit(pa.table(rows | {"at": moments}), contract, HISTORIAN, "here", now=NOW)


@pytest.mark.parametrize("hold", [0, 1])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize(
    "moments",
    [
        *(pa.array([-(2**63), 2**63 - 1, 2**62]).cast(pa.timestamp(unit, zone))
          for unit in ("s", "ms", "us") for zone in (None, "UTC", "Asia/Tokyo")),
        pa.array([2**61, -(2**61)]).cast(pa.timestamp("us")),
        pa.array([2**61]).cast(pa.date64()),
        pa.array([2**31 - 1, -(2**31), 3_000_000], pa.int32()).cast(pa.date32()),
        pa.array(["9999-12-31T23:59:59", "0001-01-01"]),
        pa.array(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-05:00"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_time_that_no_calendar_has_goes_to_quarantine(moments: pa.Array, zone: str, hold: float) -> None:
    admitted = at(moments, replace(PRESS, zone=zone, hold=hold))
    assert admitted.bad.column("_rule").to_pylist() == ["time"] * len(moments)
    assert not len(admitted.good)


@pytest.mark.parametrize("number", [2.0**61, -(2.0**61), 1e300])
def test_a_number_that_is_no_moment_of_any_calendar_goes_to_quarantine(number: float) -> None:
    declared = Source(name="plc", kind="mqtt", units={"at": "us"})
    assert [rule for rule, *_ in why(admit(source=declared, at=number))] == ["time"]


@pytest.mark.parametrize(
    "cell",
    [
        pa.array([2**61]).cast(pa.timestamp("us")),
        pa.array([0]).cast(pa.timestamp("us", "Nowhere/Land")),
        pa.array([-(2**63)]).cast(pa.time64("ns")),
        pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
        pa.array([[2**61]], pa.list_(pa.timestamp("us"))),
    ],
    ids=lambda cell: str(cell.type),
)
@pytest.mark.parametrize("hold", [0, 1])
def test_what_python_has_no_value_for_is_told_of_in_quarantine(cell: pa.Array, hold: float) -> None:
    row = pa.table({name: [value] for name, value in (GOOD | {"force": 5.0}).items()})
    row = row.set_column(row.column_names.index("temperature"), "temperature", cell)
    admitted = door.admit(row, replace(PRESS, hold=hold), HISTORIAN, "here", now=NOW)
    ((rule, column, value),) = why(admitted)
    assert (rule, column) == ("type", "temperature")
    assert value


def test_a_machines_name_may_be_a_half_float() -> None:
    table = pa.table({"machine": pa.array(np.array([7.0], np.float16)), "cycle": [1], "s": [0.5]})
    assert door.admit(table, COUNTED, HISTORIAN, "here").good.column("machine").to_pylist() == ["7"]


def test_an_unknown_unit_of_times_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"units\.at: expected one of s, ms, us, ns, found 'fortnight'"):
        admit(source=Source(name="plc", kind="mqtt", units={"at": "fortnight"}))


def test_units_are_converted_as_the_source_declares_them() -> None:
    declared = Source(name="plc", kind="mqtt", units={"temperature": "degF", "force": "N"})
    (row,) = admit(source=declared, temperature=68.0, force=5000.0).good.to_pylist()
    assert row["temperature"] == pytest.approx(20.0)
    assert row["force"] == pytest.approx(5.0)


def test_a_range_is_that_of_the_contracts_unit() -> None:
    declared = Source(name="plc", kind="mqtt", units={"temperature": "degF"})
    assert why(admit(source=declared, temperature=500.0)) == [("range", "temperature", "500")]


def test_names_of_the_source_become_the_contracts() -> None:
    source = Source(name="plc", kind="mqtt", columns={"T1": "temperature"}, machine="press-9")
    (row,) = admit(source=source, machine=..., temperature=..., T1=33.0).good.to_pylist()
    assert (row["machine"], row["temperature"]) == ("press-9", 33.0)


def test_a_machines_number_is_its_name() -> None:
    table = pa.table({"machine": [7.0, 7.5], "cycle": [1, 2], "s": [0.5, 0.5]})
    good = door.admit(table, COUNTED, HISTORIAN, "here").good
    assert good.column("machine").to_pylist() == ["7", "7.5"]


def test_what_is_older_than_the_contract_allows_is_late() -> None:
    contract = Contract(late=10, sensors={"s": Column("", 0, 1)})
    table = pa.table({"machine": ["a", "a", "b"], "cycle": [89, 90, 5], "s": [0.5, 0.5, 0.5]})
    admitted = door.admit(table, contract, HISTORIAN, "here", newest={"a": 100.0})
    assert why(admitted) == [("late", "cycle", "89")]
    assert len(admitted.good) == 2


def test_each_operating_condition_has_its_own_range() -> None:
    contract = Contract(
        settings={"speed": Column("rpm", 0, 100)},
        sensors={"s": Column("", 0, 100)},
        conditions=[
            Condition("slow", {"speed": 0.0}, {"s": [0, 10]}),
            Condition("fast", {"speed": 100.0}, {"s": [90, 100]}),
        ],
    )
    table = pa.table({"machine": [1, 1], "cycle": [1, 2], "speed": [1.0, 99.0], "s": [50.0, 95.0]})
    admitted = door.admit(table, contract, HISTORIAN, "here")
    assert why(admitted) == [("range", "s", "50")]


def test_a_reading_may_be_partial_where_the_contract_holds_values_over() -> None:
    contract = Contract(hold=5, sensors={"a": Column("", 0, 1), "b": Column("", 0, 1)})
    table = pa.table({"machine": [1, 1], "cycle": [1, 2], "a": [0.5, None]})
    admitted = door.admit(table, contract, HISTORIAN, "here")
    assert len(admitted.good) == 1
    assert why(admitted) == [("missing", "a", None)]


def test_a_partial_reading_keeps_its_other_inputs_when_one_is_broken() -> None:
    contract = Contract(hold=5, sensors={name: Column("", 0, 1) for name in "abc"})
    table = pa.table(
        {
            "machine": ["1"] * 4,
            "cycle": [1, 2, 3, 4],
            "a": ["0.5", "BadSensorFailure", "99", "inf"],
            "b": [0.1, 0.2, None, None],
            "c": [0.3, 77.0, None, 0.4],
        }
    )
    admitted = door.admit(table, contract, HISTORIAN, "here")
    assert admitted.good.select(["cycle", "a", "b", "c"]).to_pylist() == [
        {"cycle": 1.0, "a": 0.5, "b": 0.1, "c": 0.3},
        {"cycle": 2.0, "a": None, "b": 0.2, "c": None},
        {"cycle": 4.0, "a": None, "b": None, "c": 0.4},
    ]
    assert why(admitted) == [
        ("range", "a", "99"), ("type", "a", "BadSensorFailure"), ("finite", "a", "inf"),
    ]  # fmt: skip
    assert reasons.own(admitted.bad).select(["cycle", "a", "b", "c"]).to_pylist() == [
        {"cycle": "3", "a": "99", "b": None, "c": None},
        {"cycle": "2", "a": "BadSensorFailure", "b": None, "c": "77"},
        {"cycle": "4", "a": "inf", "b": None, "c": None},
    ]
    assert (admitted.good_rows.tolist(), admitted.bad_rows.tolist()) == ([0, 1, 3], [2, 1, 3])


def test_two_columns_of_one_name_are_told_apart() -> None:
    row = pa.Table.from_arrays(
        [pa.array([1]), pa.array([1]), pa.array([0.5]), pa.array([9])], ["machine", "cycle", "s", "s"]
    )
    assert door.admit(row, COUNTED, HISTORIAN, "here").good.column("s").to_pylist() == [0.5]


@pytest.mark.parametrize("names", [["a", "a", "a#1"], ["_rule", "_value", "_rule"], ["_origin", "a#0", "a"]])
def test_a_sources_own_names_hide_no_reason_in_quarantine(names: list[str]) -> None:
    row = pa.Table.from_arrays([pa.array([1])] * 3, names)
    bad = door.admit(row, COUNTED, HISTORIAN, "here").bad
    assert bad.column("_rule").to_pylist() == ["column"]
    assert len(set(bad.column_names)) == len(bad.column_names)


CELLS = st.one_of(
    st.none(), st.text(max_size=12), st.floats(), st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["2026-03-01T10:00:00Z", "2026-10-25T02:30:00", "0000-00-00", "1e999", "NaN", "\x00"]),
).map(lambda cell: cell if cell is None or isinstance(cell, str) else repr(cell))  # fmt: skip


def three(cells: st.SearchStrategy[Any], kind: pa.DataType) -> st.SearchStrategy[pa.Array]:
    """Columns of three cells."""
    return st.lists(cells, min_size=3, max_size=3).map(lambda own: pa.array(own, kind))


def counted(kind: pa.DataType, low: int, high: int) -> st.SearchStrategy[pa.Array]:
    """Columns of three values of a kind that counts in whole numbers, any that fits."""
    plain = pa.int32() if kind.bit_width == 32 else pa.int64()
    near = st.integers(max(low, -(2**40)), min(high, 2**40))
    cells = st.integers(low, high) | near | st.sampled_from([low, high]) | st.none()
    return three(cells, plain).map(lambda own: own.cast(kind))


INT32, INT64 = (-(2**31), 2**31 - 1), (-(2**63), 2**63 - 1)
MOMENTS = [
    pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo")
]
LASTING = [pa.duration(unit) for unit in ("s", "ms", "us", "ns")]
COLUMN = st.one_of(
    three(CELLS, pa.string()),
    three(CELLS, pa.large_string()),
    three(CELLS, pa.string()).map(lambda own: own.dictionary_encode()),
    three(st.floats() | st.none(), pa.float64()),
    three(st.integers(*INT64) | st.none(), pa.int64()),
    three(st.integers(0, 2**64 - 1) | st.none(), pa.uint64()),
    three(st.integers(*INT64) | st.none(), pa.int64()).map(lambda own: own.dictionary_encode()),
    three(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9)
          | st.none(), pa.decimal128(38, 2)),
    three(st.integers(-(10**70), 10**70) | st.none(), pa.decimal256(76, 0)),
    three(st.booleans() | st.none(), pa.bool_()),
    three(st.binary(max_size=4) | st.none(), pa.binary()),
    three(st.lists(st.integers(0, 9), max_size=2), pa.list_(pa.int64())),
    st.just(pa.nulls(3)),
    st.sampled_from([*MOMENTS, *LASTING, pa.date64()]).flatmap(lambda kind: counted(kind, *INT64)),
    counted(pa.date32(), *INT32),
    counted(pa.time32("ms"), 0, 86_399_999),
    counted(pa.time64("ns"), 0, 86_399_999_999_999),
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    columns=st.dictionaries(
        st.sampled_from(
            ["machine", "at", "cycle", "temperature", "force", "scrap", "cause", "s", "other", ""]
        ),
        COLUMN,
    ),
    contract=st.sampled_from([PRESS, COUNTED, replace(COUNTED, hold=1), replace(PRESS, hold=1)]),
    unit=st.sampled_from(["", "ms"]),
)
@example(  # a label that came apart from its reading
    columns={"machine": pa.array(["0"] * 3), "at": pa.array([0.0] * 3), "scrap": pa.array([0.0] * 3)},
    contract=PRESS,
    unit="ms",
)
def test_no_reading_is_lost_at_the_door_whatever_comes(
    columns: dict[str, pa.Array], contract: Contract, unit: str
) -> None:
    table = pa.table(columns) if columns else pa.table({"x": pa.nulls(3)})
    source = Source(name="plc", kind="mqtt", units={contract.time: unit} if unit else {})
    admitted = door.admit(table, contract, source, "here", newest={"1": 5.0}, now=NOW)
    every = len(admitted.good) + len(admitted.bad) + len(admitted.labels)
    assert every >= 3 if contract.hold else every == 3
    assert admitted.good.schema == door.layout(contract)
    assert set(admitted.bad.column("_rule").to_pylist()) <= set(reasons.RULES)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("007", "007"),
        (" 7.0 ", "7"),
        ("7", "7"),
        ("00000000000000000001", "00000000000000000001"),
        ("7.5", "7.5"),
    ],
)
def test_a_machine_has_one_name_however_its_column_was_read(written: str, name: str) -> None:
    table = pa.table({"machine": [written], "cycle": [1], "s": [0.5]})
    assert door.admit(table, COUNTED, HISTORIAN, "here").good.column("machine").to_pylist() == [name]


def test_two_large_numbers_are_two_machines() -> None:
    table = pa.table({"machine": [2.0**60, 2.0**63], "cycle": [1, 1], "s": [0.5, 0.5]})
    assert len(set(door.admit(table, COUNTED, HISTORIAN, "here").good.column("machine").to_pylist())) == 2


def test_a_column_is_written_out_once_however_many_rows_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    texts = parsing.texts
    monkeypatch.setattr(parsing, "texts", lambda column: written.append(len(column)) or texts(column))
    table = pa.table({"machine": ["1"] * 50, "cycle": list(range(50)), "s": [9.0] * 50})
    assert len(door.admit(table, COUNTED, HISTORIAN, "here").bad) == 50
    assert len(written) <= 8


def test_the_quarantine_keeps_the_sources_own_names() -> None:
    crossed = Source(name="plc", kind="mqtt", columns={"force": "temperature", "temperature": "force"})
    (row,) = admit(source=crossed, temperature=3.0, force="x").bad.to_pylist()
    assert (row["_column"], row["_value"]) == ("temperature", "x")
    assert (row["row.force"], row["row.temperature"]) == ("x", "3")
