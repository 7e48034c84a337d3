"""Public industrial datasets, each as the tables of several plants.

The digests are those of the files that Interplant was built with. Publishers pack them differently: of a
download the files in it are checked, not the package. None of the addresses could be tried where this was
written, without a way to the internet; ``--url`` names another, ``--from`` a folder with the files.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from interplant.core.errors import UsageError
from interplant.core.files import write_atomic
from interplant.data import ai4i2020, cmapss, gas_turbine, hydraulic, tables
from interplant.data.archives import Archive, contents
from interplant.data.download import download
from interplant.data.frames import Dataset

Plants = Callable[[Mapping[str, bytes]], Iterator[tuple[str, Dataset]]]


@dataclass(frozen=True)
class Published:
    """A public dataset.

    Args:
        archive: Its files and their digests.
        url: The publisher's address of a zip with them.
        plants: Makes of the files each plant's name, perhaps in a folder, and readings; None where the files
            themselves are what is kept.
    """

    archive: Callable[[], Archive]
    url: str
    plants: Plants | None


DATASETS: Final = {
    "cmapss": Published(cmapss.archive, "https://data.nasa.gov/docs/legacy/CMAPSSData.zip", None),
    "ai4i2020": Published(
        lambda: ai4i2020.ARCHIVE,
        "https://archive.ics.uci.edu/static/public/601/ai4i+2020+predictive+maintenance+dataset.zip",
        ai4i2020.plants,
    ),
    "hydraulic": Published(
        lambda: hydraulic.ARCHIVE,
        "https://archive.ics.uci.edu/static/public/447/condition+monitoring+of+hydraulic+systems.zip",
        hydraulic.plants,
    ),
    "gas_turbine": Published(
        lambda: gas_turbine.ARCHIVE,
        "https://archive.ics.uci.edu/static/public/551/gas+turbine+co+and+nox+emission+data+set.zip",
        gas_turbine.plants,
    ),
}


def fetch(
    name: str,
    target: Path,
    source: Path | None = None,
    url: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Write a dataset's plants, or of C-MAPSS its text files, into a folder.

    Args:
        name: One of `DATASETS`.
        target: For each plant a folder with ``train.parquet`` and ``holdout.parquet``. The same dataset
            makes the same files again.
        source: Folder with the archive or the plain files; by default they are downloaded, and the package
            stays in ``target``.
        url: Where to download from in place of the publisher's address.
        tell: Hears how a download gets on.

    Returns:
        The files, relative to ``target``.

    Raises:
        UsageError: There is no such dataset, nothing to read, or a digest differs. Nothing is written
            unless every file is right.
        InterplantError: The download fails.
    """
    if name not in DATASETS:
        raise UsageError(f"dataset {name!r}: expected one of {', '.join(DATASETS)}")
    published = DATASETS[name]
    if source is None:
        found = _downloaded(published, url or published.url, target, tell)
    else:
        found = contents(source, published.archive())
    files = dict(_files(published, found))
    for file, content in files.items():
        write_atomic(target / file, content)
    return list(files)


def _downloaded(
    published: Published, url: str, target: Path, tell: Callable[[str], None]
) -> Mapping[str, bytes]:
    package = target / (PurePosixPath(unquote(urlsplit(url).path)).name or "package")
    if not package.is_file():
        download(url, package, tell)
    try:
        return contents(package, published.archive())
    except UsageError:
        package.unlink()  # or the next call would find it again
        raise


def _files(published: Published, found: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    if published.plants is None:
        yield from found.items()
        return
    for plant, dataset in published.plants(found):
        encoded = tables.encode(dataset, dataset.train.columns[0])
        for file in (tables.TRAIN, tables.HOLDOUT):
            yield f"{plant}/{file}", encoded[file]
