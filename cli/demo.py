"""``interplant demo``: the whole loop on this machine."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interplant.cli.output import Json, show, table

if TYPE_CHECKING:
    from interplant.lab.summary import Summary


def demo(
    directory: Annotated[Path, typer.Option("--dir", help="The demo's folder.")] = Path("interplant-demo"),
    dataset: Annotated[str, typer.Option(help="simulated, or cmapss (with --data).")] = "simulated",
    data: Annotated[Path | None, typer.Option(help="Folder with cmapss.tar.xz.")] = None,
    engine: Annotated[str, typer.Option(help="grpc, simulate or flower.")] = "grpc",
    rounds: Annotated[int, typer.Option(help="Rounds of each run; 0: as many as are usual.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the simulated data, the model and the batches.")] = 0,
    port: Annotated[int, typer.Option(help="Port of the coordinator; 0: a free one.")] = 0,
    loop: Annotated[
        bool, typer.Option(help="Show too how a drifting sensor leads to a new model by itself.")
    ] = True,
    json: Json = False,
) -> None:
    """Run the whole loop here: a coordinator and four plants, TLS, privacy, a signed release."""
    started = _process_start()
    from interplant.lab.demo import Settings, run_demo, runs_folder
    from interplant.lab.prepared import Source

    source = Source(dataset, data, seed=seed)
    settings = Settings(directory, source, engine, rounds, seed, port, loop=loop, started=started)
    with _teller() as tell:
        made = run_demo(settings, tell)
    show(json, made.as_dict(), _text(made, runs_folder(directory, made)))


def _text(made: "Summary", folder: Path) -> str:
    from interplant.lab import summary

    lines = ["", summary.title(made), "", table(summary.COLUMNS, summary.rows(made)), ""]
    lines += [f"- {note}" for note in summary.notes(made)]
    if made.loop:
        lines += ["", *_told(made.loop), f"- Picture: {folder / 'loop.png'}"]
    return "\n".join([*lines, f"- Picture and figures: {folder / 'summary.png'}, {folder / 'summary.json'}"])


def _told(loop: dict[str, Any]) -> list[str]:
    """What the loop has shown, line by line."""
    files = [f"{one['rmse']:.1f} ({one['offset']:+g})" for one in loop["arrived"]]
    rows = [
        [one["plant"], one["before"], one["after"], one["state"], one["sentence"]] for one in loop["tried"]
    ]
    columns = ["plant", "before", "after", "gate", "why"]
    return [
        f"Sensor {loop['sensor']} drifts at {loop['plant']}; the error of what serves there, file by file "
        f"(how far the sensor is off): {', '.join(files)}.",
        f"The alarm came with file {loop['alarm']} ({', '.join(loop['alarms'])}); run {loop['run']} was "
        f"{loop['because']}; nobody typed a command.",
        "",
        table(columns, rows),
        "",
    ]


def _process_start() -> float:
    """When the command began: imports count too."""
    import psutil

    return float(psutil.Process().create_time())


def _teller() -> "PlainTeller":
    return LiveTeller() if sys.stderr.isatty() else PlainTeller()


class PlainTeller:
    """Progress as lines on standard error."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._last: tuple[str, int] = ("", 0)

    def __enter__(self) -> "PlainTeller":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put away."""

    def stage(self, text: str) -> None:
        """Say what begins."""
        self._say(text)

    def round(self, label: str, done: int, rounds: int) -> None:
        """Say each round once."""
        if (label, done) != self._last:
            self._last = (label, done)
            self._say(f"{label}: {done} of {rounds} rounds")

    def _say(self, text: str) -> None:
        typer.echo(f"{time.monotonic() - self._begun:6.1f} s  {text}", err=True)


class LiveTeller(PlainTeller):
    """Progress as a line that moves, for a terminal."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}")]
        self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self._task: Any = None

    def __enter__(self) -> "LiveTeller":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the lines as they stand."""
        self._finish()
        self._progress.stop()

    def stage(self, text: str) -> None:
        """Begin a line."""
        self._finish()
        self._task = self._progress.add_task(text, total=None, count="")
        self._last = ("", 0)

    def round(self, label: str, done: int, rounds: int) -> None:
        """Move the line of a run."""
        if label != self._last[0]:
            self._finish()
            self._task = self._progress.add_task(label, total=rounds, count="")
        if (label, done) != self._last:
            self._last = (label, done)
            self._progress.update(self._task, completed=done, count=f"{done} of {rounds} rounds")

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1, completed=1)
            self._progress.stop_task(self._task)
            self._task = None
