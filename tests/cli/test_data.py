"""``interplant data`` over a plant's own store: in at the door, out as snapshots, erased for good."""

import io
import json
from datetime import datetime
from pathlib import Path

import pytest

from interplant.client import learned
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Prediction, Predictions
from interplant.core import config
from interplant.core.contract import Contract
from interplant.core.schema import Source

from .conftest import Call, make_release_of

CONTRACT = """\
version: 1
machine: machine
time: at
clock: timestamp
zone: Europe/Berlin
label: scrap
sensors:
  temperature: {unit: degC, low: 0, high: 50}
  force: {unit: kN, low: 0, high: 10}
"""
HEAD = "machine;at;temperature;force\n"


def lines(day: int, machine: str, *, broken: bool = False) -> str:
    rows = [
        f"{machine};2026-03-{day:02d}T08:{minute:02d}:00;2{minute % 10},5;{minute % 9}"
        for minute in range(10)
    ]
    if broken:
        rows[3] = rows[3].replace("23,5", "99999")
    return "".join(f"{row}\n" for row in rows)


@pytest.fixture
def shop(plant: PlantDirectory) -> PlantDirectory:
    """A plant with a contract of its own and a folder into which a historian exports."""
    (plant.path / "contract.yaml").write_text(CONTRACT)
    (plant.path / "drop").mkdir()
    settings = plant.load()
    settings.data.contract = "contract.yaml"
    settings.data.sources = [
        Source(name="historian", kind="folder", args={"path": "drop", "settle_seconds": 0.05})
    ]
    plant.config.write_text(config.to_yaml(settings))
    return plant


def test_from_a_file_to_snapshots_and_back(shop: PlantDirectory, interplant: Call) -> None:
    at = ["--dir", shop.path]
    (shop.path / "drop" / "monday.csv").write_text(
        HEAD + lines(2, "press-1", broken=True) + lines(2, "press-2")
    )
    done = interplant("data", "ingest", *at, "--json")
    assert (done.code, done.json) == (0, [
        {"source": "historian", "rows": 19, "bad": 1, "rules": {"range temperature": 1},
         "origins": done.json[0]["origins"]},
    ])  # fmt: skip
    assert "monday.csv" in done.json[0]["origins"][0]
    (row,) = interplant("data", "check", *at, "--json").json["quarantine"]
    assert row == {
        "source": "historian",
        "rule": "range",
        "column": "temperature",
        "readings": 1,
        "such as": "99999",
    }
    first = interplant("data", "snapshot", *at, "-m", "monday", "--json").json
    assert (first["rows"], first["machines"], first["sources"], first["quarantined"]) == (
        19, 2, {"historian": 19}, 1,
    )  # fmt: skip

    # The contract is mended, and what was held back comes in.
    (shop.path / "contract.yaml").write_text(CONTRACT.replace("high: 50", "high: 60000"))
    done = interplant("data", "check", "--release", *at, "--json")
    assert (done.json["released"], done.json["quarantine"]) == (1, [])
    (shop.path / "drop" / "tuesday.csv").write_text(HEAD + lines(3, "press-1"))
    assert interplant("data", "ingest", *at, "--json").json[0]["rows"] == 10
    second = interplant("data", "snapshot", *at, "--json").json
    assert second["rows"] == 30
    changes = interplant("data", "diff", first["digest"][:10], *at, "--json").json["changes"]
    assert [(one["day"], one["machine"], one["before"], one["after"]) for one in changes] == [
        ("2026-03-02", "press-1", 9, 10), ("2026-03-03", "press-1", 0, 10),
    ]  # fmt: skip

    make_release_of(shop, second["digest"])
    left = [shop.windows / "cut", shop.drift / f"state-inputs-{first['digest'][:12]}-0-100.npz"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"numbers about readings")
    gone = interplant("data", "erase", "--machine", "press-2", "--yes", *at, "--json").json
    assert gone["purged"] == [second["digest"], first["digest"]]
    assert (gone["releases"], gone["runs"]) == (["trained-on-it"], [])
    assert not any(path.exists() for path in left)
    log = interplant("data", "log", *at, "--json").json
    assert [(one["rows"], one["removed"]) for one in log] == [(20, ""), (30, "erased"), (19, "erased")]
    done = interplant("data", "diff", first["digest"], *at)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "its readings were removed (erased" in done.err


