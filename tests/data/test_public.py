"""Public datasets become plants: the real files where they lie at hand, made-up ones over HTTPS."""

import gzip
import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interplant.core import config
from interplant.core.errors import UsageError
from interplant.core.schema import Task
from interplant.data import ai4i2020, archives, gas_turbine, hydraulic, public
from interplant.data.archives import Archive
from interplant.data.frames import Dataset
from interplant.data.readings import read_folder, violations
from interplant.data.windows import training_windows

from .publisher import Publisher

EXAMPLES = Path(__file__).parents[2] / "examples"
CSV = "ai4i2020.csv"
HEAD = (
    "UDI,Product ID,Type,Air temperature [K],Process temperature [K],Rotational speed [rpm],Torque [Nm],"
    "Tool wear [min],Machine failure,TWF,HDF,PWF,OSF,RNF\r\n"
)


def products(count: int = 240) -> bytes:
    """A small table like AI4I's."""
    rows = [
        f"{one},X{one},{'LMH'[one % 3]},298.1,308.6,1551,42.8,{one % 200},{int(one % 7 == 0)},0,0,0,0,0\r\n"
        for one in range(1, count + 1)
    ]
    return ("\ufeff" + HEAD + "".join(rows)).encode()


def cycles() -> dict[str, bytes]:
    """Six cycles of a rig in three states for each cooler."""
    states = [(cooler, valve, 0, 130, 1) for cooler in (3, 20, 100) for valve in (73, 80, 90, 100) * 2]
    found = {name: "\n".join("\t".join([f"{place}.5"] * 60) for place in range(len(states))) for name in "x"}
    files = {f"{name}.txt": found["x"].encode() for name in hydraulic.SENSORS}
    return files | {hydraulic.PROFILE: "\n".join("\t".join(map(str, one)) for one in states).encode()}


def years(counts: int = 50) -> dict[str, bytes]:
    """The publisher's five files, with lines that end as on Windows."""
    head = "AT,AP,AH,AFDP,GTEP,TIT,TAT,TEY,CDP,CO,NOX\r\n"
    row = "4.5,1018.7,83.6,3.5,23.9,1086.2,549.8,134.6,11.8,0.3,{nox}\r\n"
    return {
        f"gt_{year}.csv": (head + "".join(row.format(nox=50 + hour) for hour in range(counts))).encode()
        for year in gas_turbine.YEARS
    }


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, one in files.items():
            packed.writestr(f"folder/{name}", one)
        packed.writestr("../escaped.txt", "x")
    return content.getvalue()


def known(archive: Archive, files: dict[str, bytes], packed: bytes = b"") -> Archive:
    """The archive with the digests of made-up files."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return replace(archive, files=digests, sha256=hashlib.sha256(packed).hexdigest())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """AI4I is a small table; its archive's content is returned."""
    packed = gzip.compress(products())
    monkeypatch.setattr(ai4i2020, "ARCHIVE", known(ai4i2020.ARCHIVE, {CSV: products()}, packed))
    return packed


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


# --- from a folder -----------------------------------------------------------------------------------


def test_an_archive_the_plain_file_and_a_zip_make_the_same_plants(small: bytes, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / ai4i2020.ARCHIVE.name).write_bytes(small)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / CSV).write_bytes(products())
    (tmp_path / "any.zip").write_bytes(zipped({CSV: products()}))
    for place, source in {"a": "packed", "b": "plain", "c": "any.zip"}.items():
        files = public.fetch("ai4i2020", tmp_path / place, tmp_path / source)
        assert files == [f"type-{one}/{part}.parquet" for one in "lmh" for part in ("train", "holdout")]
    assert listing(tmp_path / "a") == listing(tmp_path / "b") == listing(tmp_path / "c")
    assert not (tmp_path / "escaped.txt").exists()


