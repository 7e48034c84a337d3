"""A large file over HTTPS that may be cut off: what has come stays, and the next try goes on from there."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import disk_errors

if TYPE_CHECKING:
    import httpx

TRIES: Final = 5
"""Times in a row that a connection may fail without a byte of news."""

PAUSE: Final = 1.0
"""Seconds before the second try; each further one waits twice as long."""

LARGEST: Final = 1 << 30
"""Bytes of a download; the largest public dataset has less than a tenth of them."""


def download(url: str, target: Path, tell: Callable[[str], None] = lambda _: None) -> None:
    """Download a file, or what of it is still missing.

    What has come lies beside ``target`` as ``.part`` until it is whole. Nothing is checked here but that it
    is whole: whoever reads the file knows its digest.

    Args:
        url: An ``https`` address; where it leads on, that must be one too.
        target: Where to put it; its folder is made if missing.
        tell: Hears that a connection was cut and is tried again.

    Raises:
        UsageError: The address is none, or not of ``https``.
        InterplantError: The server does not have the file or cannot be reached; or it is too large.
    """
    import httpx

    part = target.with_name(f"{target.name}.part")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with httpx.Client(
        follow_redirects=True,
        timeout=30.0,
        headers={"Accept-Encoding": "identity"},
        event_hooks={"request": [partial(_check_address, url)]},
    ) as client:
        while True:
            before = _size(part)
            try:
                if _receive(client, url, part):
                    break
            except (httpx.TransportError, httpx.TooManyRedirects) as error:
                failed = 1 if _size(part) > before else failed + 1
                if failed >= TRIES:
                    raise InterplantError(
                        f"{url}: cannot be reached ({_said(error)}); call again to go on with what has come, "
                        "or bring the file and name its folder with --from"
                    ) from None
                tell(f"{url}: {_said(error)}; trying again")
                time.sleep(PAUSE * 2 ** (failed - 1))
    with disk_errors(target):
        part.replace(target)


def _receive(client: "httpx.Client", url: str, part: Path) -> bool:
    """Append to ``part`` what the server still has; whether that is all."""
    have = _size(part)
    asked = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", url, headers=asked) as answer:
        if answer.status_code == 416 and have:
            # Either it was whole already, or the file is another one by now.
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return True
            part.unlink()
            return False
        if answer.status_code not in (200, 206):
            raise InterplantError(
                f"{url}: expected a file there, the server answered {answer.status_code}; "
                "bring the file and name its folder with --from"
            )
        goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if answer.status_code == 206 and not goes_on:
            part.unlink(missing_ok=True)
            return False
        with disk_errors(part), part.open("ab" if answer.status_code == 206 else "wb") as file:
            for piece in answer.iter_raw():
                file.write(piece)
                if file.tell() > LARGEST:
                    raise InterplantError(f"{url}: expected at most {LARGEST} bytes, found more")
    return True


def _check_address(url: str, request: "httpx.Request") -> None:
    """Refuse what is not ``https``, at first or where it leads on."""
    if request.url.scheme != "https":
        raise UsageError(f"{url}: expected an https address, found {request.url}")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
