"""How many harmful releases a plant's gate lets pass, and how many helpful ones.

    python benchmarks/gate.py --json [--each 500] [--machines 100] [--whole 8] [--jobs 2]

Four plants of the simulator, several times over. At each, a champion is trained on the data of all four,
not to its end, and challengers are made from it as releases are: by training on, or by spoiling it. What
each is worth by truth is its error on `TRUTH` machines of the same plant that nothing else has seen, beside
the champion's. A challenger is harmful if that error is at least 5 % higher, helpful if it is at least 5 %
lower; a third of either kind lies between 5 and 10 %, a third between 10 and 20 %, a third beyond, as far
as they can be had.

    harmful: noise on the weights; training on labels that are turned round; a merge of four plants of
    which one sends the opposite; training on another plant's machines alone.
    helpful: training on with the machines of all plants; merges of four plants that train on.

Not counted among them: ``helpful, trained anew`` starts from other weights than the champion's, errs
elsewhere, and is harder to tell from it.

Each is held against the champion on a hold-out of its own, ``--machines`` drawn from `POOL`, by the gate's
own code and defaults, in a plant that has not tried anything before (the first try). ``--whole`` of them go
through the whole gate besides: signed releases, a plant's directory with Git and DVC, the child that runs
the ONNX. ``in sequence`` says what comes of them where a plant tries all on one hold-out, one after the
other, and the gate counts. Intervals are Clopper and Pearson's, 95 %.
"""

import argparse
import itertools
import json
import multiprocessing
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from scipy.stats import binomtest

from interplant.client import comparison, deployment, gate, holdout, receiving, tries
from interplant.client.champion import activate
from interplant.client.directory import PlantDirectory
from interplant.core import config, export, measures, models, release, signing
from interplant.core.measures import Predicted
from interplant.core.release import Lineage, Participant
from interplant.core.schema import Connection, Plant, ReleasePolicy, Task
from interplant.core.targets import scaled
from interplant.core.tensors import Tensors
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.data.windows import Windows, training_windows
from interplant.privacy.training import train
from interplant.server.packaging import PackageOrder, package

TRUTH, POOL = 300, 400
"""Machines of each plant by which truth is known, and others of which hold-outs are drawn."""

MACHINES = 24
"""Machines in a plant's record, to train on."""

STRATA = ((0.05, 0.10), (0.10, 0.20), (0.20, float("inf")))
SIZES = (24, 50, 100, 200)
"""Held-out machines for which the shares are shown."""

WORDS = ["window.stride=5", "model.args={width: 16, hidden: 32}"]
"""Changes to the built-in task: fewer windows and a smaller network than its own, for speed alone."""

POLICY = ReleasePolicy()


@dataclass(frozen=True)
class Challenger:
    """A model beside its plant's champion.

    Args:
        kind: How it was made.
        effect: By how much its error is higher by truth, as a share; below 0 it is better.
        weights: The model.
        predicted: Of the windows of the pool (N,).
    """

    kind: str
    effect: float
    weights: Tensors
    predicted: export.Floats

    @property
    def stratum(self) -> int:
        """Which of `STRATA` its effect lies in."""
        return next(place for place, (low, high) in enumerate(STRATA) if low <= abs(self.effect) < high)


