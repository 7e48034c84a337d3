import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from interplant.core import config
from interplant.core.contract import Column, Contract
from interplant.core.errors import UsageError
from interplant.core.possible import Impossible
from interplant.core.schema import Federation, Plant, Privacy, Task, Window

TASK = """\
name: press-wear
rounds: 3
contract:
  settings:
    speed: {unit: rpm, low: 0, high: 10}
  sensors:
    heat: {unit: K, low: 200, high: 400}
    flow: {unit: kg/s, low: 0, high: 1}
  conditions:
    - name: slow
      centre: {speed: 1}
      ranges: {heat: [200, 300]}
training:
  steps: 5
  learning_rate: 0.01
"""
PLANT = """\
name: plant-a
federation: north
connection:
  coordinator: central.example:7443
"""
FEDERATION = """\
name: north
listen: 0.0.0.0:7443
rounds:
  quorum: 2
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, schema: type, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UsageError) as failure:
        config.load(path, schema, overrides)
    assert failure.value.exit_code == 2
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_a_key_may_be_a_word_that_yaml_takes_for_a_truth(tmp_path: Path) -> None:
    text = FEDERATION + "automation:\n- task: turbofan\n  on: [drift, error]\n"
    (one,) = config.load(write(tmp_path, text), Federation).automation
    assert one.on == ["drift", "error"]
    wrong = refused(write(tmp_path, text.replace("error", "errors")), Federation)
    assert "file.yaml:7: automation.0.on" in wrong
    assert "expected keys and values" in refused(write(tmp_path, "&a [*a]"), Federation)
    assert "expected keys and values" in refused(write(tmp_path, ""), Federation)


@pytest.mark.parametrize(("text", "schema"), [(TASK, Task), (PLANT, Plant), (FEDERATION, Federation)])
def test_a_good_file_loads_and_survives_a_round_trip(tmp_path: Path, text: str, schema: type) -> None:
    loaded = config.load(write(tmp_path, text), schema)
    assert config.load(write(tmp_path, config.to_yaml(loaded)), schema) == loaded
    assert config.parse(json.loads(config.to_json(loaded)), schema, "message") == loaded
    assert yaml.safe_load(config.to_yaml(loaded)) == config.dump(loaded)


def test_values_and_defaults(tmp_path: Path) -> None:
    task = config.load(write(tmp_path, TASK), Task)
    assert (task.name, task.rounds, task.training.steps, task.channels) == ("press-wear", 3, 5, 3)
    assert task.contract.sensors["heat"].high == 400.0
    assert task.contract.conditions[0].ranges == {"heat": [200, 300]}
    assert (task.privacy.mechanism, task.strategy.name) == ("dp-sgd", "fedavg")
    assert isinstance(task, Task)


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("rounds: 3", "round: 3", 2, "round"),
        ("  steps: 5", "  step: 5", 14, "training.step"),
        ("heat: {unit: K, low: 200,", "heat: {unit: K, lo: 200,", 7, "contract.sensors.heat.lo"),
    ],
)
def test_an_unknown_key_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, key: str
) -> None:
    assert old in TASK
    path = write(tmp_path, TASK.replace(old, new))
    said = refused(path, Task)
    assert said.startswith(f"{path}:{line}: {key}: unknown key ")
    assert "remove it or correct its name" in said


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("rounds: 3", "rounds: three", 2, "rounds"),
        ("  steps: 5", "  steps: [5]", 14, "training.steps"),
        ("learning_rate: 0.01", "learning_rate: fast", 15, "training.learning_rate"),
        ("low: 200, high: 400", "low: cold, high: 400", 7, "contract.sensors.heat.low"),
    ],
)
def test_a_wrong_type_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, key: str) -> None:
    assert old in TASK
    path = write(tmp_path, TASK.replace(old, new))
    assert refused(path, Task).startswith(f"{path}:{line}: {key}: ")


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ("rounds: 3", "rounds: 0", 2, "rounds", "expected 1 or more, found 0"),
        ("name: press-wear", "name: press wear", 1, "name", "letters, digits and hyphens"),
        ("  steps: 5", "  steps: -1", 14, "training.steps", "expected 1 or more, found -1"),
        ("learning_rate: 0.01", "learning_rate: 0", 15, "training.learning_rate", "more than 0"),
        ("low: 200, high: 400", "low: 400, high: 400", 7, "contract.sensors.heat", "low < high"),
        ("centre: {speed: 1}", "centre: {pace: 1}", 11, "contract.conditions.0.centre", "'speed'"),
        ("ranges: {heat:", "ranges: {hot:", 12, "contract.conditions.0.ranges", "'hot' is not a sensor"),
        ("[200, 300]", "[300, 200]", 12, "contract.conditions.0.ranges.heat", "low < high"),
        ("[200, 300]", "[cold, 300]", 12, "contract.conditions.0.ranges.heat", "found ['cold', 300]"),
        ("[200, 300]", "wide", 12, "contract.conditions.0.ranges.heat", "found 'wide'"),
        ("[200, 300]", "[200]", 12, "contract.conditions.0.ranges.heat", "low < high"),
        ("    flow:", "    rul:", 6, "contract.sensors", "'rul', which is the machine, time, cycle or label"),
    ],
)
def test_an_impossible_value_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, key: str, words: str
) -> None:
    assert old in TASK
    path = write(tmp_path, TASK.replace(old, new))
    said = refused(path, Task)
    assert said.startswith(f"{path}:{line}: {key}: ")
    assert words in said


@pytest.mark.parametrize(
    ("added", "key"),
    [
        ("window: {length: 0}", "window.length"),
        ("window: {stride: 0}", "window.stride"),
        ("target: {cap: 0}", "target.cap"),
        ("privacy: {mechanism: magic}", "privacy.mechanism"),
        ("privacy: {unit: plant}", "privacy.unit"),
        ("privacy: {clip: 0}", "privacy.clip"),
        ("privacy: {engine: fast}", "privacy.engine"),
        ("privacy: {noise: 0}", "privacy.noise"),
        ("privacy: {delta: 1}", "privacy.delta"),
        ("privacy: {noise: 1.0e+6}", "privacy.noise"),
        ("privacy: {noise: 1.0e-300}", "privacy.noise"),
        ("privacy: {clip: 1.0e-30}", "privacy.clip"),
        ("privacy: {clip: .inf}", "privacy.clip"),
        ("window: {length: 1000000000}", "window.length"),
    ],
)
def test_impossible_settings_of_a_task(tmp_path: Path, added: str, key: str) -> None:
    path = write(tmp_path, TASK + added)
    assert refused(path, Task).startswith(f"{path}:16: {key}: expected ")


@pytest.mark.parametrize(
    ("added", "key"),
    [
        ("policy: {privacy: {epsilon: 0}}", "policy.privacy.epsilon"),
        ("policy: {privacy: {delta: 2}}", "policy.privacy.delta"),
        ("policy: {release: {approval: maybe}}", "policy.release.approval"),
        ("policy: {release: {report: everything}}", "policy.release.report"),
        ("policy: {release: {margin: -1}}", "policy.release.margin"),
        ("data: {declared_windows: -5}", "data.declared_windows"),
        ("data: {repository: ./data}", "data.repository"),
        ("data: {repository: data/}", "data.repository"),
        ("data: {repository: old/../data}", "data.repository"),
        ("trainer: {threads: 0}", "trainer.threads"),
        ("trainer: {nice: 20}", "trainer.nice"),
        ("  compression: [int8, gzip]", "connection.compression"),
        ("  compression: [none]", "connection.compression"),
    ],
)
def test_impossible_settings_of_a_plant(tmp_path: Path, added: str, key: str) -> None:
    path = write(tmp_path, PLANT + added)
    assert refused(path, Plant).startswith(f"{path}:5: {key}: expected ")


@pytest.mark.parametrize("address", ["central", "central:", ":7443", "central:0", "central:65536", "a:b"])
def test_an_address_that_cannot_be_dialled(tmp_path: Path, address: str) -> None:
    path = write(tmp_path, PLANT.replace("central.example:7443", f"'{address}'"))
    assert f"{path}:4: connection.coordinator: expected host:port, found {address!r}" == refused(path, Plant)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("quorum: 2", "quorum: 0", "rounds.quorum"),
        ("quorum: 2", "retries: -1", "rounds.retries"),
        ("quorum: 2", "deadline_seconds: 0", "rounds.deadline_seconds"),
        ("quorum: 2", "compression: {update: gzip}", "rounds.compression.update"),
        ("quorum: 2", "compression: {model: int4}", "rounds.compression.model"),
        ("quorum: 2", "compression: {keep: 0}", "rounds.compression.keep"),
        ("quorum: 2", "compression: {keep: 0.6}", "rounds.compression.keep"),
        ("rounds:\n  quorum: 2", "certificates:\n  join_hours: 0", "certificates.join_hours"),
    ],
)
def test_impossible_settings_of_a_federation(tmp_path: Path, old: str, new: str, key: str) -> None:
    assert old in FEDERATION
    path = write(tmp_path, FEDERATION.replace(old, new))
    assert refused(path, Federation).startswith(f"{path}:4: {key}: expected ")


def test_a_mandatory_value_that_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, TASK.replace("name: press-wear\n", ""))
    assert refused(path, Task).startswith(f"{path}: name: ")


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert refused(path, Task) == f"{path}: expected a file here, found none"
    assert refused(tmp_path, Task).startswith(f"{tmp_path}: cannot be read")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert refused(path, Task).startswith(f"{path}: cannot be read")


def test_bad_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, TASK + "window: {length: 4\n")
    assert refused(path, Task).startswith(f"{path}:17: not valid YAML: ")
    path = write(tmp_path, "name: a\n\tbad: tab\n")
    assert refused(path, Task).startswith(f"{path}:2: not valid YAML: ")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n", "3\n"])
def test_content_that_has_no_keys(tmp_path: Path, text: str) -> None:
    assert "expected keys and values, found" in refused(write(tmp_path, text), Task)


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    path = write(tmp_path, TASK + "model: !!python/object/apply:os.getcwd []\n")
    assert "not valid YAML" in refused(path, Task)


def test_overrides_change_values(tmp_path: Path) -> None:
    path = write(tmp_path, TASK)
    task = config.load(path, Task, ["training.steps=50", "privacy.mechanism=none", "model.args.width=8"])
    assert (task.training.steps, task.privacy.mechanism, task.model.args) == (50, "none", {"width": 8})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.stepz=5", "unknown key 'stepz'"),
        ("training.steps=many", "training.steps: "),
        ("training.steps=0", "training.steps: expected 1 or more, found 0"),
        ("training.steps", "expected key=value, such as training.steps=50"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, words: str) -> None:
    assert words in refused(write(tmp_path, TASK), Task, (override,))


def test_a_message_is_refused_like_a_file() -> None:
    with pytest.raises(UsageError, match=r"^plan: training\.stepz: unknown key 'stepz'"):
        config.parse({"name": "a", "training": {"stepz": 1}}, Task, "plan")


def test_equal_values_give_equal_json(tmp_path: Path) -> None:
    lines = TASK.splitlines(keepends=True)
    swapped = "".join([lines[1], lines[0], *lines[2:]])
    one, other = config.load(write(tmp_path, TASK), Task), config.load(write(tmp_path, swapped), Task)
    assert config.to_json(one) == config.to_json(other)
    assert "\n" not in config.to_json(one)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("center: {a: 1}", "centr: {a: 1}", 7, "contract.conditions.1.centr: unknown key 'centr'"),
        ("name: high", "name: [1]", 6, "contract.conditions.1.name:"),
    ],
)
def test_an_error_inside_a_list_names_entry_and_line(
    tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    text = """name: x