def test_old_snapshots_go_as_declared_but_for_those_in_use(shop: PlantDirectory, interplant: Call) -> None:
    settings = shop.load()
    settings.data.keep = 1
    shop.config.write_text(config.to_yaml(settings))
    digests = []
    for day in (2, 3, 4):
        (shop.path / "drop" / f"{day}.csv").write_text(HEAD + lines(day, "press-1"))
        interplant("data", "ingest", "--dir", shop.path)
        done = interplant("data", "snapshot", "--dir", shop.path, "--json").json
        digests.append(done["digest"])
        if day == 2:
            make_release_of(shop, done["digest"])
    log = interplant("data", "log", "--dir", shop.path, "--json").json
    assert [one["removed"] for one in log] == ["", "retention", ""]
    assert log[2]["digest"] == digests[0], "a release was trained on it"


def test_a_run_under_way_is_named_when_what_it_learned_from_is_erased(
    shop: PlantDirectory, interplant: Call
) -> None:
    at = ["--dir", shop.path]
    (shop.path / "drop" / "a.csv").write_text(HEAD + lines(2, "press-1") + lines(2, "press-2"))
    interplant("data", "ingest", *at)
    digest = interplant("data", "snapshot", *at, "--json").json["digest"]
    learned.note(shop, "20260301-080000-ab12", "turbofan", digest)
    said = interplant("data", "erase", "--machine", "press-2", "--yes", *at).out
    assert "trained on what was erased, now or before: none." in said
    assert "whose release may still come: 20260301-080000-ab12." in said
    make_release_of(shop, digest)
    said = interplant("data", "erase", "--machine", "press-2", "--yes", *at).out
    assert "trained on what was erased, now or before: trained-on-it." in said


PREDICTED = ("02T22:59", "02T23:00", "03T07:04", "03T07:05")
"""Around the period that is erased, in UTC; the contract's zone is an hour ahead."""


def test_a_period_is_erased(shop: PlantDirectory, interplant: Call) -> None:
    at = ["--dir", shop.path]
    (shop.path / "drop" / "a.csv").write_text(HEAD + lines(2, "press-1") + lines(3, "press-1"))
    interplant("data", "ingest", *at)
    interplant("data", "snapshot", *at)
    told = [datetime.fromisoformat(f"2026-03-{text}:00+00:00").timestamp() for text in PREDICTED]
    with Predictions.open(shop) as predictions:
        predictions.add(Prediction(text, 0.0, "r-1", (1.0,), "press-1", at=when)
                        for text, when in zip(PREDICTED, told, strict=True))  # fmt: skip
    interplant("data", "erase", "--since", "2026-03-03", "--until", "2026-03-03T07:04:00+00:00", "--yes", *at)
    log = interplant("data", "log", *at, "--json").json
    assert [(one["rows"], one["removed"]) for one in log] == [(15, ""), (20, "erased")]
    with Predictions.open(shop) as predictions:
        assert [one.id for one in predictions.since(0)] == ["02T22:59"]  # a later window may reach back


def test_erasing_a_machine_that_is_not_there_says_so_and_is_no_failure(
    shop: PlantDirectory, interplant: Call
) -> None:
    (shop.path / "drop" / "a.csv").write_text(HEAD + lines(2, "press-1"))
    interplant("data", "ingest", "--dir", shop.path)
    done = interplant("data", "erase", "--machine", "press-9", "--yes", "--dir", shop.path)
    assert done.code == 0
    assert "The store and the snapshots hold no reading of machine press-9." in done.out