class Scene:
    """One plant with its champion.

    Args:
        task: What is learned.
        plant: Which of the simulator's plants, 0 to 3.
        seed: Of everything.
    """

    def __init__(self, task: Task, plant: int, seed: int) -> None:
        self.task, self.plant = task, plant
        self.random = np.random.default_rng([seed, plant])
        self.plants = [training_windows(simulate(one, MACHINES, seed).train, task) for one in range(4)]
        # Its first machines are those of the plant's record; those that are held out come after all of them.
        self.readings = simulate(plant, TRUTH + POOL, seed).holdout
        every = training_windows(self.readings, task)
        self.truth, self.pool = (_some(every, own) for own in (every.machine <= TRUTH, every.machine > TRUTH))
        steps = int(self.random.integers(5, 30))
        self.champion = self.trained(models.parameters(models.build(task)), self.plants, steps, 0.004)
        self._error = self.error(self.champion)
        self.predicted = self.predict(self.champion, self.pool)

    def predict(self, weights: Tensors, windows: Windows) -> export.Floats:
        """Predict windows with a model."""
        model = models.build(self.task)
        models.set_parameters(model, weights)
        return export.predict(model, windows.x[:])

    def error(self, weights: Tensors) -> float:
        """A model's error by truth."""
        return measures.error(self.task.target, Predicted(self.predict(weights, self.truth), self.truth.y))

    def trained(
        self, start: Tensors, on: list[Windows], steps: int, rate: float, turned: float = 0.0
    ) -> Tensors:
        """Train on from ``start``; a share of the labels is turned round."""
        x, y = (np.concatenate([getattr(one, part)[:] for one in on]) for part in ("x", "y"))
        spoiled = self.random.random(len(y)) < turned
        y = np.where(spoiled, self.task.target.cap - y, y).astype(np.float32)
        model = models.build(self.task)
        models.set_parameters(model, start)
        training = replace(self.task.training, steps=steps, learning_rate=rate)
        seed = int(self.random.integers(1 << 31))
        made = train(model, x, scaled(self.task.target, y), training, None, lambda: None, seed=seed)
        return {name: value + made.update[name] for name, value in start.items()}

    def going(self, kind: str) -> Iterator[Tensors]:
        """Go away from the champion, step by step: each state is a challenger of this kind."""
        chance, now = self.random, self.champion
        rate = float(np.exp(chance.uniform(np.log(3e-4), np.log(4e-3))))
        if kind == "trained anew":
            now = models.parameters(models.build(replace(self.task, seed=int(chance.integers(1, 1 << 31)))))
            for _ in range(STATES):
                now = self.trained(now, self.plants, 25, 0.003)
                yield now
        elif kind == "noise":
            drawn = {name: one.std() * chance.standard_normal(one.shape) for name, one in now.items()}
            for size in np.geomspace(0.03, 0.6, STATES):
                yield moved(now, [drawn], [float(size)])
        elif kind == "one plant poisoned":
            own = [self.trained(now, [one], 5, rate) for one in self.plants]
            changes = [{name: one[name] - now[name] for name in now} for one in own]
            bad = int(chance.integers(4))
            for times in np.geomspace(0.3, 30.0, STATES):
                yield moved(now, changes, [-0.25 * times if one == bad else 0.25 for one in range(4)])
        elif kind == "merged":
            for _ in range(STATES):
                own = [self.trained(now, [one], 3, rate) for one in self.plants]
                now = moved(now, [{name: one[name] - now[name] for name in now} for one in own], [0.25] * 4)
                yield now
        else:
            other = self.plants[(self.plant + int(chance.integers(1, 4))) % 4]
            on = [other] if kind == "another plant's regime" else self.plants
            turned = float(chance.uniform(0.2, 1.0)) if kind == "label flip" else 0.0
            for _ in range(STATES):
                now = self.trained(now, on, 8, rate, turned)
                yield now

    def one(self, kind: str, sign: float, wanted: dict[int, int]) -> Challenger | None:
        """Make one challenger whose stratum is wanted most; None if this time there is none."""
        found = []
        for weights in self.going(kind):
            error = self.error(weights)
            effect = error / self._error - 1.0
            if np.isfinite(error) and sign * effect >= STRATA[0][0]:
                found.append(Challenger(kind, effect, weights, np.empty(0, np.float32)))
        best = max(found, key=lambda one: (wanted[one.stratum], self.random.random()), default=None)
        return best and replace(best, predicted=self.predict(best.weights, self.pool))


def moved(start: Tensors, changes: list[Tensors], weights: list[float]) -> Tensors:
    """Add a weighted sum of changes."""
    return {
        name: value + sum(w * one[name] for w, one in zip(weights, changes, strict=True)).astype(np.float32)
        for name, value in start.items()
    }


HARMFUL = ("noise", "label flip", "one plant poisoned", "another plant's regime")
HELPFUL = ("trained on", "merged")
ANEW = ("trained anew",)

IN_SEQUENCE = 24
"""Tries on one hold-out."""

AT_ONCE = 24
"""Harmful, and helpful, challengers of one champion."""

STATES = 5
"""Models on the way from a champion to what a kind makes of it, of which at most one becomes a challenger."""

