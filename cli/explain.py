"""What make dev answers to an exception: what it is, the line of the route, how to fix a beginner's slip, the id.

Production never does: it answers `{"error": "Internal server error"}`, and the log has the traceback.
"""

import json
import linecache
import re
import sysconfig
from pathlib import Path
from traceback import walk_tb
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from config import HERE
from logs import current_id

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def explain(request: Request, exc: Exception) -> Response:
    """Answer 500 with the exception, the lines that led to it from the route on, and the id of the request."""
    cause = only_of(exc)
    route: Any = request.scope.get("route")
    file = getattr(route, "file", None)
    where = lines_of(cause, request.app.state.config.routes_dir) or ([file] if file else [])
    told = {
        "error": f"{type(cause).__name__}: {cause}",
        "fix": fix_of(cause),
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


def fix_of(exc: BaseException) -> str | None:
    """What to write, where the exception is a slip that everybody makes once."""
    text = str(exc)
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
