"""Readings from a database that SQLAlchemy reaches: a historian's tables, an MES.

Rows are read in the order of a watermark column, from the last mark on and a little before: what has the same
mark, or was committed late, comes again, and the store takes every reading once. Rows stream; the database
is never asked to change anything.
"""

import math
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from interplant.core.errors import UsageError
from interplant.core.possible import count, need
from interplant.core.schema import Source
from interplant.data.columns import from_columns
from interplant.data.marks import Marks
from interplant.data.patience import Patience
from interplant.data.sources import Batch, Place, numeric, words

_AWAY: Final = ("08", "53", "57", "58")
"""Classes of SQLSTATE that waiting helps: connection, resources, an operator's stop, the system."""

_KINDS: Final = (int, float, Decimal, date, str, type(None))
"""What a watermark may be."""

_ISO: Final = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d(?:(?P<sep>[ T])\d\d:\d\d(?::\d\d)?)?)(?:[.,]\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
"""A time as text; what is smaller than a second, and the offset, follow it."""


@dataclass
class Args:
    """What ``plant.yaml`` says of a database.

    Args:
        url: SQLAlchemy's; ``${oc.env:NAME}`` keeps the password out of the file.
        table: To read, ``schema.table`` or ``table``; or
        query: A ``SELECT`` whose columns the readings are.
        watermark: Column that grows with every row: a time of insertion, a sequence.
        overlap: How far before the last mark to read again, for rows that are committed late: seconds where
            the watermark is a time, or text that is one in ISO 8601, else its own unit; 0 for other text.
        batch_rows: Rows in memory at a time.
        period_seconds: How often to ask for more.
    """

    url: str = ""
    table: str = ""
    query: str = ""
    watermark: str = ""
    overlap: float = 60.0
    batch_rows: int = 50_000
    period_seconds: float = 5.0

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(bool(self.url), "url", "expected a database's URL, found none")
        need(
            bool(self.table) != bool(self.query),
            "table",
            "expected a table or a query, found both or neither",
        )
        need(bool(self.watermark), "watermark", "expected a column that grows with every row, found none")
        need(0 <= self.overlap < math.inf, "overlap", f"expected 0 or more, found {self.overlap}")
        count(self.batch_rows, 10_000_000, "batch_rows")
        need(self.period_seconds > 0, "period_seconds", f"expected more than 0, found {self.period_seconds}")


def open_source(source: Source, place: Place) -> "Database":
    """Return the database that a source describes; nothing is connected yet.

    Raises:
        UsageError: Its ``args`` are wrong, or the library for its database is not installed.
    """
    args = words(source, Args)
    key = f"data.sources.{source.name}.args"
    try:
        engine = sa.create_engine(args.url, poolclass=sa.NullPool)
    except (ArgumentError, NoSuchModuleError, ValueError):
        # Not the library's own words: they may hold the password.
        raise UsageError(
            f"{key}: url: expected one such as postgresql+pg8000://user:…@host/database"
        ) from None
    except ImportError as error:
        raise UsageError(
            f"{key}: url: the library {error.name} is not installed; for PostgreSQL: pip install "
            "'interplant[postgres]'"
        ) from None
    return Database(
        args, engine, Marks(place.state / "mark.json"), source, numeric(source, place.contract), key
    )


@dataclass
class Database:
    """Rows of a table or a query; see `Feed`.

    Args:
        args: The source's own words.
        engine: That connects.
        marks: The last mark.
        source: Whose rows they are.
        numbers: Names of columns that hold numbers.
        key: Of the args in ``plant.yaml``, for errors.
    """

    args: Args
    engine: sa.Engine
    marks: Marks
    source: Source
    numbers: frozenset[str]
    key: str
    _answered: bool = field(default=False, init=False)

    def batches(self, watch: bool, stop: threading.Event) -> Iterator[Batch]:
        """Yield rows from the last mark on.

        ``stop`` is seen between rows: not while the database thinks about its first one.
        """
        patience = Patience(f"source {self.source.name}: the database {self.engine.url!r}")
        mark = _plain(self.marks.values.get("mark"))
        try:
            while not stop.is_set():
                start = self._start(mark)
                try:
                    for names, rows in self._read(start):
                        patience.succeeded()
                        mark = self._next(mark, [row[names.index(self.args.watermark)] for row in rows])
                        yield self._batch(names, rows, mark)
                        if stop.is_set():
                            return
                except SQLAlchemyError as error:
                    patience.wait(self._judge(error), stop)
                    continue
                patience.succeeded()
                if not watch:
                    return
                stop.wait(self.args.period_seconds)
        finally:
            self.engine.dispose()

    def _next(self, mark: Any, found: list[Any]) -> Any:
        """The mark after some rows in order, if one can be remembered and gone on from."""
        try:
            later = _later(mark, found)
        except (TypeError, ArithmeticError):
            kinds = " and ".join(sorted({type(one).__name__ for one in (mark, *found) if one is not None}))
            raise UsageError(
                f"{self.key}: watermark: expected values that can be put in order, found {kinds}; name "
                "another column"
            ) from None
        if not isinstance(later, _KINDS):
            raise UsageError(
                f"{self.key}: watermark: expected numbers, times or texts, found {type(later).__name__}; "
                "name another column"
            )
        self._start(later)
        return later

    def _start(self, mark: Any) -> Any:
        """The mark to read from."""
        try:
            return _before(mark, self.args.overlap)
        except (OverflowError, ArithmeticError):
            what = f"one that {mark} can be moved back by"
        except ValueError:
            what = (
                f"0, as the watermark {str(mark)[:100]!r} is a text and no time such as 2026-01-01 08:00:00"
            )
        raise UsageError(f"{self.key}: overlap: expected {what}, found {self.args.overlap:g}")

    def _read(self, start: Any) -> Iterator[tuple[list[str], Sequence[sa.Row[Any]]]]:
        """Yield names and rows of all that is not before ``start``, in the watermark's order."""
        column: sa.ColumnElement[Any] = sa.column(self.args.watermark)
        statement = sa.select(sa.text("*")).select_from(self._origin()).order_by(column)
        if start is not None:
            statement = statement.where(column >= start)
        with self.engine.connect() as connection:
            options = {"stream_results": True, "yield_per": self.args.batch_rows}
            with connection.execute(statement, execution_options=options) as result:
                self._answered = True
                names = list(result.keys())
                if self.args.watermark not in names:
                    raise UsageError(
                        f"{self.key}: watermark: expected one of {names}, found {self.args.watermark!r}"
                    )
                for rows in result.partitions():
                    yield names, rows

    def _origin(self) -> sa.FromClause:
        if self.args.query:
            return sa.text(self.args.query.rstrip("; \n")).columns().subquery("readings")
        schema, _, table = self.args.table.rpartition(".")
        return sa.table(table, schema=schema or None)

    def _batch(self, names: list[str], rows: Sequence[sa.Row[Any]], mark: Any) -> Batch:
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))

        def kept() -> None:
            if mark is not None:
                self.marks.values["mark"] = _written(mark)
                self.marks.save()

        what = self.args.table or "query"
        return Batch(from_columns(columns, self.numbers), f"{what} to {self.args.watermark} {mark}", kept)

    def _judge(self, error: SQLAlchemyError) -> str:
        """Say what is wrong in one line; raise if waiting does not help: words or rights are wrong."""
        orig: Any = getattr(error, "orig", None)
        told = getattr(orig, "args", None)
        # pg8000's errors are a dict of what PostgreSQL tells.
        fields = told[0] if told and isinstance(told[0], dict) else {}
        state = str(fields.get("C") or getattr(orig, "sqlstate", None) or "")
        said = str(fields.get("M") or orig or error).splitlines()[0]
        away = state.startswith(_AWAY) if state else _is_away(error, orig)
        if not away and not self._answered:
            raise UsageError(f"{self.key}: the database {self.engine.url!r} refuses: {said}")
        return said