ATTEMPTS = 2
"""Ways that are gone for each challenger, at most: not every champion can be made better that way."""


def collected(scene: Scene, kinds: tuple[str, ...], each: int) -> list[Challenger]:
    """Make up to ``each`` challengers at a plant, kinds in turn, strata in equal parts where that can be."""
    sign = 1.0 if kinds is HARMFUL else -1.0
    wanted = dict.fromkeys(range(len(STRATA)), -(-each // len(STRATA)))
    found: list[Challenger] = []
    for turn in range(ATTEMPTS * each):
        made = scene.one(kinds[turn % len(kinds)], sign, wanted)
        if made is not None:
            wanted[made.stratum] -= 1
            found.append(made)
        if len(found) == each:
            break
    return found


def promoted(scene: Scene, one: Challenger, machines: np.ndarray[Any, Any], level: float) -> bool:
    """Ask the gate about a challenger on a hold-out of these machines."""
    own = np.isin(scene.pool.machine, machines)
    windows = _some(scene.pool, own)
    target = scene.task.target
    rivals = {holdout.CHAMPION: (target, Predicted(scene.predicted[own], windows.y))}
    nothing = Dataset(scene.readings.iloc[:0], scene.readings.iloc[:0], simulated=True)
    held = holdout.Holdout(nothing, windows, rivals)
    units = comparison.units_of(windows.machine, -(-scene.task.window.length // scene.task.window.stride))
    found = gate.judge(held, scene.task, Predicted(one.predicted[own], windows.y), units, POLICY, level)
    return found[holdout.CHAMPION].passed


def drawn(scene: Scene, machines: int) -> np.ndarray[Any, Any]:
    return scene.random.choice(np.arange(TRUTH + 1, TRUTH + POOL + 1), machines, replace=False)


@dataclass(frozen=True)
class Tried:
    """What came of one challenger.

    Args:
        kind: How it was made.
        effect: See `Challenger`.
        fresh: Whether it was promoted in a plant that had tried nothing, by held-out machines.
        later: Whether it was as one of many that were tried on one hold-out.
        try_: Which of them.
    """

    kind: str
    effect: float
    fresh: dict[int, bool]
    later: bool
    try_: int


def shares(tried: list[Tried], machines: int) -> dict[str, Any]:
    """Return the share of first tries that were promoted, of all and by effect."""
    names = [f"{100 * low:.0f} % to {100 * high:.0f} %" for low, high in STRATA[:-1]]
    names.append(f"{100 * STRATA[-1][0]:.0f} % and more")
    strata = {
        name: _share([one.fresh[machines] for one in tried if low <= abs(one.effect) < high])
        for name, (low, high) in zip(names, STRATA, strict=True)
    }
    return _share([one.fresh[machines] for one in tried]) | {"by effect": strata}


def _share(passed: list[bool]) -> dict[str, Any]:
    if not passed:
        return {"share": None, "promoted": 0, "of": 0}
    ends = binomtest(sum(passed), len(passed)).proportion_ci(0.95, "exact")
    return {
        "share": sum(passed) / len(passed),
        "interval": [ends.low, ends.high],
        "promoted": sum(passed),
        "of": len(passed),
    }


def in_sequence(scene: Scene, every: list[Challenger], machines: int) -> list[tuple[bool, int]]:
    """Try some of a plant's challengers on one hold-out, in an order by chance; the champion stays.

    Returns:
        Of each whether it was promoted, and which try it was; 0 if it was not tried.
    """
    alpha, before = 1.0 - POLICY.confidence, list[tries.Try]()
    own, found = drawn(scene, machines), [(False, 0)] * len(every)
    for place in map(int, scene.random.permutation(len(every))[:IN_SEQUENCE]):
        level = tries.level(before, alpha)
        passed = promoted(scene, every[place], own, level)
        before.append(tries.Try(str(place), "", "", len(before) + 1, level, passed))
        found[place] = (passed, len(before))
    return found


class Whole:
    """The whole gate of one plant: its directory, its data's repository, signed releases.

    Args:
        scene: The plant and its champion.
        folder: An empty one.
        machines: Held out.
    """

    def __init__(self, scene: Scene, folder: Path, machines: np.ndarray[Any, Any]) -> None:
        self.scene, self.folder = scene, folder
        plant = Plant(name="north", federation="bench", connection=Connection("localhost:7443"))
        plant.policy.tasks, plant.policy.models = [scene.task.name], [scene.task.model.name]
        plant.policy.release.approval = "auto"
        self.plant = PlantDirectory(folder / "plant")
        self.plant.keys.mkdir(parents=True)
        self.plant.config.write_text(config.to_yaml(plant))
        self.plant.snapshot_key.write_bytes(bytes(32))
        key = signing.make_key()
        (folder / "release.key").write_bytes(signing.key_pem(key))
        self.plant.release_public_key.write_bytes(signing.public_pem(key.public_key()))
        own = scene.readings["machine"].isin(machines)
        record = simulate(scene.plant, MACHINES, 0).train
        readings = Dataset(record, scene.readings[own].reset_index(drop=True), simulated=True)
        Repository.create(self.plant.data, self.plant.remote).snapshot(readings)
        self.receive("champion", scene.champion)
        activate(self.plant, "champion")

    def promoted(self, number: int, one: Challenger) -> bool:
        """Try a challenger as the plant's first; what the plant remembers of it is taken back."""
        name = f"r-{number}"
        folder = self.receive(name, one.weights)
        passed = deployment.try_release(self.plant, folder).state == "active"
        shutil.rmtree(self.plant.tries)
        activate(self.plant, "champion")
        return passed

    def receive(self, name: str, weights: Tensors) -> Path:
        """Package and sign a release, and have the plant take it."""
        task = self.scene.task
        north = Participant("north", {"ab" * 32: 3}, 3, "dp-sgd", "window", 0.7, 1e-5, True)
        lineage = Lineage(
            name, "run-1", task.name, release.task_digest(task), "0.1.0", "1", None,
            "2025-05-01T10:00:00+00:00", 3, "grpc", True, True, (north,),
        )  # fmt: skip
        save_file(weights, self.folder / "merged.safetensors")
        order = PackageOrder(self.folder / "merged.safetensors", task, lineage, self.folder / "release.key")
        package(order, self.folder / "sent" / name)
        shutil.copytree(self.folder / "sent" / name, receiving.incoming(self.plant, name), dirs_exist_ok=True)
        return receiving.accept(self.plant, name).folder


def whole(scene: Scene, every: list[Challenger], machines: int, count: int) -> list[bool]:
    """Return of some challengers whether the whole gate says what `promoted` says."""
    own = drawn(scene, machines)
    level = tries.level([], 1.0 - POLICY.confidence)
    chosen = [every[int(place)] for place in scene.random.permutation(len(every))[:count]]
    with tempfile.TemporaryDirectory() as folder:
        plant = Whole(scene, Path(folder), own)
        return [
            plant.promoted(number, one) == promoted(scene, one, own, level)
            for number, one in enumerate(chosen)
        ]


def _some(windows: Windows, own: np.ndarray[Any, Any]) -> Windows:
    return Windows(windows.x[:][own], windows.y[own], windows.machine[own])


@dataclass(frozen=True)
class Order:
    """What is done at one plant.

    Args:
        seed: The plant, and of everything.
        machines: Held out.
        whole: Challengers that go the whole way.
        each: Harmful, and helpful, challengers at most.
    """

    seed: int
    machines: int
    whole: int
    each: int


def done(order: Order) -> tuple[list[Tried], list[Tried], list[bool], int]:
    """Try challengers at one plant.

    Returns:
        Those that count; those that were trained anew; whether the whole gate agreed; windows held out.
    """
    import torch

    torch.set_num_threads(1)
    scene = Scene(config.load(builtin("turbofan"), Task, WORDS), order.seed % 4, order.seed // 4)
    every = collected(scene, HARMFUL, order.each) + collected(scene, HELPFUL, order.each)
    anew = collected(scene, ANEW, -(-order.each // 6))
    agreed = whole(scene, every, order.machines, order.whole) if order.whole else []
    held = int(np.isin(scene.pool.machine, drawn(scene, order.machines)).sum())
    first = tries.level([], 1.0 - POLICY.confidence)
    fresh: list[dict[int, bool]] = [{} for _ in (*every, *anew)]
    for size in sorted({*SIZES, order.machines}):
        for one, found in zip((*every, *anew), fresh, strict=True):
            found[size] = promoted(scene, one, drawn(scene, size), first)
    later = in_sequence(scene, every, order.machines) + [(False, 0)] * len(anew)
    tried = [
        Tried(one.kind, one.effect, found, *so)
        for one, found, so in zip((*every, *anew), fresh, later, strict=True)
    ]
    return tried[: len(every)], tried[len(every) :], agreed, held


def measured(each: int, machines: int, count: int, jobs: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Go from plant to plant until there are enough challengers of both kinds."""
    orders = (
        Order(seed, machines, max(0, min(4, count - 4 * seed)), min(AT_ONCE, each))
        for seed in range(4 * each)
    )
    harmful, helpful, anew = list[Tried](), list[Tried](), list[Tried]()
    agreed, held = list[bool](), list[int]()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        while min(len(harmful), len(helpful)) < each:
            for found, others, same, windows in pool.map(done, itertools.islice(orders, 2 * jobs)):
                harmful += [one for one in found if one.effect > 0]
                helpful += [one for one in found if one.effect < 0]
                anew, agreed, held = anew + others, agreed + same, [*held, windows]
                tell(f"{len(harmful)} harmful, {len(helpful)} helpful of {each}")
    harmful, helpful = harmful[:each], helpful[:each]
    said = f"on {machines} held-out machines, first try"
    results = [
        result(f"harmful challengers promoted, at least 5 % worse, {said}", shares(harmful, machines), 0.02),
        result(f"helpful challengers promoted, at least 5 % better, {said}", shares(helpful, machines), 0.90),
    ]
    if agreed:
        same = {"share": sum(agreed) / len(agreed), "of": len(agreed)}
        results.append(result("verdicts of the whole gate that are the same", same, 1.0))
    return {
        "results": results,
        "settings": settings(machines, held),
        "observed": observed(harmful, helpful, anew),
    }


def settings(machines: int, held: list[int]) -> dict[str, Any]:
    return {
        "margin": POLICY.margin,
        "confidence": POLICY.confidence,
        "level of the first try": tries.level([], 1.0 - POLICY.confidence),
        "held-out machines": machines,
        "held-out windows": statistics.median(held),
        "task": WORDS,
    }


def observed(harmful: list[Tried], helpful: list[Tried], anew: list[Tried]) -> dict[str, Any]:
    """What has no bar."""
    groups = {"harmful": harmful, "helpful": helpful, "helpful, trained anew from other weights": anew}
    every = [*harmful, *helpful, *anew]
    sizes = sorted(every[0].fresh)
    later = {"tries 1 to 5": (1, 5), "tries 6 to 20": (6, 20), "tries 21 to 24": (21, 24)}
    return {
        "median effect": {
            name: statistics.median(one.effect for one in of) for name, of in groups.items() if of
        },
        "by kind": {
            kind: _share([one.fresh[sizes[-1]] for one in every if one.kind == kind])
            for kind in dict.fromkeys(one.kind for one in every)
        },
        "by held-out machines": {
            str(size): {name: shares(of, size) for name, of in groups.items() if of} for size in sizes
        },
        "in sequence, a plant's challengers on one hold-out": {
            name: {
                when: _share([one.later for one in of if low <= one.try_ <= high])
                for when, (low, high) in later.items()
            }
            for name, of in (("harmful", harmful), ("helpful", helpful))
        },
    }


def result(case: str, found: dict[str, Any], bar: float) -> dict[str, Any]:
    value = found["share"]
    holds = value is not None and (value <= bar if bar < 0.5 else value >= bar)
    return {"case": case, "value": value, "unit": "share", "bar": bar, "holds": holds, **found}


def main() -> None:
    """Print the results."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--each", type=int, default=500, help="harmful and helpful challengers")
    words.add_argument("--machines", type=int, default=100, help="held-out machines")
    words.add_argument("--whole", type=int, default=8, help="challengers that also go the whole way")
    words.add_argument("--jobs", type=int, default=2, help="processes")
    given = words.parse_args()

    def tell(said: str) -> None:
        print(said, file=sys.stderr, flush=True)

    found = measured(given.each, given.machines, given.whole, given.jobs, tell)
    print(json.dumps({"machine": platform.platform(), **found}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
