import hashlib
import io
import lzma
import tarfile
from pathlib import Path

import pytest

from interplant.core.errors import UsageError
from interplant.data import cmapss

ENGINES = {"train": ((1, 3), (2, 2)), "test": ((1, 2), (2, 1))}


def line(engine: int, cycle: int, setting: str = "0.0000") -> str:
    return (
        " ".join([str(engine), str(cycle), setting, "0.0003", "100.0", *(f"{n}.5" for n in range(1, 22))])
        + "  \n"
    )


def text(name: str) -> str:
    kind, _, _ = name.partition("_")
    if kind == "RUL":
        return "7\n90\n"
    return "".join(line(engine, cycle) for engine, count in ENGINES[kind] for cycle in range(1, count + 1))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a small C-MAPSS, with their own digests."""
    folder = tmp_path / "source"
    folder.mkdir()
    digests = {}
    for name in cmapss.FILES:
        (folder / name).write_text(text(name))
        digests[name] = hashlib.sha256(text(name).encode()).hexdigest()
    monkeypatch.setattr(cmapss, "FILES", digests)
    return folder


def archive(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    path = folder / cmapss.ARCHIVE
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name in cmapss.FILES:
            tar.add(source / name, arcname=name)
        tar.add(source / "RUL_FD001.txt", arcname="../escaped.txt")
    path.write_bytes(lzma.compress(content.getvalue()))
    monkeypatch.setattr(cmapss, "ARCHIVE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")}


def test_extracted_files_and_the_archive_end_in_the_same_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmapss.fetch(source, tmp_path / "a")
    cmapss.fetch(archive(source, tmp_path / "packed", monkeypatch), tmp_path / "b")
    assert listing(tmp_path / "a") == listing(tmp_path / "b") == listing(source)
    assert not (tmp_path / "escaped.txt").exists()


def test_what_is_there_is_not_fetched_again(source: Path, tmp_path: Path) -> None:
    cmapss.fetch(source, tmp_path / "a")
    cmapss.fetch(tmp_path / "nowhere", tmp_path / "a")


def test_a_damaged_archive_is_refused_and_nothing_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = archive(source, tmp_path / "packed", monkeypatch)
    path = packed / cmapss.ARCHIVE
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UsageError, match=r"cmapss\.tar\.xz: expected SHA-256 .*get it again"):
        cmapss.fetch(packed, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_changed_file_is_refused_and_nothing_written(source: Path, tmp_path: Path) -> None:
    (source / "train_FD004.txt").write_text(text("train_FD004.txt").replace("3.5", "3.6"))
    with pytest.raises(UsageError, match=r"train_FD004\.txt: expected SHA-256"):
        cmapss.fetch(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_missing_file_is_named(source: Path, tmp_path: Path) -> None:
    (source / "RUL_FD002.txt").unlink()
    with pytest.raises(UsageError, match=r"RUL_FD002\.txt is missing"):
        cmapss.fetch(source, tmp_path / "target")
    with pytest.raises(UsageError, match=r"expected cmapss\.tar\.xz, or the extracted"):
        cmapss.fetch(tmp_path / "nowhere", tmp_path / "target")


def test_the_sign_of_a_zero_makes_no_difference(source: Path, tmp_path: Path) -> None:
    published = source / "train_FD003.txt"
    expected = published.read_bytes()
    published.write_text(text("train_FD003.txt").replace(" 0.0000 ", " -0.0000 ", 2))
    assert published.read_bytes() != expected
    cmapss.fetch(source, tmp_path / "target")
    assert (tmp_path / "target" / "train_FD003.txt").read_bytes() == expected


def test_read_names_columns_as_the_contract_and_knows_rul_at_every_row(source: Path) -> None:
    dataset = cmapss.read(source, "FD003")
    names = ["machine", "cycle", "setting1", "setting2", "setting3"]
    assert list(dataset.train.columns[:6]) == [*names, "s2"]
    assert dataset.train.shape == (5, 19)
    assert list(dataset.holdout.columns) == [*dataset.train.columns, "rul"]
    # Engine 1 is seen for 2 cycles and fails 7 later; engine 2 for 1, and fails 90 later.
    assert dataset.holdout["rul"].tolist() == [8, 7, 90]
    assert dataset.train["s14"].tolist() == [14.5] * 5
    assert dataset.simulated is False


def test_read_keeps_other_sensors_on_request(source: Path) -> None:
    dataset = cmapss.read(source, "FD001", ["setting1", "s1", "s6"])
    assert list(dataset.train.columns) == ["machine", "cycle", "setting1", "s1", "s6"]


def test_read_says_what_is_wrong(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of FD001, FD002, FD003, FD004, found 'FD005'"):
        cmapss.read(source, "FD005")
    with pytest.raises(UsageError, match=r"test_FD001\.txt: expected a C-MAPSS file here, found none"):
        cmapss.read(tmp_path, "FD001")
