"""A release is read only if it is whole, signed by the right key, and does not contradict itself."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interplant.core import config, keyring, release, signing
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.keyring import Statement
from interplant.core.release import Lineage, Participant, ReleaseRefused
from interplant.core.schema import Task

KEY = signing.make_key()
TASK = Task(name="wear", contract=Contract(sensors={"s1": Column("bar", 0.0, 4.0)}))
NORTH = Participant("north", {"ab" * 32: 3}, 3, "dp-sgd", "window", 0.7, 1e-5, True)
LINEAGE = Lineage(
    release="r-1",
    run="run-1",
    task="wear",
    task_digest=release.task_digest(TASK),
    version="0.1.0",
    protocol="1",
    parent=None,
    created="2025-05-01T10:00:00+00:00",
    rounds=3,
    engine="grpc",
    private=True,
    simulated=True,
    participants=(NORTH, replace(NORTH, name="south", simulated=False)),
)


def write(folder: Path, lineage: str | None = None, task: str | None = None, meta: Lineage = LINEAGE) -> Path:
    """A signed folder whose heavy files are stand-ins."""
    folder.mkdir(parents=True)
    (folder / release.WEIGHTS).write_bytes(b"weights")
    (folder / release.ONNX).write_bytes(b"model")
    (folder / release.CARD).write_text("card")
    (folder / release.TASK).write_text(task or json.dumps(config.dump(TASK)))
    (folder / release.LINEAGE).write_text(lineage or LINEAGE.to_json())
    signing.sign_folder(folder, release.manifest_meta(meta), KEY)
    return folder


def changed(**values: object) -> str:
    return json.dumps({**json.loads(LINEAGE.to_json()), **values})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = release.read_release(write(tmp_path / "r-1"), KEY.public_key())
    assert found.id == "r-1"
    assert found.lineage == LINEAGE
    assert found.task == TASK
    assert len(found.sha256) == 64


def test_lineage_goes_through_json_unchanged() -> None:
    assert release.parse_lineage(LINEAGE.to_json()) == LINEAGE
    child = replace(LINEAGE, parent="r-0")
    assert release.parse_lineage(child.to_json()) == child


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected format"),
        (changed(format="interplant-lineage/9"), "update Interplant"),
        (changed(participants={}), "participants: expected a list"),
        (changed(participants=[]), "at least one plant"),
        (changed(participants=["north"]), r"participants\.0: expected keys and values"),
        (changed(participants=[{"name": "north"}]), r"participants\.0: key 'delta' is missing or unknown"),
        (changed(surprise=1), "'surprise' is missing or unknown"),
        (changed(rounds="three"), "rounds: a str cannot stand here"),
        (changed(rounds=True), "rounds: a bool cannot stand here"),
        (changed(parent=3), "parent: a int cannot stand here"),
        (changed(private=False), "private: contradicts"),
        (changed(simulated=False), "simulated: contradicts"),
        (changed(release="../r"), "letters, digits and hyphens"),
        (LINEAGE.to_json().replace("0.7", "NaN"), "NaN is not a number"),
    ],
)
def test_a_lineage_that_cannot_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(InterplantError, match=says):
        release.parse_lineage(text)


@pytest.mark.parametrize(
    "snapshots", [{}, {"ab" * 32: 2}, {"ab" * 32: 3, "cd" * 32: 0}, {"ab" * 32: "3"}, {"ab" * 32: True}]
)
def test_snapshots_whose_rounds_do_not_add_up_are_refused(snapshots: Any) -> None:
    odd = replace(LINEAGE, participants=(replace(NORTH, snapshots=snapshots),))
    with pytest.raises(InterplantError, match=r"north: snapshots: expected .* add up to 3, found others"):
        release.parse_lineage(odd.to_json())


def test_each_snapshot_is_named_and_several_with_their_rounds() -> None:
    assert NORTH.brief() == [("ab" * 6, "")]
    several = replace(NORTH, snapshots={"ab" * 32: 2, "cd" * 32: 1})
    assert several.brief() == [("ab" * 6, " (2 rounds)"), ("cd" * 6, " (1 round)")]
    whole = replace(LINEAGE, participants=(several, replace(several, name="south", simulated=False)))
    assert release.parse_lineage(whole.to_json()) == whole


def test_a_plant_without_privacy_makes_the_release_not_private() -> None:
    plain = replace(NORTH, mechanism="none", epsilon=0.0, delta=0.0)
    mixed = replace(LINEAGE, participants=(NORTH, plain))
    with pytest.raises(InterplantError, match="private: contradicts"):
        release.parse_lineage(mixed.to_json())
    assert not release.parse_lineage(replace(mixed, private=False).to_json()).private


def test_noise_that_repeats_makes_the_release_not_private() -> None:
    tested = replace(NORTH, mechanism="dp-sgd-test", epsilon=0.0, delta=0.0)
    mixed = replace(LINEAGE, participants=(NORTH, tested))
    with pytest.raises(InterplantError, match="private: contradicts"):
        release.parse_lineage(mixed.to_json())


@pytest.mark.parametrize("name", release.FILES)
def test_a_changed_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "r-1")
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ReleaseRefused, match=name) as caught:
        release.read_release(folder, KEY.public_key())
    assert caught.value.code == "tampered"


def test_missing_and_added_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "r-1")
    (folder / "extra.sh").write_text("rm")
    with pytest.raises(ReleaseRefused, match=r"extra\.sh.*not listed"):
        release.read_release(folder, KEY.public_key())
    (folder / "extra.sh").unlink()
    (folder / release.CARD).unlink()
    with pytest.raises(ReleaseRefused, match=r"card\.md.*missing"):
        release.read_release(folder, KEY.public_key())


def test_a_release_signed_without_its_model_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "r-1")
    (folder / release.ONNX).unlink()
    signing.sign_folder(folder, release.manifest_meta(LINEAGE), KEY)
    with pytest.raises(ReleaseRefused, match=r"does not list 'model\.onnx'"):
        release.read_release(folder, KEY.public_key())


@pytest.mark.parametrize("name", [signing.MANIFEST, signing.SIGNATURE])
def test_the_signature_is_checked_first(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "r-1")
    content = bytearray((folder / name).read_bytes())
    content[5] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ReleaseRefused, match="manifest is not signed") as caught:
        release.read_release(folder, KEY.public_key())
    assert caught.value.code == "signature"
    (folder / name).unlink()
    with pytest.raises(ReleaseRefused, match=name) as caught:
        release.read_release(folder, KEY.public_key())
    assert caught.value.code == "signature"


def test_another_federations_key_does_not_open_it(tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused) as caught:
        release.read_release(write(tmp_path / "r-1"), signing.make_key().public_key())
    assert caught.value.code == "signature"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"lineage": "{}"}, "lineage"),
        ({"lineage": changed(rounds=4, run="run-2")}, "lineage"),
        ({"task": "{}"}, "task_invalid"),
        ({"task": json.dumps({**config.dump(TASK), "rounds": 99})}, "lineage"),
        ({"task": json.dumps({**config.dump(TASK), "code": "x"})}, "task_invalid"),
    ],
)
def test_signed_but_contradictory_is_refused(tmp_path: Path, wrong: dict[str, str], code: str) -> None:
    with pytest.raises(ReleaseRefused) as caught:
        release.read_release(write(tmp_path / "r-1", **wrong), KEY.public_key())
    assert caught.value.code == code


def test_a_release_under_anothers_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused, match="expected release 'r-2', found 'r-1'") as caught:
        release.read_release(write(tmp_path / "r-2"), KEY.public_key())
    assert caught.value.code == "lineage"


def test_task_digest_follows_every_value() -> None:
    again = config.parse(config.dump(TASK), Task, "task")
    assert release.task_digest(again) == release.task_digest(TASK)
    assert release.task_digest(replace(TASK, seed=1)) != release.task_digest(TASK)


def test_ids_cannot_lead_out_of_the_folder() -> None:
    for bad in ("", "..", "a/b", ".hidden", "-option", "x" * 64, "r\n"):
        with pytest.raises(UsageError, match="letters, digits and hyphens"):
            release.check_id(bad)
    assert release.check_id("r-20250501-3") == "r-20250501-3"


def test_codes_have_our_own_words() -> None:
    assert "signed" in release.sentence("signature")
    assert "policy" in release.sentence("policy_task")
    assert release.sentence("rmse=3.4") == "the plant gave a reason that this version does not know"


# --- keys that hand over -------------------------------------------------------------------------------


def refused(folder: Path, code: str) -> None:
    with pytest.raises(ReleaseRefused) as caught:
        release.read_release(folder, KEY.public_key())
    assert caught.value.code == code


def handed_over(
    until: str = "2026-01-01T00:00:00+00:00", revoked: bool = False
) -> tuple[tuple[Statement, ...], Ed25519PrivateKey]:
    """Statements by which `KEY` hands over to another key, and that key."""
    new = signing.make_key()
    old, name = (key.public_key().public_bytes_raw().hex() for key in (KEY, new))
    words = Statement("demo", old, name, "2026-01-01T00:00:00+00:00", until, revoked, keyring.digest(()))
    return (words.signed(KEY, new),), new


def signed_by(folder: Path, key: Ed25519PrivateKey, statements: tuple[Statement, ...]) -> Path:
    """Sign a release with another key, as packaging does after a rotation."""
    write(folder)
    for name in (signing.MANIFEST, signing.SIGNATURE):
        (folder / name).unlink()
    (folder / "keys.json").write_text(keyring.to_json(statements))
    lineage = release.parse_lineage((folder / release.LINEAGE).read_bytes())
    signing.sign_folder(folder, release.manifest_meta(lineage), key)
    return folder


def test_the_first_key_leads_to_a_release_of_the_second(tmp_path: Path) -> None:
    statements, new = handed_over()
    folder = signed_by(tmp_path / "r-1", new, statements)
    assert release.read_release(folder, KEY.public_key()).id == "r-1"
    assert release.read_release(folder, new.public_key()).id == "r-1"


def test_the_statements_in_a_release_are_signed_with_it(tmp_path: Path) -> None:
    statements, new = handed_over()
    folder = signed_by(tmp_path / "r-1", new, statements)
    (folder / "keys.json").write_text(keyring.to_json(statements).replace("\n", "\n "))
    refused(folder, "tampered")


def test_a_stranger_does_not_come_in_by_statements_of_their_own(tmp_path: Path) -> None:
    thief, friend = signing.make_key(), signing.make_key()
    old, new = (key.public_key().public_bytes_raw().hex() for key in (thief, friend))
    day, none = "2026-01-01T00:00:00+00:00", keyring.digest(())
    words = Statement("demo", old, new, day, day, False, none)
    refused(signed_by(tmp_path / "r-1", friend, (words.signed(thief, friend),)), "signature")
    ours = KEY.public_key().public_bytes_raw().hex()
    forged = Statement("demo", ours, new, day, day, False, none)
    refused(signed_by(tmp_path / "r-2", friend, (forged.signed(thief, friend),)), "signature")


def test_who_stole_a_revoked_key_signs_nothing_that_verifies_under_the_next(tmp_path: Path) -> None:
    """The thief's key hands over to the stolen one, which has handed over to the present one."""
    genuine, present = handed_over(revoked=True)
    thief = signing.make_key()
    names = [key.public_key().public_bytes_raw().hex() for key in (thief, KEY)]
    days = ("2000-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00")
    theirs = Statement("demo", *names, *days, False, keyring.digest(())).signed(thief, KEY)
    folder = signed_by(tmp_path / "r-1", thief, (theirs, *genuine))
    with pytest.raises(ReleaseRefused) as caught:
        release.read_release(folder, present.public_key())
    assert caught.value.code == "signature"


def test_an_old_release_counts_after_its_key_has_handed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "r-1")
    made = release.parse_lineage((folder / release.LINEAGE).read_bytes()).created
    statements, _ = handed_over(until=made)
    ring = keyring.of(KEY.public_key()).extended(statements)
    assert release.read_release(folder, ring).id == "r-1"


@pytest.mark.parametrize("words", [{"until": "2000-01-01T00:00:00+00:00"}, {"revoked": True}])
def test_a_signature_by_a_revoked_key_is_refused(tmp_path: Path, words: dict[str, Any]) -> None:
    folder = write(tmp_path / "r-1")
    ring = keyring.of(KEY.public_key()).extended(handed_over(**words)[0])
    with pytest.raises(release.ReleaseRefused) as caught:
        release.read_release(folder, ring)
    assert caught.value.code == "revoked_key"
    kept = release.read_release(folder, ring, kept=True)
    assert kept.id == "r-1"  # what serves, serves on
    assert kept.revoked == str(caught.value.detail)
    assert release.read_release(folder, KEY.public_key(), kept=True).revoked == ""
