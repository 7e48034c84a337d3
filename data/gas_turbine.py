"""Emissions of a gas turbine (real), five years of hourly readings: three years are three plants.

Source: H. Kaya, P. Tüfekci and E. Uzun, "Predicting CO and NOx emissions from gas turbines: novel data and a
benchmark PEMS", Turkish Journal of Electrical Engineering and Computer Sciences, 2019; UCI Machine Learning
Repository, dataset 551, CC BY 4.0.

The turbine changes from year to year: 2014 and 2015 lie apart, for what becomes of a model of the years
before. The file tells the year and the order of the hours, and leaves out hours without saying which; so
``hour`` is a count.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Final

from interplant.data.archives import Archive
from interplant.data.frames import Dataset

FILE: Final = "gas_turbine_2011_2015.csv"
YEARS: Final = (2011, 2012, 2013, 2014, 2015)
LAST: Final = 2013
"""The last year that is a plant; later ones lie in a folder of their own."""

HELD_OUT: Final = 0.2
"""Share of a year's hours that are held out: its last ones."""


def joined(parts: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Put the publisher's files, one a year, into one with the year before each line."""
    names = {f"gt_{year}.csv": year for year in YEARS}
    if FILE in parts or not names.keys() <= parts.keys():
        return parts
    tables = {name: parts[name].decode().split() for name in names}
    head = f"year,{next(iter(tables.values()))[0]}"
    rows = [f"{names[name]},{row}" for name, table in tables.items() for row in table[1:]]
    return {**parts, FILE: ("\n".join([head, *rows]) + "\n").encode()}


ARCHIVE: Final = Archive(
    "gas turbine",
    "gas_turbine_2011_2015.csv.gz",
    "62bbc480a9b0aa902fd596d53488f056f57d861f1d665a9039e2a670656228d8",
    {FILE: "50ca9753fed1d106364213f7b32e9dee02b45cbcbf406b98f4ab301fbbe06ba5"},
    joined,
)


def plants(files: Mapping[str, bytes]) -> Iterator[tuple[str, Dataset]]:
    """Yield ``year-2011`` to ``year-2013``, and ``later/year-2014`` and ``later/year-2015``.

    Of each year the last fifth of the hours is held out.
    """
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(files[FILE])).rename(columns=str.lower)
    frame.insert(1, "hour", frame.groupby("year").cumcount())
    for year in YEARS:
        own = frame[frame["year"] == year].reset_index(drop=True)
        trained = round(len(own) * (1.0 - HELD_OUT))
        place = "" if year <= LAST else "later/"
        train, holdout = own.iloc[:trained], own.iloc[trained:].reset_index(drop=True)
        yield f"{place}year-{year}", Dataset(train, holdout, simulated=False)
