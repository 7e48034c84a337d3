"""Parquet files: a stranger's in pieces, of which few are in memory; the store's own whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interplant.core.errors import InterplantError
from interplant.data.columns import unparsed
from interplant.data.csv_pieces import LONGEST, PIECE, Piece

if TYPE_CHECKING:
    import pyarrow as pa

_END: Final = b"PAR1"
"""The last bytes of every whole file; what they follow, the footer, is written last."""


class NotWhole(Exception):
    """A Parquet file whose footer is not there yet."""


def parquet_pieces(path: Path, start: int, size: int) -> Iterator[Piece]:
    """Yield rows of a Parquet file; what is damaged as one row that says so.

    Args:
        path: The file.
        start: First row.
        size: Bytes of the file.

    Raises:
        NotWhole: It has no footer.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as raw:
        raw.seek(max(0, size - len(_END)))
        if raw.read(len(_END)) != _END:
            raise NotWhole
    row, rows = 0, 0
    try:
        with pq.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            for group in range(file.num_row_groups):
                about = file.metadata.row_group(group)
                if row + about.num_rows <= start:
                    row += about.num_rows
                    continue
                many = max(1, about.num_rows * PIECE // max(1, about.total_byte_size))
                for block in file.iter_batches(many, [group]):
                    first, row = row, row + len(block)
                    if row > start:
                        table = pa.Table.from_batches([block.slice(max(0, start - first))])
                        yield Piece(_without_views(table), max(first, start), row, size if row == rows else 0)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of what Arrow reads
        text = f"{path.name}: damaged, rows from {row} of {rows} cannot be read: {error}"
        yield Piece(unparsed([text], LONGEST), row, rows, size)


def whole(path: Path, mend: str) -> "pa.Table":
    """Read a file of the store's own.

    Args:
        path: The file.
        mend: What to do where it is damaged.

    Raises:
        InterplantError: It cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InterplantError(
            f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}; {mend}"
        ) from None


def _without_views(table: "pa.Table") -> "pa.Table":
    """The same values in kinds of columns that Arrow can pick rows of."""
    import pyarrow as pa

    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if not any(field.type in plain for field in table.schema):
        return table
    return table.cast(
        pa.schema([field.with_type(plain.get(field.type, field.type)) for field in table.schema])
    )
