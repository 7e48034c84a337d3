"""The files of a public dataset out of whatever they came in, each checked against its known SHA-256.

A dataset lies at hand as the one archive whose digest is listed, as its plain files, or as a publisher's
zip, whose own digest nobody promises: there the files in it are checked. Everything is read in memory, so
that no member of an archive can choose where it is written.
"""

import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from interplant.core.errors import UsageError
from interplant.core.files import disk_errors, sha256_file

LARGEST = 256 << 20
"""Bytes of a member of a publisher's zip that are read; no listed file has as many."""


def _no_parts(found: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return found


@dataclass(frozen=True)
class Archive:
    """How a dataset is packed.

    Args:
        title: What people call the dataset.
        name: The archive's file name, ending in ``.tar.xz`` or ``.csv.gz``.
        sha256: Of the archive.
        files: SHA-256 of each file in it.
        joined: Makes the listed files of those that a publisher has, by name; it leaves the others alone.
    """

    title: str
    name: str
    sha256: str
    files: Mapping[str, str]
    joined: Callable[[Mapping[str, bytes]], Mapping[str, bytes]] = _no_parts


def contents(source: Path, archive: Archive) -> dict[str, bytes]:
    """Return the dataset's files by name.

    Args:
        source: A folder with the archive or with the plain files, or a zip of them.
        archive: What is expected.

    Raises:
        UsageError: Nothing to read there, or a digest that differs.
    """
    if source.is_file():
        found = _from_zip(source) if zipfile.is_zipfile(source) else _from_archive(source, archive)
    elif (source / archive.name).is_file():
        found = _from_archive(source / archive.name, archive)
    else:
        found = _from_folder(source)
    found = archive.joined(found)
    missing = [name for name in archive.files if name not in found]
    if missing:
        raise UsageError(
            f"{source}: expected {archive.name}, or the extracted {archive.title} files; "
            f"{missing[0]} is missing"
        )
    return {name: _right(source / name, found[name], known) for name, known in archive.files.items()}


def _from_archive(path: Path, archive: Archive) -> Mapping[str, bytes]:
    with disk_errors(path):
        found = sha256_file(path)
    if found != archive.sha256:
        raise UsageError(
            f"{path}: expected SHA-256 {archive.sha256}, found {found}; "
            "the file is damaged or another one: get it again"
        )
    if archive.name.endswith(".gz"):
        (name,) = archive.files
        return {name: gzip.decompress(path.read_bytes())}
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(path.read_bytes()))) as tar:
        return {name: _member(tar, name) for name in archive.files}


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    assert member is not None  # the archive's digest was checked
    return member.read()


def _from_zip(path: Path) -> Mapping[str, bytes]:
    try:
        with zipfile.ZipFile(path) as packed:
            return {
                PurePosixPath(one.filename).name: packed.read(one)
                for one in packed.infolist()
                if one.file_size <= LARGEST and not one.is_dir() and _is_table(one.filename)
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{path}: the zip is damaged: {error}; get it again") from None


def _from_folder(folder: Path) -> Mapping[str, bytes]:
    with disk_errors(folder):
        return {path.name: path.read_bytes() for path in _tables(folder)}


def _tables(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.is_file() and _is_table(path.name))


def _is_table(name: str) -> bool:
    return name.endswith((".txt", ".csv"))


def _right(path: Path, content: bytes, known: str) -> bytes:
    """Return the file's content, equal to the listed one byte by byte.

    A publisher may write zeros as -0.0000 (NASA does), or end its lines in another way.
    """
    for candidate in (content, content.replace(b" -0.0000 ", b" 0.0000 "), content.replace(b"\r\n", b"\n")):
        if hashlib.sha256(candidate).hexdigest() == known:
            return candidate
    raise UsageError(
        f"{path}: expected SHA-256 {known}, found {hashlib.sha256(content).hexdigest()}; "
        "the file is damaged or another one: get it again"
    )
