"""A reply is checked before it touches the merge; each kind of bad one has its name."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interplant.core.errors import REFUSALS
from interplant.core.flower import Envelope, message
from interplant.core.flower import arrays as held
from interplant.server.updates import BadUpdateError, checked

from .conftest import receipt_of

WEIGHTS = {"conv.weight": np.ones((2, 3), np.float32), "scale": np.ones((), np.float32)}
GOOD = {"conv.weight": np.full((2, 3), 0.5, np.float32), "scale": np.array(0.25, np.float32)}
RECEIPT = receipt_of()
ENVELOPE = Envelope("", 1, 2, 0, "train", "1", "run.1.2")


def reply_of(records):
    return message(ENVELOPE, RecordDict(records))


def reply(arrays=None, receipt=None, **extra):
    arrays = ArrayRecord({name: Array(array) for name, array in (arrays or GOOD).items()})
    return reply_of({"update": arrays, "receipt": ConfigRecord(receipt or RECEIPT), **extra})


def refused(found, max_norm=100.0):
    with pytest.raises(BadUpdateError) as failed:
        checked(found, WEIGHTS, max_norm)
    assert "\n" not in str(failed.value)
    return failed.value


def test_a_good_update_is_what_was_sent():
    update = checked(reply(), WEIGHTS, 100.0)
    assert update.receipt == RECEIPT
    assert update.arrays.keys() == GOOD.keys()
    for name, array in GOOD.items():
        np.testing.assert_array_equal(update.arrays[name], array)


def test_an_update_that_lies_in_a_file_is_checked_without_a_copy():
    """Flower's bytes of it would be a second update in memory."""
    record = held(GOOD)
    update = checked(reply_of({"update": record, "receipt": ConfigRecord(RECEIPT)}), WEIGHTS, 100.0)
    for name, array in GOOD.items():
        assert update.arrays[name] is array
        assert "data" not in record[name].__dict__


def test_the_norm_of_a_large_array_is_exact():
    """Sums of many squares in float32 would stop growing."""
    weights = {"w": np.zeros((1 << 20, 5), np.float32)}
    arrays = held({"w": np.full((1 << 20, 5), 3, np.float32)})
    found, norm = reply_of({"update": arrays, "receipt": ConfigRecord(RECEIPT)}), 3 * np.sqrt(5 << 20)
    checked(found, weights, norm + 1e-6)
    with pytest.raises(BadUpdateError, match="norm"):
        checked(found, weights, norm - 1e-6)


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"scale": GOOD["scale"]}, "bad_names", "conv.weight"),
        (GOOD | {"extra": np.ones(1, np.float32)}, "bad_names", "extra"),
        ({f"_module.{name}": array for name, array in GOOD.items()}, "bad_names", "_module"),
        (GOOD | {"conv.weight": np.ones((3, 2), np.float32)}, "bad_shape", "expected (2, 3), found (3, 2)"),
        (GOOD | {"conv.weight": np.ones(6, np.float32)}, "bad_shape", "conv.weight"),
        (GOOD | {"scale": np.ones(1, np.float32)}, "bad_shape", "expected (), found (1,)"),
        (GOOD | {"conv.weight": np.ones((2, 3), np.float64)}, "bad_dtype", "expected float32, found float64"),
        (GOOD | {"conv.weight": np.ones((2, 3), np.int32)}, "bad_dtype", "found int32"),
        (GOOD | {"conv.weight": np.ones((2, 3), ">f4")}, "bad_dtype", "found >f4"),
        (GOOD | {"scale": np.array(np.nan, np.float32)}, "not_finite", "scale"),
        (GOOD | {"scale": np.array(-np.inf, np.float32)}, "not_finite", "scale"),
        (GOOD | {"conv.weight": np.full((2, 3), 1e9, np.float32)}, "norm", "2.45e+09"),
        (GOOD | {"conv.weight": np.full((2, 3), 3e38, np.float32)}, "norm", "at most 100"),
    ],
)
def test_bad_arrays_are_named(arrays, code, words):
    error = refused(reply(arrays))
    assert error.code == code
    assert words in str(error)


def test_one_value_that_is_not_finite_among_many_is_found():
    for index in range(6):
        array = GOOD["conv.weight"].copy()
        array.flat[index] = np.nan
        assert refused(reply(GOOD | {"conv.weight": array})).code == "not_finite"


def test_the_norm_is_over_all_arrays_together():
    arrays = {"conv.weight": np.full((2, 3), 1, np.float32), "scale": np.array(2, np.float32)}
    checked(reply(arrays), WEIGHTS, np.sqrt(10) + 1e-9)
    assert refused(reply(arrays), np.sqrt(10) - 1e-6).code == "norm"


@given(
    hnp.arrays(
        np.float32, (2, 3), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)
    )
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_any_values_pass_exactly_if_finite_and_bounded(array):
    finite = bool(np.isfinite(array).all())
    size = float(np.linalg.norm(array.astype(np.float64))) if finite else 0.0
    found = reply(GOOD | {"conv.weight": array, "scale": np.array(0, np.float32)})
    if finite and size <= 50:
        checked(found, WEIGHTS, 50.0)
    else:
        assert refused(found, 50.0).code == ("norm" if finite else "not_finite")


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"receipt": ConfigRecord(RECEIPT)},
        {"weights": ArrayRecord({name: Array(array) for name, array in GOOD.items()})},
        {"update": ConfigRecord(RECEIPT)},
        {
            "update": ArrayRecord({name: Array(array) for name, array in GOOD.items()}),
            "data": ArrayRecord({"rows": Array(np.ones(9))}),
            "receipt": ConfigRecord(RECEIPT),
        },
    ],
)
def test_only_the_update_may_hold_arrays(records):
    assert refused(reply_of(records)).code == "bad_names"