@pytest.mark.parametrize("damage", ["archive", "file", "zip", "missing"])
def test_what_is_not_right_is_refused_and_nothing_written(small: bytes, tmp_path: Path, damage: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if damage == "archive":
        (source / ai4i2020.ARCHIVE.name).write_bytes(small[:-1])
    elif damage == "file":
        (source / CSV).write_bytes(products()[:-5])
    elif damage == "zip":
        source = tmp_path / "broken.zip"
        source.write_bytes(
            zipped({CSV: products()}).replace(b"\x00\x00\x00\x08", b"\x00\x00\x00\x09", 1)[:-30]
        )
    said = r"is missing" if damage == "missing" else r"expected SHA-256 [0-9a-f]{64}|damaged"
    with pytest.raises(UsageError, match=said):
        public.fetch("ai4i2020", tmp_path / "to", source)
    assert not (tmp_path / "to").exists()


def test_an_unknown_dataset_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of cmapss, ai4i2020, hydraulic, gas_turbine"):
        public.fetch("mnist", tmp_path)


def test_a_zip_with_too_large_a_member_is_not_unpacked(
    small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "any.zip").write_bytes(zipped({CSV: products()}))
    monkeypatch.setattr(archives, "LARGEST", 100)
    with pytest.raises(UsageError, match=r"ai4i2020\.csv is missing"):
        public.fetch("ai4i2020", tmp_path / "to", tmp_path / "any.zip")


# --- from the publisher ------------------------------------------------------------------------------


def test_a_download_that_is_cut_ends_in_the_same_plants(
    small: bytes,
    tmp_path: Path,
    publisher: Publisher,
) -> None:
    publisher.content, publisher.cut_after = zipped({CSV: products()}), [1000]
    said: list[str] = []
    public.fetch("ai4i2020", tmp_path / "to", url=publisher.address, tell=said.append)
    assert len(said) == 1
    assert publisher.asked == ["", "bytes=1000-"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / CSV).write_bytes(products())
    public.fetch("ai4i2020", tmp_path / "b", tmp_path / "plain")
    assert listing(tmp_path / "to") == listing(tmp_path / "b")
    public.fetch("ai4i2020", tmp_path / "to", url=publisher.address)
    assert len(publisher.asked) == 2, "what is there is not downloaded again"


def test_a_download_of_something_else_is_refused_and_forgotten(
    small: bytes,
    tmp_path: Path,
    publisher: Publisher,
) -> None:
    publisher.content = zipped({CSV: products(239)})
    with pytest.raises(UsageError, match=r"ai4i2020\.csv: expected SHA-256 .* get it again"):
        public.fetch("ai4i2020", tmp_path / "to", url=publisher.address)
    assert list((tmp_path / "to").iterdir()) == []
    publisher.content = zipped({CSV: products()})
    assert public.fetch("ai4i2020", tmp_path / "to", url=publisher.address)


def test_the_publishers_address_is_the_default(
    small: bytes,
    tmp_path: Path,
    publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = replace(public.DATASETS["ai4i2020"], url=publisher.address)
    monkeypatch.setitem(public.DATASETS, "ai4i2020", own)
    publisher.content = zipped({CSV: products()})
    assert public.fetch("ai4i2020", tmp_path / "to")
    assert all(one.url.startswith("https://") for one in public.DATASETS.values())


# --- what the plants are -----------------------------------------------------------------------------


def made(name: str, files: dict[str, bytes]) -> dict[str, Dataset]:
    plants = public.DATASETS[name].plants
    assert plants is not None
    return dict(plants(files))


def test_a_product_stands_on_one_side_by_its_number_alone() -> None:
    many, fewer = (made("ai4i2020", {CSV: products(count)}) for count in (240, 120))
    for name, dataset in many.items():
        train, holdout = set(dataset.train["product"]), set(dataset.holdout["product"])
        assert not train & holdout
        assert set(fewer[name].holdout["product"]) == {one for one in holdout if one <= 120}
        assert 0.1 < len(holdout) / len(train | holdout) < 0.4


def test_a_state_of_the_rig_is_held_out_as_a_whole() -> None:
    for dataset in made("hydraulic", cycles()).values():
        assert not set(dataset.train["setting"]) & set(dataset.holdout["setting"])
        assert (dataset.train.groupby("cycle").size() == 60).all()
        assert dataset.train["cooler"].nunique() == 1


def test_years_are_split_by_time_and_later_ones_lie_apart() -> None:
    files = gas_turbine.joined(years())
    plants = made("gas_turbine", dict(files))
    assert list(plants) == ["year-2011", "year-2012", "year-2013", "later/year-2014", "later/year-2015"]
    for dataset in plants.values():
        assert dataset.train["hour"].tolist() == list(range(40))
        assert dataset.holdout["hour"].tolist() == list(range(40, 50))


def test_the_publishers_five_years_are_the_one_file() -> None:
    lines = gas_turbine.joined(years(3))[gas_turbine.FILE].decode().splitlines()
    assert lines[0] == "year,AT,AP,AH,AFDP,GTEP,TIT,TAT,TEY,CDP,CO,NOX"
    assert len(lines) == 16
    assert lines[-1].startswith("2015,4.5,1018.7")
    only = {"gt_2011.csv": b"x"}
    assert gas_turbine.joined(only) == only


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("ai4i2020", {CSV: products()}),
        ("hydraulic", cycles()),
        ("gas_turbine", dict(gas_turbine.joined(years()))),
    ],
)
def test_an_examples_task_reads_its_plants_and_none_of_what_tells_the_label(
    name: str, files: dict[str, bytes]
) -> None:
    task = config.load(EXAMPLES / name / "task.yaml", Task)
    for dataset in made(name, files).values():
        for frame, holdout in ((dataset.train, False), (dataset.holdout, True)):
            found = violations(frame, task, holdout)
            assert {one.rule for one in found} <= {"extra", "range"}
            windows = training_windows(frame, task, checked=True)
            hidden = frame.assign(**{one: 0 for one in task.contract.never})
            np.testing.assert_array_equal(windows.x, training_windows(hidden, task, checked=True).x)
        assert {*task.contract.never, task.contract.label} <= set(frame.columns)
    assert task.privacy.private


def test_tables_go_through_a_folder(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / CSV).write_bytes(products())
    public.fetch("ai4i2020", tmp_path / "to", tmp_path / "plain")
    read = read_folder(tmp_path / "to" / "type-h")
    expected = made("ai4i2020", {CSV: products()})["type-h"]
    pd.testing.assert_frame_equal(read.train, expected.train)
    pd.testing.assert_frame_equal(read.holdout, expected.holdout)
