import hashlib
import json
import os

import pytest

from interplant.core import certificates, signing
from interplant.core.errors import InterplantError
from interplant.core.signing import Entry

KEY = signing.make_key()
PUBLIC = KEY.public_key()
META = {"task": "turbofan", "parent": None, "rounds": 3}


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "r1"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights" * 100)
    (folder / "card.md").write_text("# Card")
    signing.sign_folder(folder, META, KEY)
    return folder


def sign_by_hand(folder, files, meta=None, key=KEY, **more):
    content = {"format": signing.FORMAT, "files": files, "meta": {} if meta is None else meta, **more}
    text = json.dumps(content).encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sig").write_bytes(key.sign(text))


def test_whole_release_is_accepted(release):
    manifest = signing.verify(release, PUBLIC)
    assert manifest["meta"] == META
    assert set(manifest["files"]) == {"weights.safetensors", "card.md"}
    assert manifest["files"]["card.md"] == {"sha256": hashlib.sha256(b"# Card").hexdigest(), "size": 6}


def test_release_is_named_by_its_manifest(release):
    digest = signing.sign_folder(release, META, KEY)
    assert digest == hashlib.sha256((release / "manifest.json").read_bytes()).hexdigest()
    assert digest == signing.sign_folder(release, META, KEY)


def test_manifest_is_canonical():
    files = {"b": Entry("0" * 64, 1), "a": Entry("1" * 64, 2)}
    one = signing.sign_manifest(files, {"y": 1, "x": "é"}, KEY)
    two = signing.sign_manifest(dict(reversed(files.items())), {"x": "é", "y": 1}, KEY)
    assert one == two
    assert one[0].startswith(b'{"files":{"a":{"sha256":"111')
    assert len(one[1]) == 64
    PUBLIC.verify(one[1], one[0])


def test_numbers_that_are_none_are_not_signed():
    with pytest.raises(ValueError, match="JSON"):
        signing.sign_manifest({}, {"epsilon": float("nan")}, KEY)


def test_changed_file_is_named(release):
    (release / "card.md").write_text("# Cart")
    with pytest.raises(InterplantError, match=r"'card\.md' was changed"):
        signing.verify(release, PUBLIC)


def test_longer_file_is_named(release):
    with (release / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InterplantError, match=r"'weights\.safetensors' was changed"):
        signing.verify(release, PUBLIC)


def test_wrong_size_is_refused_even_under_a_right_digest(release):
    entry = {"sha256": hashlib.sha256(b"# Card").hexdigest(), "size": 7}
    (release / "weights.safetensors").unlink()
    sign_by_hand(release, {"card.md": entry})
    with pytest.raises(InterplantError, match=r"'card\.md' was changed"):
        signing.verify(release, PUBLIC)


def test_missing_file_is_named(release):
    (release / "card.md").unlink()
    with pytest.raises(InterplantError, match=r"'card\.md' is missing"):
        signing.verify(release, PUBLIC)


@pytest.mark.parametrize("name", ["run.sh", ".hidden"])
def test_extra_file_is_named(release, name):
    (release / name).write_text("x")
    with pytest.raises(InterplantError, match=f"'{name}' is not listed"):
        signing.verify(release, PUBLIC)


def test_extra_folder_is_named(release):
    (release / "more").mkdir()
    with pytest.raises(InterplantError, match="'more' is not a plain file"):
        signing.verify(release, PUBLIC)


def test_link_is_not_a_file_even_to_the_right_content(release, tmp_path):
    (release / "card.md").rename(tmp_path / "card.md")
    os.symlink(tmp_path / "card.md", release / "card.md")
    with pytest.raises(InterplantError, match=r"'card\.md' is not a plain file"):
        signing.verify(release, PUBLIC)


def test_signature_by_another_key_is_refused(release):
    signing.sign_folder(release, META, signing.make_key())
    with pytest.raises(InterplantError, match="not signed by this federation"):
        signing.verify(release, PUBLIC)


def test_changed_manifest_is_refused_before_it_is_read(release):
    # Not even JSON: what the signature does not cover is never parsed.
    (release / "manifest.json").write_bytes(b"[" * 100_000)
    (release / "card.md").unlink()
    with pytest.raises(InterplantError, match="not signed by this federation"):
        signing.verify(release, PUBLIC)


def test_changed_meta_is_refused(release):
    text = (release / "manifest.json").read_bytes()
    (release / "manifest.json").write_bytes(text.replace(b'"rounds":3', b'"rounds":4'))
    with pytest.raises(InterplantError, match="not signed by this federation"):
        signing.verify(release, PUBLIC)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_missing_manifest_or_signature_is_named(release, name):
    (release / name).unlink()
    with pytest.raises(InterplantError, match=name):
        signing.verify(release, PUBLIC)


@pytest.mark.parametrize(
    "name",
    ["../card.md", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "-rf", "a\\b", "a\0b", "manifest.sig"],
)
def test_names_that_lead_elsewhere_are_neither_signed_nor_accepted(release, name):
    with pytest.raises(InterplantError, match="cannot be a file of a release"):
        signing.sign_manifest({name: Entry("0" * 64, 1)}, {}, KEY)
    sign_by_hand(release, {name: {"sha256": "0" * 64, "size": 1}})
    with pytest.raises(InterplantError, match="cannot be a file of a release"):
        signing.verify(release, PUBLIC)


def test_file_outside_the_folder_is_out_of_reach(release):
    (release.parent / "secret").write_text("x")
    for path in release.iterdir():
        path.unlink()
    sign_by_hand(release, {"../secret": {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}})
    with pytest.raises(InterplantError, match="cannot be a file of a release"):
        signing.verify(release, PUBLIC)


@pytest.mark.parametrize(
    ("files", "more"),
    [
        ({"a": {"sha256": "0" * 63, "size": 1}}, {}),
        ({"a": {"sha256": "0" * 64}}, {}),
        ({"a": {"sha256": "0" * 64, "size": "1"}}, {}),
        ({"a": "0" * 64}, {}),
        (["a"], {}),
        ({}, {"format": "interplant-release/2"}),
        ({}, {"meta": []}),
    ],
)
def test_manifest_of_another_form_is_one_sentence(release, files, more):
    sign_by_hand(release, files, **more)
    with pytest.raises(InterplantError, match="expected a manifest of format"):
        signing.verify(release, PUBLIC)


def test_keys_come_back_from_pem(tmp_path):
    certificates.write_key(tmp_path / "release.key", signing.key_pem(KEY))
    (tmp_path / "release.pub").write_bytes(signing.public_pem(PUBLIC))
    assert signing.read_public(tmp_path / "release.pub") == PUBLIC
    assert signing.read_private(tmp_path / "release.key").public_key() == PUBLIC


def test_wrong_keys_are_one_sentence(tmp_path):
    tls = certificates.make_key()
    with pytest.raises(InterplantError, match="expected an Ed25519 key"):
        signing.parse_private(certificates.key_pem(tls))
    with pytest.raises(InterplantError, match="expected an Ed25519 public key"):
        signing.parse_public(signing.key_pem(KEY))
    with pytest.raises(InterplantError, match="expected an Ed25519 private key"):
        signing.parse_private(b"nonsense")
    with pytest.raises(InterplantError, match=r"release\.pub: cannot be read"):
        signing.read_public(tmp_path / "release.pub")
