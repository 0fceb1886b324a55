"""Write a route.py that answers, for a path as its folder is written: `python -m app new '/users/[id]'`."""

import json
import keyword
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from loader import (
    RouteError,
    RouteFile,
    below_catch_all,
    is_transparent,
    order,
    parse_folder,
    raise_together,
    walk,
)
from router import Route, Segment
from router.conflicts import conflicts
from router.public import public_files

WIDTH = 120  # of a line, as in pyproject.toml

TEMPLATE = '''"""GET TITLE: say here what it answers."""

IMPORTfrom starlette.requests import Request
from typing_extensions import TypedDict

from auth import requires, service
from jsonresponse import JSONResponse
from state import State

TYPE

@requires(service)  # the token of /api/chat; without this line everybody is answered
async def GET(TAKEN) -> JSONResponse[NAME]:
    return JSONResponse(VALUE)


# Other verbs stand beside it: HEAD, POST, PUT, PATCH, DELETE, OPTIONS. docs/typed.md tells what a handler may take.
#
# class New(TypedDict):
#     name: str  # what does not fit is 400, with the field and what it must be
#
#
# @requires(service)
# async def POST(request: Request[State], body: New) -> JSONResponse[New]:
#     return JSONResponse(body, 201)
'''


def write_route(root: Path, path: str) -> Route:
    """Write a new route file below a folder, and return the route it is. Raises `RouteError` where it cannot be one."""
    file = planned(root, path)
    route = Route(file.segments, {}, file=file.shown)
    problems = clashes(root, file)
    if public := next((found for found in public_files(root.parent / "public") if found.path == route.path), None):
        problems.append(RouteError(f"public/{public.name} answers at {route.path} already. Rename or remove it."))
    raise_together(problems)
    try:
        file.file.parent.mkdir(parents=True, exist_ok=True)
        with file.file.open("x", encoding="utf-8") as out:
            out.write(source(route))
    except OSError as exc:
        raise RouteError(f"{file.shown} cannot be written: {exc.strerror}. Choose another path.") from None
    return route


def planned(root: Path, path: str) -> RouteFile:
    """Read a path as it was typed: `/users/[id]`, `users/[id]`, `routes/users/[id]`, `routes/users/[id]/route.py`."""
    names = [name for name in path.split("/") if name]
    if not path.startswith("/") and names[:1] == [root.name]:
        names = names[1:]  # the path of a file, as a shell completes it
    if names[-1:] == ["route.py"]:
        names = names[:-1]
    if foreign := next((name for name in names if ours(name) != name), None):
        raise RouteError(
            f"{foreign!r} is how other frameworks write a parameter. Write /{'/'.join(map(ours, names))} here."
        )
    segments: list[Segment] = []
    for name in names:
        if name.startswith("_"):
            raise RouteError(f"'{name}': a folder whose name begins with _ is not routed. Write %5F{name[1:]} for it.")
        if not name.isprintable():
            raise RouteError(f"{name!r} holds a character that cannot be seen. Write it as %xx, or leave it out.")
        try:
            segments += [] if is_transparent(name) else [parse_folder(name)]
        except ValueError as exc:
            raise RouteError(str(exc)) from None
    folder = root.joinpath(*names)
    return RouteFile(folder / "route.py", "/".join([root.name, *names, "route.py"]), tuple(segments))


def ours(name: str) -> str:
    """A parameter of Express, FastAPI, Flask and the like as a folder is called here; any other name as it is."""
    if match := re.fullmatch(r":(\w+)([*+?]?)", name):
        return {"": "[{}]", "+": "[...{}]"}.get(match[2], "[[...{}]]").format(match[1])
    if match := re.fullmatch(r"\{(\w+)(?::(\w+))?\}", name):
        return f"[...{match[1]}]" if match[2] == "path" else f"[{match[1]}]"
    if match := re.fullmatch(r"<(?:(\w+):)?(\w+)>", name):
        return f"[...{match[2]}]" if match[1] == "path" else f"[{match[2]}]"
    if match := re.fullmatch(r"\*+(\w*)", name):
        return f"[...{match[1] or 'path'}]"
    return name


def clashes(root: Path, file: RouteFile) -> list[Exception]:
    """Return what would be wrong with a new file, as the start would say it once the file is there."""
    if file.file.exists():
        return [RouteError(f"{file.shown} is there already. Edit it, or choose another path.")]
    if problem := below_catch_all(file):
        return [problem]
    found, _ = walk(root, [])
    before = conflicts(sorted(found, key=order))
    return [RouteError(words) for words in conflicts(sorted([*found, file], key=order)) if words not in before]


def example(route: Route) -> str:
    """A path at which the route answers."""
    params = {s.text: "42" if s.rank == 1 else ["a", "b"] for s in route.segments if s.rank}
    return route.url_path_for(route.path, **params)


def source(route: Route) -> str:
    """The text of the new file."""
    title = route.path.replace("\\", "\\\\").replace('"', '\\"')
    fields = {s.text: ("", "str", "list[str]", "NotRequired[list[str]]")[s.rank] for s in route.segments if s.rank}
    name, taken, value = "Params", "request: Request[State], params: Params", "params"
    if not fields:
        fields = {"hello": "str"}
        name, taken, value = "Greeting", "request: Request[State]", '{"hello": "world"}'
    words = {
        "TITLE": title,
        "IMPORT": "from typing import NotRequired\n\n" if "NotRequired[list[str]]" in fields.values() else "",
        "TYPE": typed_dict(name, fields),
        "TAKEN": taken,
        "NAME": name,
        "VALUE": value,
    }
    return re.sub("|".join(words), lambda found: words[found[0]], TEMPLATE)


def typed_dict(name: str, fields: Mapping[str, str]) -> str:
    """A TypedDict as ruff formats it: a class, unless a field has a name that is none in Python."""
    if all(is_name(field) for field in fields):
        note = (
            "  # an int is converted, and anything else is 404" if "str" in fields.values() and name == "Params" else ""
        )
        lines = [f"    {field}: {kind}" for field, kind in fields.items()]
        return "\n".join(
            ["", f"class {name}(TypedDict):", lines[0] + note * (lines[0].endswith(": str")), *lines[1:], ""]
        )
    pairs = [f"{quoted(field)}: {kind}" for field, kind in fields.items()]
    line = f'{name} = TypedDict("{name}", {{{", ".join(pairs)}}})\n'
    if len(line) <= WIDTH:
        return line
    return "\n".join(
        [f"{name} = TypedDict(", f'    "{name}",', "    {", *[f"        {pair}," for pair in pairs], "    },", ")", ""]
    )


def is_name(text: str) -> bool:
    """Whether a field of a class may be called this, and is called no other."""
    plain = text.isidentifier() and not keyword.iskeyword(text) and not text.startswith("__")
    return plain and unicodedata.normalize("NFKC", text) == text


def quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