@pytest.mark.parametrize(
    "receipt",
    [
        {key: value for key, value in RECEIPT.items() if key != "epsilon"},
        RECEIPT | {"rows": 1234},
        RECEIPT | {"epsilon": "0.5"},
        RECEIPT | {"epsilon": float("nan")},
        RECEIPT | {"epsilon": float("inf")},
        RECEIPT | {"epsilon": -0.5},
        RECEIPT | {"delta": [1e-5]},
        RECEIPT | {"simulated": "yes"},
        RECEIPT | {"simulated": 1},
        RECEIPT | {"plant": 3},
        RECEIPT | {"plant": b"north"},
        RECEIPT | {"snapshot": "x" * 301},
        RECEIPT | {"epsilon": 0.1},
        RECEIPT | {"signature": ""},
        RECEIPT | {"signer": "AAAA"},
        RECEIPT | {"unit": "window\x1b[2J"},
        RECEIPT | {"mechanism": "dp-sgd\nplant south: fine"},
    ],
)
def test_a_receipt_has_its_keys_types_and_sensible_values(receipt):
    error = refused(reply(receipt=receipt))
    assert error.code == "bad_receipt"
    assert "expected a" in str(error) or "signature" in str(error)


def test_without_a_receipt():
    found = reply_of({"update": ArrayRecord({name: Array(array) for name, array in GOOD.items()})})
    assert refused(found).code == "bad_receipt"


@pytest.mark.parametrize(
    "extra", [{"metrics": MetricRecord({"loss": 0.5})}, {"more": ConfigRecord({"rows": 7})}]
)
def test_nothing_is_smuggled_beside_the_update(extra):
    assert refused(reply(**extra)).code == "bad_receipt"


def npy(head):
    text = head.encode().ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    return Array("float32", (2, 3), "numpy.ndarray", data)


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (2, 3), "numpy.ndarray", b""),
        Array("float32", (2, 3), "numpy.ndarray", b"nonsense"),
        Array("float32", (2, 3), "numpy.ndarray", b"\x80\x04\x95pickle"),
        Array("float32", (2, 3), "numpy.ndarray", b"PK\x03\x04zip"),
        Array("float32", (2, 3), "numpy.ndarray", b"PK\x05\x06" + bytes(18)),
        Array("float32", (2, 3), "torch.Tensor", b"PK\x03\x04"),
        Array("float32", (2, 3), "numpy.ndarray", bytes(100_000)),
        npy("{'descr': '<f4', 'shape': (2, 3), 'fortran_order': 0}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 3), }"),
    ],
)
def test_arrays_that_cannot_be_read_are_bad_and_no_fault(array):
    """Flower's own wire carries npy files, which a stranger may have written."""
    records = {name: Array(value) for name, value in GOOD.items()} | {"conv.weight": array}
    found = reply_of({"update": ArrayRecord(records), "receipt": ConfigRecord(RECEIPT)})
    assert refused(found).code == "bad_shape"


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_a_refusal_is_told_in_our_own_sentence(code):
    error = refused(message(ENVELOPE, None, Error(0, code)))
    assert (error.code, str(error)) == (code, REFUSALS[code])


@pytest.mark.parametrize("reason", ["", None, "row 7: 431.2 K", "Traceback (most recent call last)"])
def test_a_refusal_with_a_reason_that_is_not_ours(reason):
    error = refused(message(ENVELOPE, None, Error(0, reason)))
    assert (error.code, str(error)) == ("internal", REFUSALS["internal"])


def metrics(**values):
    return reply(metrics=MetricRecord(values))


def test_metrics_of_the_task_are_what_was_sent():
    assert checked(metrics(loss=-0.5), WEIGHTS, 100.0, {"loss", "units"}).metrics == {"loss": -0.5}
    assert checked(reply(), WEIGHTS, 100.0, {"loss"}).metrics == {}


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (metrics(rows=7.0), "bad_receipt"),
        (metrics(loss=0.5, rows=7.0), "bad_receipt"),
        (metrics(loss=7), "bad_receipt"),
        (metrics(loss=[0.5, 0.5]), "bad_receipt"),
        (reply(figures=MetricRecord({"loss": 0.5})), "bad_receipt"),
        (reply(metrics=MetricRecord({"loss": 0.5}), figures=MetricRecord({"loss": 0.5})), "bad_receipt"),
        (metrics(loss=float("nan")), "not_finite"),
        (metrics(loss=float("inf")), "not_finite"),
        (metrics(loss=float("-inf")), "not_finite"),
    ],
)
def test_a_metric_has_a_name_of_the_task_and_one_finite_value(found, code):
    with pytest.raises(BadUpdateError) as failed:
        checked(found, WEIGHTS, 100.0, {"loss", "units"})
    assert failed.value.code == code