contract:
  settings: {a: {unit: m, low: 0, high: 1}}
  conditions:
  - {name: low, centre: {a: 0}}
  - name: high
    center: {a: 1}
"""
    path = tmp_path / "task.yaml"
    path.write_text(text.replace(old, new))
    if new.startswith("name"):
        path.write_text(path.read_text().replace("center", "centre"))
    with pytest.raises(UsageError) as caught:
        config.load(path, Task)
    assert str(caught.value).startswith(f"{path}:{line}: {said}")


@pytest.mark.parametrize(
    "key", ["name", "privacy.noise", "training.steps", "contract.machine", "model.args.width"]
)
@pytest.mark.parametrize("text", ["${oc.env:INTERPLANT_PIN}", "${rounds}", "x${oc.env:INTERPLANT_PIN,1}"])
def test_a_message_cannot_look_anything_up_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, text: str
) -> None:
    """Epsilon leaves the plant: noise taken from its environment would carry the environment out."""
    monkeypatch.setenv("INTERPLANT_PIN", "7")
    content = json.loads(config.to_json(config.load(write(tmp_path, TASK), Task)))
    *groups, last = key.split(".")
    place = content
    for group in groups:
        place = place[group]
    place[last] = text
    with pytest.raises(UsageError, match=r"task: expected plain values, found \$\{\.\.\.\}"):
        config.task_from_json(json.dumps(content))


def test_nor_can_one_by_the_name_of_a_key_or_inside_a_list(tmp_path: Path) -> None:
    content = json.loads(config.to_json(config.load(write(tmp_path, TASK), Task)))
    for args in ({"${oc.env:HOME}": 1}, {"sizes": [1, {"deep": "${oc.env:HOME}"}]}):
        with pytest.raises(UsageError, match="plain values"):
            config.parse(content | {"model": {"args": args}}, Task, "task")


def test_a_file_of_this_machine_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERPLANT_ROUNDS", "5")
    path = write(tmp_path, TASK.replace("rounds: 3", "rounds: ${oc.env:INTERPLANT_ROUNDS}"))
    assert config.load(path, Task).rounds == 5


def test_a_reading_whose_value_is_held_over_is_no_privacy_unit() -> None:
    contract = Contract(hold=5, sensors={"s": Column("bar", 0, 1)})
    task = Task(name="t", contract=contract, window=Window(1), privacy=Privacy(unit="row"))
    with pytest.raises(Impossible, match="expected values that are not held over"):
        task.check()
    replace(task, contract=replace(contract, hold=0.0)).check()
