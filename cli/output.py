"""How commands print: words and tables for people, or one JSON document with ``--json``."""

import json
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def show(as_json: bool, document: Any, text: str) -> None:
    """Print the document as JSON, or the text."""
    typer.echo(json.dumps(document, indent=2, default=_plain) if as_json else text)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str = "none") -> str:
    """Lay out rows under their columns, as wide as they need; ``empty`` stands for no rows."""
    if not rows:
        return empty
    cells = [[_cell(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(_width(row[index]) for row in cells) for index in range(len(columns))]
    lines = ["  ".join(_pad(cell, width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def facts(pairs: dict[str, object]) -> str:
    """Lay out names and values, one a line."""
    width = max(_width(name) for name in pairs)
    return "\n".join(f"{_pad(name, width)}  {_cell(value)}".rstrip() for name, value in pairs.items())


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Columns that a terminal gives the text: combining marks take none."""
    return sum(not unicodedata.combining(character) for character in text)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