def _is_away(error: SQLAlchemyError, orig: Any) -> bool:
    """Whether an error without an SQLSTATE is one of the connection."""
    broken = isinstance(error, DBAPIError) and error.connection_invalidated
    return broken or type(orig).__name__ == "InterfaceError" or isinstance(orig, OSError)


def _later(mark: Any, found: list[Any]) -> Any:
    """The mark after some rows in order; a row without one comes with the first reading only."""
    last = next((one for one in reversed(found) if one is not None), None)
    return last if mark is None or (last is not None and last > mark) else mark


def _before(mark: Any, overlap: float) -> Any:
    """The mark to read from, so that nothing at the last one or committed after it is missed.

    Raises:
        ValueError: It is a text and no time, and there is an overlap.
        OverflowError: There is nothing that far back.
    """
    if isinstance(mark, datetime):
        return mark - timedelta(seconds=overlap)
    if isinstance(mark, date):
        return mark - timedelta(days=math.ceil(overlap / 86400))
    if isinstance(mark, int):
        return max(mark - math.floor(overlap), min(mark, -(2**63)))
    if isinstance(mark, float):
        return mark - overlap
    if isinstance(mark, str) and overlap:
        return _text_before(mark, overlap)
    return mark - Decimal(overlap) if isinstance(mark, Decimal) else mark


def _text_before(mark: str, overlap: float) -> str:
    """A time that is text, moved back; without what follows its second, so that it sorts before all of that.

    Raises:
        ValueError: It is no time in ISO 8601.
    """
    found = _ISO.fullmatch(mark)
    if found is None:
        raise ValueError(mark)
    written = found["time"]
    moved = datetime.fromisoformat(written) - timedelta(seconds=overlap)
    # As many characters as there were: a day, or a minute, begins no later.
    return moved.isoformat(sep=found["sep"] or "T", timespec="seconds")[: len(written)]


def _written(mark: Any) -> Any:
    """A mark as JSON; see `_plain`."""
    if isinstance(mark, date | Decimal):
        return {type(mark).__name__: mark.isoformat() if isinstance(mark, date) else str(mark)}
    return mark


def _plain(mark: Any) -> Any:
    """What `_written` wrote."""
    if not isinstance(mark, dict):
        return mark
    ((kind, text),) = mark.items()
    if kind == "Decimal":
        return Decimal(text)
    return datetime.fromisoformat(text) if kind == "datetime" else date.fromisoformat(text)
