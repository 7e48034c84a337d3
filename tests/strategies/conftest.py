"""Small models, updates, and one round of a strategy by hand; the same through Flower's own."""

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from interplant.core.flower import Envelope, message

WEIGHTS = {
    "layer.weight": np.array([[1.0, -2.0, 0.25], [3.0, 4.0, 0.0]], np.float32),
    "bias": np.float32([5.0]),
    "scale": np.array(0.5, np.float32),
}


def updates(count, seed=0, weights=WEIGHTS, size=0.1):
    """Normal updates in the shapes and dtypes of the weights."""
    rng = np.random.default_rng(seed)
    return [
        {
            name: np.asarray(size * rng.normal(size=array.shape), array.dtype)
            for name, array in weights.items()
        }
        for _ in range(count)
    ]


def one_round(strategy, weights, several, state=None, scratch=None, public=()):
    """Fold updates and finish; returns the next weights and state."""
    merge = strategy.begin(weights, scratch)
    for number, update in enumerate(several):
        strategy.fold(merge, update, *public[number : number + 1])
    return strategy.finish(merge, weights, strategy.init(weights) if state is None else state)


def column(values, dtype=np.float32):
    """Updates of a model with one weight."""
    return [{"w": np.array([value], dtype)} for value in values]


def flowers(strategy, rounds):
    """Weights after rounds of Flower's own strategy.

    It averages weights, so each update is added to the global weights first. Some of its strategies
    return float64 for float32; the weights keep their dtype here.

    Args:
        strategy: One of `flwr.serverapp.strategy`.
        rounds: The updates of each round.
    """
    weights = WEIGHTS
    for number, several in enumerate(rounds, start=1):
        strategy.current_arrays = _as_it_keeps_them(strategy, weights)
        replies = [_reply({name: weights[name] + one[name] for name in weights}) for one in several]
        record, _ = strategy.aggregate_train(number, replies)
        weights = {name: np.asarray(array.numpy(), WEIGHTS[name].dtype) for name, array in record.items()}
    return weights


def _as_it_keeps_them(strategy, weights):
    """What `configure_train` would keep: it needs a whole grid for that."""
    kept = ArrayRecord({name: Array(np.asarray(array)) for name, array in weights.items()})
    return kept if type(strategy).__name__ == "FedAvgM" else {key: kept[key].numpy() for key in kept}


def _reply(arrays):
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()}),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    return message(Envelope("", 7, 100, 0, "train", "1", "asked"), content)


def close(found, expected, tolerance=1e-6):
    """Equal names, shapes and dtypes, and values within a tolerance."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (np.shape(array), array.dtype)
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance, err_msg=name)
