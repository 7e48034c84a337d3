import copy
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from interplant.core.contract import Column, Contract
from interplant.core.errors import Refusal
from interplant.core.possible import Impossible
from interplant.data.contract import Violation, check, condition_of, limits, require, usable

Make = Callable[..., pd.DataFrame]


def frame(rows: int = 200) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "machine": np.repeat([1, 2], rows // 2),
            "cycle": np.tile(np.arange(rows // 2), 2),
            "height": 0.0,
            "speed": 0.0,
            "heat": 50.0,
            "flow": 5.0,
        }
    )


def rules(violations: list[Violation]) -> list[tuple[str, str, int]]:
    return [(one.rule, one.column, one.count) for one in violations]


def test_good_readings_break_nothing(contract: Contract) -> None:
    assert check(frame(), contract) == []
    assert check(frame().assign(rul=3), contract) == []
    require(frame(), contract)


def test_a_missing_column_is_one_clear_sentence(contract: Contract) -> None:
    broken = frame().drop(columns="heat")
    assert rules(check(broken, contract)) == [("missing", "heat", 0)]
    with pytest.raises(Refusal, match="column 'heat': expected by the contract, not in the data") as refusal:
        require(broken, contract)
    assert refusal.value.code == "contract"
    assert "\n" not in str(refusal.value)


def test_an_extra_column_is_named_and_does_not_block(contract: Contract) -> None:
    extra = frame().assign(operator="Anna")
    assert rules(check(extra, contract)) == [("extra", "operator", 0)]
    require(extra, contract)


@pytest.mark.parametrize(
    ("column", "values"),
    [("heat", "50"), ("machine", 1.5), ("machine", "press-1"), ("flow", None), ("cycle", True)],
)
def test_a_wrong_type_is_named(contract: Contract, column: str, values: object) -> None:
    broken = frame().assign(**{column: values})
    found = [one for one in check(broken, contract) if one.rule == "type"]
    assert [one.column for one in found] == [column]
    assert str(broken[column].dtype) in str(found[0])
    with pytest.raises(Refusal):
        require(broken, contract)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_blocks(contract: Contract, bad: float) -> None:
    broken = frame()
    broken.loc[7, "flow"] = bad
    assert rules(check(broken, contract)) == [("finite", "flow", 1)]
    with pytest.raises(Refusal, match="in 1 of 200 rows"):
        require(broken, contract)


def test_one_width_beyond_the_range_is_still_accepted(contract: Contract) -> None:
    edge = frame()
    edge.loc[0, "heat"], edge.loc[1, "heat"] = -100.0, 200.0
    assert check(edge, contract) == []
    edge.loc[0, "heat"] = -100.1
    assert rules(check(edge, contract)) == [("range", "heat", 1)]


def test_one_stray_reading_is_reported_and_a_wrong_unit_refused(contract: Contract) -> None:
    stray = frame()
    stray.loc[0, "flow"] = 1e9
    require(stray, contract)
    kelvin = frame().assign(heat=frame()["heat"] + 273.0)
    with pytest.raises(Refusal, match="'heat': far outside its declared range, 0 to 200 K"):
        require(kelvin, contract)


def test_the_range_is_that_of_the_nearest_condition(contract: Contract) -> None:
    high = frame().assign(height=9.0, speed=0.9, heat=290.0)
    assert check(high, contract) == []
    assert rules(check(high.assign(height=1.0, speed=0.1), contract)) == [("range", "heat", 200)]


def test_a_machine_has_each_cycle_once(contract: Contract) -> None:
    twice = pd.concat([frame(), frame().head(3)], ignore_index=True)
    assert rules(check(twice, contract)) == [("duplicate", "cycle", 3)]
    with pytest.raises(Refusal, match="expected each cycle once per machine"):
        require(twice, contract)


def test_several_violations_are_counted_in_the_sentence(contract: Contract) -> None:
    with pytest.raises(Refusal, match=r"'heat'.*\(and 1 more\)"):
        require(frame().drop(columns=["heat", "flow"]), contract)


def altered(contract: Contract, key: str, value: object) -> Contract:
    """The contract with one value changed, by its key; the part of a key after a dot is a column's."""
    found = copy.deepcopy(contract)
    if key == "condition":
        found.conditions[0].centre = {**found.conditions[0].centre, "height": float("inf")}
    elif key in ("low", "high"):
        setattr(found.sensors["heat"], key, value)
    elif key == "ranges":
        found.conditions[0].ranges = {"heat": value}
    else:
        setattr(found, key, value)
    return found


INF = float("inf")


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("high", INF, "sensors.heat"),
        ("low", -INF, "sensors.heat"),
        ("high", float("nan"), "sensors.heat"),
        ("ranges", [0, INF], "conditions.0.ranges.heat"),
        ("ranges", [0, 10**400], "conditions.0.ranges.heat"),
        ("condition", INF, "conditions.0.centre.height"),
        *((key, INF, key) for key in ("interval", "gap", "hold", "late", "ahead")),
    ],
)
def test_a_number_that_is_not_finite_is_in_no_contract(
    contract: Contract, key: str, value: object, where: str
) -> None:
    with pytest.raises(Impossible, match="finite number") as refused:
        altered(contract, key, value).check()
    assert refused.value.key == where


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("label", "cycle", "label"),
        ("machine", "cycle", "time"),
        ("cycle", "machine", "cycle"),
        ("never", ["cause", "rul"], "never"),
        ("never", ["cause", "cause"], "never"),
        ("label", "height", "settings"),
        ("label", "heat", "sensors"),
        ("sensors", {"height": Column("K", 0, 1)}, "sensors"),
    ],
)
def test_a_column_has_one_meaning(contract: Contract, key: str, value: object, where: str) -> None:
    wrong = altered(contract, key, value)
    wrong.conditions = []
    with pytest.raises(Impossible, match=r"expected (a column|columns|inputs)") as refused:
        wrong.check()
    assert refused.value.key == where


