"""Typer as the commands use it: plain help texts, whatever versions of click and rich are installed."""

import typing
from collections.abc import Callable
from typing import Any

import click
import typer
import typer.core

# With rich installed, typer 0.20 escapes brackets in help texts that rich then does not print.
typer.core.HAS_RICH = False


class Command(typer.core.TyperCommand):
    """A command whose arguments are listed once, with their help.

    Click 8.4 lists arguments beside typer 0.20's own list, and takes their help from typer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        hints = typing.get_type_hints(self.callback, include_extras=True)
        for parameter in self.params:
            for info in getattr(hints.get(str(parameter.name)), "__metadata__", ()):
                if isinstance(parameter, click.Argument):
                    parameter.help = info.help

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: `format_options` writes them."""


class Group(typer.Typer):
    """A group of commands.

    Args:
        help: What the group is about, one sentence.
    """

    def __init__(self, help: str) -> None:
        super().__init__(
            help=help,
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            add_completion=False,
            rich_markup_mode=None,
        )

    def command(self, name: str | None = None, **more: Any) -> Callable[[Any], Any]:
        """Register a function as a command; its docstring is its help."""
        return super().command(name, cls=Command, **more)