def test_a_plant_of_one_machine_is_erased_whole(shop: PlantDirectory, interplant: Call) -> None:
    at = ["--dir", shop.path]
    (shop.path / "drop" / "a.csv").write_text(HEAD + lines(2, "press-1"))
    interplant("data", "ingest", *at)
    interplant("data", "snapshot", *at)
    done = interplant("data", "erase", "--machine", "press-1", "--yes", *at)
    assert (done.code, done.err) == (0, "")
    assert "1 snapshots and 0 events of drift were removed; no snapshot is left." in done.out
    again = interplant("data", "erase", "--machine", "press-1", "--yes", *at)
    assert (again.code, again.out.splitlines()[0]) == (
        0, "The store and the snapshots hold no reading of machine press-1.",
    )  # fmt: skip
    assert [one["removed"] for one in interplant("data", "log", *at, "--json").json] == ["erased"]


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_who_says_no_to_an_erasure_is_told_that_nothing_was_changed(
    shop: PlantDirectory, interplant: Call, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    (shop.path / "drop" / "a.csv").write_text(HEAD + lines(2, "press-1"))
    interplant("data", "ingest", "--dir", shop.path)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    done = interplant("data", "erase", "--machine", "press-1", "--dir", shop.path)
    assert done.code == 1
    assert "interplant: nothing was changed, as nobody said yes" in done.err
    assert interplant("data", "snapshot", "--dir", shop.path, "--json").json["rows"] == 10


def test_old_snapshots_of_two_tables_go_as_declared_too(shop: PlantDirectory, interplant: Call) -> None:
    settings = shop.load()
    settings.data.keep = 1
    shop.config.write_text(config.to_yaml(settings))
    words = ["--simulate", "0", "--machines", "8", "--dir", shop.path, "--json"]
    first, second = (interplant("data", "snapshot", *words, "--seed", seed).json for seed in (0, 1))
    assert (first["purged"], second["purged"]) == ([], [first["snapshot"]])


def test_a_contract_is_drafted_from_a_sample(tmp_path: Path, shop: PlantDirectory, interplant: Call) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("asset,timestamp,T1,operator\n" + "".join(
        f"saw,2026-03-02T08:00:{second:02d}Z,{20 + second},Kim\n" for second in range(0, 60, 5)
    ))  # fmt: skip
    done = interplant("data", "ingest", "--infer", "--from", sample, "--dir", shop.path)
    assert done.code == 0
    drafted = tmp_path / "contract.yaml"
    drafted.write_text(done.out)
    found = config.load(drafted, Contract)
    assert (found.machine, found.time, found.clock, found.interval) == (
        "asset",
        "timestamp",
        "timestamp",
        5.0,
    )
    assert (found.sensors["T1"].low, found.sensors["T1"].high) == (20.0, 75.0)
    assert "operator" in done.out
    wrong = interplant(
        "data", "ingest", "--infer", "--label", "oprator", "--from", sample, "--dir", shop.path
    )
    assert (wrong.code, wrong.err) == (
        2, "interplant: --label: expected one of T1, operator, found 'oprator'\n",
    )  # fmt: skip
    assert "operator" not in found.sensors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ingest"], "data.sources: expected at least one, found none"),
        (["ingest", "--source", "plc"], "data.sources: expected at least one, found none"),
        (["ingest", "--from", "nowhere.csv"], "expected a folder or a file, found none at"),
        (["ingest", "--infer"], "--infer: expected --from with a sample"),
        (["check", "--release", "some.csv"], "expected no path"),
        (["erase", "--yes"], "expected --machine, --since or --until"),
        (["erase", "--since", "lately", "--yes"], "time 'lately': expected one like 2026-11-26"),
        (
            ["erase", "--since", "2026-03-03", "--until", "2026-03-02", "--yes"],
            "--since: expected no later than",
        ),
        (["diff", "0123456789"], "expected the digest of one snapshot"),
        (["snapshot"], "expected readings in the store, found none"),
    ],
)
def test_wrong_words_are_one_sentence(
    shop: PlantDirectory, interplant: Call, words: list[str], said: str
) -> None:
    settings = shop.load()
    settings.data.sources = []
    shop.config.write_text(config.to_yaml(settings))
    (shop.path / "store").mkdir()
    done = interplant("data", *words, "--dir", shop.path)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_plant_without_a_contract_is_told_how_to_name_one(plant: PlantDirectory, interplant: Call) -> None:
    done = interplant("data", "ingest", "--dir", plant.path)
    assert done.code == 2
    assert "data.contract: expected the file of the plant's contract" in done.err


def test_what_a_column_is_called_now_counts_when_the_quarantine_is_released(
    shop: PlantDirectory, interplant: Call
) -> None:
    (shop.path / "drop" / "a.csv").write_text(HEAD.replace("temperature", "T1") + lines(2, "press-1"))
    assert interplant("data", "ingest", "--dir", shop.path, "--json").json[0]["bad"] == 10
    settings = shop.load()
    settings.data.sources[0].columns = {"T1": "temperature"}
    shop.config.write_text(config.to_yaml(settings))
    assert interplant("data", "check", "--release", "--dir", shop.path, "--json").json["released"] == 10
    assert json.loads((shop.path / "store" / "sources" / "historian" / "files.json").read_text())
