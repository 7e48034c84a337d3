"""What the ledger costs, and whether a kill ever makes it count too little.

    python benchmarks/ledger.py --json [--rounds 10000] [--kills 500] [--cases charge,epsilon,kills]

``charge`` and ``epsilon`` are medians over rounds with two budgets (all tasks, one task), so that the whole
history is composed for each. ``cold`` is a new process that opens the ledger and says epsilon, from its
start to its end, imports included. ``kills`` forks processes that reserve, note that they now draw noise,
and commit, kills each (-9) at a random moment, and holds what they noted against the ledger that is left.
"""

import argparse
import json
import os
import platform
import random
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interplant.privacy.ledger import Caps, Ledger
from interplant.privacy.plan import Plan

PLAN = Plan("window", records=10_000, batch=100, noise=1.0, clip=1.0, steps=100, delta=1e-5)
CAPS = Caps(epsilon=1e6, delta=1e-5, task=1e6)
WHERE = {"run": "bench", "task": "rul", "lineage": "turbofan"}

PER_FILE = 10
"""Kills that one ledger suffers; then a new one, so that files are also killed while they are made."""

LONGEST_LIFE = 0.15
"""Seconds that a victim lives at most: time for a dozen rounds."""

COLD = """
import sys
from pathlib import Path
from interplant.privacy.ledger import Ledger
print(Ledger(Path(sys.argv[1])).spent("turbofan", 1e-5).epsilon)
"""


def filled(path: Path, rounds: int) -> Ledger:
    """Make a ledger with a history, in one transaction instead of two a round."""
    ledger = Ledger(path)
    body = {"time": "2030-01-01T00:00:00+00:00", **WHERE}
    with ledger._writing() as connection:
        for number in range(rounds):
            one = body | {"id": secrets.token_hex(16), "round": number}
            ledger._append(connection, one | {"kind": "reserve", "plan": PLAN.as_dict()})
            ledger._append(connection, one | {"kind": "commit", "plan": None})
    return ledger


def charge(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Reserve and commit, with a short and a long history."""
    found = []
    for history in (100, rounds):
        ledger = filled(folder / f"charge-{history}.db", history)

        def once(ledger: Ledger = ledger) -> None:
            ledger.commit(ledger.reserve(PLAN, round=0, caps=CAPS, **WHERE))

        once()
        case = f"reserve + commit after {history} rounds"
        found.append(result(case, 1e3 * median(once, 40), "ms", 10.0))
    return found


def epsilon(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Say what a long history costs: one round more each time, and in a new process."""
    path = folder / "epsilon.db"
    ledger = filled(path, rounds)
    ledger.spent("turbofan", 1e-5)
    seconds = []
    for number in range(20):
        ledger.reserve(PLAN, round=number, **WHERE)
        seconds.append(timed(lambda: ledger.spent("turbofan", 1e-5)))
    cold = [sys.executable, "-c", COLD, str(path)]
    slow = median(lambda: subprocess.run(cold, check=True, stdout=subprocess.DEVNULL), 3)
    return [
        result(f"epsilon after {rounds} rounds, warm", 1e3 * statistics.median(seconds), "ms", 50.0),
        result(f"epsilon after {rounds} rounds, cold", slow, "s", 3.0),
    ]


def kills(folder: Path, count: int) -> list[dict[str, Any]]:
    """Kill processes in the middle of rounds; count noise that was drawn without a charge."""
    moments = random.Random(secrets.randbits(64))
    drawn = uncharged = 0
    for number in range(-(-count // PER_FILE)):
        path, noise = folder / f"killed-{number}.db", folder / f"noise-{number}"
        noise.touch()
        for _ in range(min(PER_FILE, count - number * PER_FILE)):
            kill_one(path, noise, moments.uniform(0, LONGEST_LIFE))
        # A ledger is opened again by whoever comes next, and goes on.
        ledger = Ledger(path)
        ledger.verify()
        charged = {entry.id for entry in ledger.entries() if entry.kind == "reserve"}
        seen = noise.read_text().split()
        drawn += len(seen)
        uncharged += len(set(seen) - charged) + (len(seen) - len(set(seen)))
        billed = sum(event.steps for event in ledger.events("turbofan"))
        uncharged += billed != len(charged) * PLAN.steps
    return [
        result(f"under-counts after {count} kills", uncharged, "charges", 0),
        {**result("rounds that drew noise before they were killed", drawn, "rounds", 1), "holds": drawn > 0},
    ]


def kill_one(path: Path, noise: Path, seconds: float) -> None:
    """Fork a process that goes from round to round, and kill it."""
    victim = os.fork()
    if not victim:
        try:
            live(path, noise)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(victim, signal.SIGKILL)
    if os.waitpid(victim, 0)[1] != signal.SIGKILL:
        raise SystemExit("a victim ended before it was killed")


def live(path: Path, noise: Path) -> None:
    """Reserve, draw, commit. What was written to the file is seen by others at once: it outlives a kill."""
    file = os.open(noise, os.O_WRONLY | os.O_APPEND)
    ledger = Ledger(path)
    for number in range(1_000_000):
        reservation = ledger.reserve(PLAN, round=number, **WHERE)
        os.write(file, f"{reservation.id}\n".encode())
        ledger.commit(reservation)


def median(call: Callable[[], object], times: int) -> float:
    return statistics.median(timed(call) for _ in range(times))


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def result(case: str, value: float, unit: str, bar: float) -> dict[str, Any]:
    return {"case": case, "value": round(value, 3), "unit": unit, "bar": bar, "holds": value <= bar}


def main() -> None:
    """Print the results."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--rounds", type=int, default=10_000)
    words.add_argument("--kills", type=int, default=500)
    words.add_argument("--cases", default="kills,charge,epsilon")
    given = words.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in given.cases.split(","):
            if case == "kills":
                results += kills(Path(scratch), given.kills)
            else:
                results += {"charge": charge, "epsilon": epsilon}[case](Path(scratch), given.rounds)
    print(json.dumps({"machine": platform.platform(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
