"""The files of public/: served as they are, listed once at the start.

What a folder holds by accident is left out: dotfiles (but `.well-known`), what editors and databases leave behind.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from router.paths import Segment

# editors' backups and locks, databases and what they keep beside them
LEFT_OUT = re.compile(r".*(~|\.(bak|orig|rej|swp|swo|tmp|py|pyc|db|sqlite3?|sqlite3?-\w+|db-\w+))|#.*#", re.IGNORECASE)

RANGE = re.compile(rb"\s*(?:(\d{1,18})-(\d{0,18})|-\d{1,18})\s*")


class PublicFile:
    """One file, served by Starlette's `StaticFiles` (ETag, Range, HEAD)."""

    def __init__(self, name: str, files: StaticFiles) -> None:
        self.name = name  # "" for index.html, which answers at / unless a route does
        self.segments = tuple(Segment(0, part) for part in name.split("/") if part)
        self.path = self.path_format = "/" + name
        self._is_page = not name or name.lower().endswith((".html", ".htm", ".svg", ".xhtml"))
        self._files = files

    def params(self, parts: object) -> dict[str, Any]:
        return {}

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (body := scope.get("body")) is not None:  # a file reads no body
            body.check()
            receive = body.departure
        response = await self._files.get_response(self.name or "index.html", scope)
        # else a browser guesses how long it may keep one file of a page, and not the other, after an upgrade
        response.headers["Cache-Control"] = "public, max-age=0"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if self._is_page:  # another site's page could lay itself over a frame of it; a <meta> cannot forbid that
            response.headers["Content-Security-Policy"] = "frame-ancestors 'self'"
        await response(without_odd_ranges(scope), receive, send)


def without_odd_ranges(scope: Scope) -> Scope:
    """Ignore a range in a unit that is not known, or that is none (RFC 9110 14.2): Starlette answers 400."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    kept = [(name, value) for name, value in headers if name != b"range" or are_ranges(value)]
    return scope if len(kept) == len(headers) else {**scope, "headers": kept}


def are_ranges(value: bytes) -> bool:
    """Whether a header's value is a set of byte ranges, as RFC 9110 14.1.1 and 14.1.2 write them."""
    unit, _, parts = value.partition(b"=")
    found = [RANGE.fullmatch(part) for part in parts.split(b",")]
    return unit.strip().lower() == b"bytes" and all(
        one is not None and (not one[2] or int(one[1]) <= int(one[2])) for one in found
    )


def public_files(folder: Path) -> list[PublicFile]:
    """List the files below a folder, once: a request for anything else never touches the disk."""
    if not folder.is_dir():
        return []
    files = StaticFiles(directory=folder)
    names = sorted(names_below(folder, folder.resolve(), ()))
    index = [PublicFile("", files)] if "index.html" in names else []
    return index + [PublicFile(name, files) for name in names]


def names_below(folder: Path, root: Path, above: tuple[Path, ...]) -> Iterator[str]:
    """The files' paths; links are followed as far as they stay inside, and a circle ends where it began."""
    real = folder.resolve()
    if real in above or (real != root and root not in real.parents):
        return
    for entry in os.scandir(folder):
        if LEFT_OUT.fullmatch(entry.name) or (entry.name.startswith(".") and entry.name != ".well-known"):
            continue
        if entry.is_dir():
            for name in names_below(folder / entry.name, root, (*above, real)):
                yield f"{entry.name}/{name}"
        elif entry.is_file():
            yield entry.name
