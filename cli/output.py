"""How commands print: a table for people, or one JSON document with ``--json``."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def show(as_json: bool, document: Any, text: str) -> None:
    """Print the document as JSON, or the text."""
    typer.echo(json.dumps(document, indent=2, default=str) if as_json else text)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows under their columns, as wide as they need."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