def test_no_rows_is_refused(contract: Contract) -> None:
    with pytest.raises(Refusal, match="no rows"):
        require(frame().head(0), contract)


def test_distance_to_a_condition_is_in_declared_widths(contract: Contract) -> None:
    # In raw units 2 kft outweigh 0.9 Mach; in declared widths they do not.
    settings = np.array([[0.0, 0.0], [10.0, 1.0], [2.0, 0.95], [8.0, 0.1]])
    assert condition_of(settings, contract).tolist() == [0, 1, 1, 0]


def test_limits_fall_back_to_the_columns_own_range(contract: Contract) -> None:
    low, high = limits(np.array([[10.0, 1.0]]), contract)
    assert low.tolist() == [[0.0, 0.0, 100.0, 0.0]]
    assert high.tolist() == [[10.0, 1.0, 200.0, 10.0]]
    contract.conditions = []
    assert limits(np.array([[10.0, 1.0]]), contract)[1].tolist() == [[10.0, 1.0, 200.0, 10.0]]


def test_a_cell_that_is_no_number_is_its_own_readings_affair(contract: Contract, readings: Make) -> None:
    """Left out with its reading where it tells the machine or the time, else not a number."""
    good = usable(readings(6, 5), contract)
    for column, kept in (("machine", 10), ("cycle", 10), ("heat", 11)):
        frame = readings(6, 5)
        frame[column] = frame[column].astype(str)
        frame.loc[2, column] = "n/a"
        try:
            found = usable(frame, contract)
        except ValueError as error:
            pytest.fail(f"one cell decides: {error}")
        assert len(found) == kept
        assert found["machine"].dtype == np.int64
        rest = found.drop(index=2) if column == "heat" else found
        pd.testing.assert_frame_equal(rest.reset_index(drop=True), good.drop(index=2).reset_index(drop=True))


@pytest.mark.parametrize("odd", [1.5, np.inf, -np.inf, 1e300, np.nan])
def test_a_reading_without_a_whole_machine_belongs_to_none(
    contract: Contract, readings: Make, odd: float
) -> None:
    frame = readings(4).astype({"machine": float})
    frame.loc[1, "machine"] = odd
    assert usable(frame, contract)["cycle"].tolist() == [1.0, 3.0, 4.0]


def test_a_missing_column_is_no_readings_affair(contract: Contract, readings: Make) -> None:
    with pytest.raises(Refusal, match="'flow'"):
        usable(readings(4).drop(columns="flow"), contract)
