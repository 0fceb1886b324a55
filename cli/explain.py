"""What make dev answers to an exception: what it is, the line of the route, how to fix a beginner's slip, the id.

Production never does: it answers `{"error": "Internal server error"}`, and the log has the traceback.
"""

import json
import linecache
import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from traceback import walk_tb
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from config import HERE
from logs import current_id

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})

FIXES = {  # what an exception says, and what to write
    r"^no such table: |^relation .* does not exist$": (
        "Tables are made by the files of migrations/, at the start (docs/data.md): is the name right, and is its file "
        "there? .venv/bin/python -m app migrate says which ran."
    ),
    r"^the SQL has values up to|^Incorrect number of bindings|^the server expects \d+ argument": (
        "Values are written $1, $2 in the SQL and follow it one by one: await db.read(sql, first, second)."
    ),
    r"^Error binding parameter .*type '(?:tuple|list)' is not supported": (
        "Values follow the SQL one by one: await db.read(sql, first, second). Only write takes (sql, (first, second))."
    ),
    r"^'dict' object has no attribute ('\w+')$": "This is a dict, as each row of db.read is. Write [{0}].",
    r"not JSON serializable: (?:set|frozenset|generator|map|filter|zip|range)$": (
        "JSON has lists and objects. Write list(...) around it."
    ),
    r"`python-multipart` library must be installed": (
        "Forms need a package: add python-multipart to the dependencies in pyproject.toml and run make dev, which "
        "installs what is missing."
    ),
}


def explain(request: Request, exc: Exception) -> Response:
    """Answer 500 with the exception, the lines that led to it from the route on, and the id of the request."""
    cause = only_of(exc)
    route: Any = request.scope.get("route")
    file = getattr(route, "file", None)
    where = lines_of(cause, request.app.state.config.routes_dir) or ([file] if file else [])
    told = {
        "error": f"{type(cause).__name__}: {cause}",
        "fix": fix_of(cause, request.scope, where[-1] if where else ""),
        "where": where,
        "request": f"{request.method} {request.scope['path']}" + (f" ({file})" if file else ""),
        "requestId": current_id.get(),
        "note": "make dev shows this; production answers Internal server error. The terminal has the whole traceback.",
    }
    text = json.dumps({name: value for name, value in told.items() if value}, indent=2, ensure_ascii=False)
    return Response(text.encode("utf-8", "backslashreplace") + b"\n", 500, media_type="application/json")


def only_of(exc: BaseException) -> BaseException:
    """The exception itself, not the groups around it, while there is one in each: what a task group makes of one."""
    while isinstance(exc, BaseExceptionGroup):
        inner = list(cast("BaseExceptionGroup[BaseException]", exc).exceptions)
        if len(inner) > 1:
            break
        exc = inner[0]
    return cast("BaseException", exc)


def lines_of(exc: BaseException, routes: Path) -> list[str]:
    """The lines of the project that led to an exception, from the first file of the team's on; [] if none did."""
    found: list[str] = []
    for frame, line in walk_tb(exc.__traceback__):
        file = frame.f_code.co_filename
        begun = found or Path(file).is_relative_to(routes) or (Path(file).parent == routes.parent and is_teams(file))
        if begun and Path(file).is_absolute() and not file.startswith(LIBRARIES):
            found.append(f"{shown(file, routes)} line {line}, in {frame.f_code.co_name}: {source(file, line)}")
    return found


def is_teams(file: str) -> bool:
    return Path(file).name in ("middleware.py", "instrumentation.py")


def shown(file: str, routes: Path) -> str:
    for base in (routes.parent, HERE):
        if Path(file).is_relative_to(base):
            return Path(file).relative_to(base).as_posix()
    return file


def source(file: str, line: int) -> str:
    return linecache.getline(file, line).strip()


def fix_of(exc: BaseException, scope: Mapping[str, Any], line: str) -> str | None:
    """What to write, where the exception is a slip that everybody makes once. ``line`` is the last of the project's."""
    text = str(exc)
    if isinstance(exc, KeyError) and re.search(rf"""state\[["']{re.escape(str(exc.args[0]))}["']\]""", line):
        return (
            f"request.state has {', '.join(sorted(scope['state']))}. "
            "More comes from what register yields in instrumentation.py (docs/porting.md)."
        )
    for pattern, fix in FIXES.items():
        if match := re.search(pattern, text):
            return fix.format(*match.groups())
    if re.search(r"\bcoroutine\b", text):
        return (
            "A coroutine was not awaited. Write await before the call that made it: body = await request.json(). "
            "In a plain def nothing can be awaited: write async def."
        )
    if isinstance(exc, TypeError) and text.startswith("No response is returned from route handler"):
        if "'NoneType'" in text:
            return "Nothing is returned. Return a Response: return JSONResponse({...}), or Response(status_code=204)."
        if re.search(r"received '(dict|list|str|int|float|bool|tuple)'", text):
            return "Return a Response: return JSONResponse(...), with JSONResponse from jsonresponse."
    return None
