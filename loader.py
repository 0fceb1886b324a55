"""Which file answers: walk the routes folder, import each route.py, collect its verbs, refuse what is wrong.

    routes/route.py                      /
    routes/users/route.py                /users
    routes/users/[id]/route.py           /users/42           id = "42"
    routes/docs/[...slug]/route.py       /docs/a/b           slug = ["a", "b"]; not /docs
    routes/shop/[[...slug]]/route.py     /shop, /shop/a/b    slug is absent, or ["a", "b"]
    routes/(site)/about/route.py         /about              a (group) or @slot adds nothing to the path
    routes/_lib/route.py                 not routed          neither is anything below a _private folder
    routes/%5Flib/route.py               /_lib               percent-escapes stand for their text
    routes/v1.0/route.py                 /v1.0               any other name is itself, pre-[x] too

Only files named route.py and middleware.py are executed; anything else may stand beside them. The convention is
that of Next.js 16 (https://nextjs.org/docs/app/api-reference/file-conventions/route); docs/routing.md is the
contract, with the places where we differ.
"""

import difflib
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote, unquote_to_bytes

from starlette.middleware import Middleware

from modules import Modules, RouteError, load_alone, modules_of, plain, shown
from nearest import distance
from router import VERBS, Guard, Handler, Route, Router, Routes, Segment
from router.conflicts import conflicts
from router.guards import wrap
from typed.signature import HandlerError

T = TypeVar("T")


class RouteFile(NamedTuple):
    """A route.py or a middleware.py on disk, before it is imported, and the path of its folder."""

    file: Path
    shown: str  # the path that messages use: routes/users/[id]/route.py
    segments: tuple[Segment, ...]
    inside: str = ""  # the innermost (group) or @slot around it: routes/(club)/


def load_routes(root: Path) -> Routes:
    """Load every route file below a folder, in the order in which they are tried.

    What is wrong is raised all at once: one problem as itself, several as an `ExceptionGroup`. A problem is a
    `RouteError`, or whatever a module raised on import, with a note that names the file.
    """
    problems: list[Exception] = []
    files, middlewares = walk(root, problems)
    files.sort(key=order)
    problems += map(RouteError, conflicts(files))
    modules = modules_of(root)
    for file in [*files, *middlewares]:
        modules.package(file.file.parent)  # known from the first: a file may import any other
    guards = load_guards(modules, middlewares, problems)
    routes: list[Route] = []
    for file in files:
        try:
            module = modules.load(file.file)
            handlers = collect_verbs(module, file.shown)
            limits = collect_limits(module, file.shown)
            routes.append(Route(file.segments, handlers, file=file.shown, guards=guards, **limits))
        except HandlerError as exc:
            problems.append(RouteError(f"{file.shown}: {exc}"))
        except Exception as exc:
            problems.append(exc)
    raise_together(problems, root)
    return Routes(routes, guards)


def outermost_first(file: RouteFile) -> tuple[int, bool, int, str]:
    """The order of the middleware around an answer, as a key to sort by."""
    return len(file.segments), bool(file.inside), len(file.file.parts), file.shown


def load_guards(modules: Modules, files: Sequence[RouteFile], problems: list[Exception]) -> list[Guard]:
    """Load the middleware of every folder, the outermost first; what is wrong joins ``problems``."""
    guards: list[Guard] = []
    for file in sorted(files, key=outermost_first):
        try:
            middleware = collect_middleware(modules.load(file.file), file.shown)
            guard = Guard(file.segments, middleware, file.shown, file.inside)
        except Exception as exc:
            problems.append(exc)
            continue
        try:
            wrap(Router([]), [guard])  # what its classes say of their arguments is said now, and once
        except Exception as exc:
            exc.add_note(f"while building the middleware of {file.shown}")
            problems.append(exc)
        else:
            guards.append(guard)
    return guards


def order(file: RouteFile) -> tuple[tuple[Segment, ...], str]:
    """The order in which files are tried, as a key to sort by."""
    return file.segments, file.shown


def raise_together(problems: Sequence[Exception], root: Path | None = None) -> None:
    """Raise one problem as itself, several as an `ExceptionGroup`, none not at all."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ExceptionGroup(f"{len(problems)} problems" + (f" in {root.name}/" if root else ""), problems)


def walk(root: Path, problems: list[Exception]) -> tuple[list[RouteFile], list[RouteFile]]:
    """List the route files below a folder, and the middleware files; what is wrong with a name joins ``problems``."""
    routes: list[RouteFile] = []
    middlewares: list[RouteFile] = []

    def visit(folder: Path, segments: tuple[Segment, ...], inside: str) -> None:
        entries = {entry.name: entry for entry in os.scandir(folder)}
        for name, found in (("middleware.py", middlewares), ("route.py", routes)):
            if name in entries and entries[name].is_file():
                file = RouteFile(folder / name, shown(root, folder / name), segments, inside)
                if (problem := below_catch_all(file)) is None:
                    found.append(file)
                else:
                    problems.append(problem)
        for name in sorted(entries):
            place = folder / name
            if (meant := near_miss(entries[name])) is not None:
                problems.append(RouteError(near_miss_message(shown(root, place), meant)))
            if name.startswith("_") or not entries[name].is_dir():
                continue
            if entries[name].is_symlink() and place.resolve() in (here := folder.resolve(), *here.parents):
                problems.append(RouteError(f"{shown(root, place)}: this link leads to a folder above it. Remove it."))
                continue
            if is_transparent(name):
                visit(place, segments, f"{shown(root, place)}/")
                continue
            try:
                below = (*segments, parse_folder(name))
            except ValueError as exc:
                if any(place.rglob("route.py")) or any(place.rglob("middleware.py")):
                    problems.append(RouteError(f"{shown(root, place)}: {exc}"))
                continue
            visit(place, below, inside)

    if not root.is_dir():
        raise RouteError(f"{root}: there is no such folder. Create it, or set ROUTES_DIR to the folder of your routes.")
    visit(root, (), "")
    return routes, middlewares


def near_miss(entry: "os.DirEntry[str]") -> str | None:
    """Say which name a file was probably meant to have, when it guards or answers only under another one."""
    stem, suffix = os.path.splitext(entry.name)
    if entry.is_dir():  # a package of that name guards nothing
        return "middleware.py" if entry.name == "middleware" and (Path(entry.path) / "__init__.py").is_file() else None
    if suffix.lower() != ".py" or (entry.name in ("route.py", "middleware.py") and entry.is_file()):
        return None
    bare = stem.lower().strip("_- ")
    if bare == "page" or bare.startswith("+") or distance(bare, "route") < 2:
        return "route.py"
    return "middleware.py" if bare == "proxy" or distance(bare, "middleware") < 3 else None


def near_miss_message(file: str, meant: str) -> str:
    return (
        f"{file}: only {meant} of that very name is read, so this file does nothing. Rename it to {meant}; "
        "to keep it as a helper, give it another name or move it into a _private folder, such as _lib/."
    )


def below_catch_all(file: RouteFile) -> RouteError | None:
    if (inner := next((segment for segment in file.segments[:-1] if segment.rank >= 2), None)) is None:
        return None
    return RouteError(
        f"{file.shown}: Catch-all must be the last part of the URL. "
        f"Move the file out of '{inner}', or read the rest of the path there."
    )


def is_transparent(folder: str) -> bool:
    """Whether a folder adds nothing to the path: a (group) or a @slot."""
    return folder.startswith("@") or (folder.startswith("(") and folder.endswith(")"))


def parse_folder(name: str) -> Segment:
    """Return the segment that a folder name stands for. Raises `ValueError` with the fix."""
    if match := re.fullmatch(r"\[\[\.\.\.([^\[\]]+)\]\]|\[\.\.\.([^\[\]]+)\]|\[([^\[\]]+)\]", name):
        rank = 3 if match[1] else 2 if match[2] else 1
        parameter = match[1] or match[2] or match[3]
        if not parameter.startswith((".", "…")):
            return Segment(rank, parameter)
        bare = parameter.lstrip(".…")
        if not bare:
            raise ValueError(f"'{name}' has no parameter name. Write [...name].")
        raise ValueError(f"'{name}' is not a parameter: it takes three plain dots. Write [...{bare}] or [{bare}].")
    if re.match(r"\[\[[^\[\].…]", name) and name.endswith("]]"):
        inner = name.strip("[]")
        raise ValueError(
            f"'{name}': Optional route parameters are not yet supported. Write [{inner}], or [[...{inner}]] for a "
            "catch-all that also matches nothing."
        )
    depth = 0
    for character in name:
        depth += (character == "[") - (character == "]")
        if depth not in (0, 1):
            break
    if depth or name == "[]":
        inner = re.sub(r"[\[\]….]", "", name) or "name"
        raise ValueError(f"'{name}' is not a parameter. Write [{inner}], [...{inner}] or [[...{inner}]].")
    if match := re.fullmatch(r"\{(\w+)\}|<(\w+)>|:(\w+)", name):  # as FastAPI, Flask and Express write a parameter
        inner = match[1] or match[2] or match[3]
        raise ValueError(f"'{name}' is that very text here. Write [{inner}]; for the text itself, {quote(name)}.")
    try:
        text = unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise ValueError(f"'{name}' has escapes that are not UTF-8. Write the name itself.") from None
    if text in (".", ".."):
        raise ValueError(f"'{name}' can never be reached: clients resolve '{text}'. Rename the folder.")
    return Segment(0, text)


def load_files(root: Path, read: Callable[[str, str, Mapping[str, Any]], T]) -> dict[str, T]:
    """Load the files of a folder that has no folders in it, by name; {} where there is no such folder.

    ``read(name, shown, found)`` makes something of what a module defines, and raises `ValueError` with the fix.
    A file whose name begins with ``_`` is left out. All problems are raised together, as `load_routes` does.
    """
    if not root.is_dir():
        return {}
    modules = modules_of(root)
    files: dict[str, T] = {}
    problems: list[Exception] = []
    for file in sorted(root.glob("*.py")):
        if file.name.startswith("_"):
            continue
        try:
            found = vars(modules.load(file))
        except Exception as exc:  # the module's own, with its traceback
            problems.append(exc)
            continue
        where = shown(root, file)
        try:
            files[file.stem] = read(file.stem, where, found)
        except ValueError as exc:
            problems.append(RouteError(f"{where}: {exc}"))
    raise_together(problems, root)
    return files


def load_beside(file: Path, read: Callable[[Mapping[str, Any]], T]) -> T | None:
    """Load one file that stands beside the folders, such as instrumentation.py; None where there is none.

    ``read(found)`` makes what is needed of what it defines, and raises `ValueError` with the fix.
    """
    if not file.is_file():
        return None
    found = vars(load_alone(file))
    try:
        return read(found)
    except ValueError as exc:
        raise RouteError(f"{file.name}: {exc}") from None


def collect_verbs(module: ModuleType, shown: str) -> dict[str, Handler]:
    """Return the handlers that a module exports, by verb. Raises `RouteError`."""
    found = vars(module)
    for name, value in found.items():
        if (problem := misspelt(name, value, module)) is not None:
            raise RouteError(problem.format(shown=shown))
    verbs = [verb for verb in VERBS if verb in found]
    if not verbs:
        if "default" in found:
            raise RouteError(
                f"Detected default export in '{shown}'. Export a named export for each HTTP method instead."
            )
        raise RouteError(f"No HTTP methods exported in '{shown}'. Export a named export for each HTTP method.")
    for verb in verbs:
        if (problem := unusable(found[verb])) is not None:
            raise RouteError(f"{shown}: {verb} is {problem}. Write: async def {verb}(request): ... return a Response.")
    return {verb: found[verb] for verb in verbs}


def misspelt(name: str, value: object, module: ModuleType) -> str | None:
    """Say what a name was meant to be, when it is a verb in the wrong case or with letters swapped."""
    verb = name.upper()
    if (verb == name and name in VERBS) or not callable(value):
        return None
    missing = verb in VERBS and verb not in vars(module)
    own = inspect.isfunction(value) and value.__module__ == module.__name__
    if missing and (own or not any(verb in vars(module) for verb in VERBS)):
        case = "lowercase method" if name.islower() else "method"
        return f"Detected {case} '{name}' in '{{shown}}'. Export the uppercase '{verb}' method name to fix this error."
    if own and name.isupper() and (near := difflib.get_close_matches(name, VERBS, n=1, cutoff=0.66)):
        return f"{{shown}}: {name} is not an HTTP method. Did you mean {near[0]}? Give a helper another name."
    return None


def collect_limits(module: ModuleType, shown: str) -> dict[str, Any]:
    """Return what a route sets for itself: `max_body_bytes` and `timeout`. Raises `RouteError`."""
    wanted = {
        "max_body_bytes": (int, "a whole number of bytes above 0, such as max_body_bytes = 50_000_000"),
        "timeout": (int | float, "a number of seconds above 0, such as timeout = 30"),
    }
    found = {name: vars(module)[name] for name in wanted if name in vars(module)}
    for name, value in found.items():
        kind, words = wanted[name]
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise RouteError(
                f"{shown}: {name} is {plain(value)}, and it must be {words}. "
                "What is meant for something else needs another name."
            )
    return found


def load_middleware(folder: Path) -> list[Middleware]:
    """Load the `middleware.py` beside the routes folder, which wraps everything; [] where there is none."""
    file = folder / "middleware.py"
    if not file.exists():
        for entry in list(os.scandir(folder)):  # what else a team keeps here is its own: proxy.py, middlewares.py
            stem, suffix = os.path.splitext(entry.name.lower())
            if suffix == ".py" and stem != "middlewares" and distance(stem.strip("_-"), "middleware") < 2:
                raise RouteError(near_miss_message(entry.name, "middleware.py"))
        return []
    middleware = collect_middleware(load_alone(file), "middleware.py")
    try:
        wrap(Router([]), [Guard((), middleware, "middleware.py")])
    except Exception as exc:
        exc.add_note("while building the middleware of middleware.py")
        raise
    return list(middleware)


def unusable(value: Any) -> str | None:
    """Say what a verb is, when it is not something that can be called for one response."""
    if not callable(value):
        return f"a {type(value).__name__}, not a function"
    if inspect.isclass(value):
        return "a class, not a function"
    if inspect.isasyncgenfunction(value) or inspect.isgeneratorfunction(value):
        kind = "an async generator" if inspect.isasyncgenfunction(value) else "a generator"
        return f"{kind}, but a handler returns one response (to stream, return a response that streams)"
    return None


def collect_middleware(module: ModuleType, shown: str) -> Sequence[Middleware]:
    """Return the list that a middleware.py exports. Raises `RouteError`."""
    value: Any = vars(module).get("middleware")
    if isinstance(value, list) and all(isinstance(entry, Middleware) for entry in cast("list[object]", value)):
        return cast("list[Middleware]", value)
    problem = (
        "does not export 'middleware'"
        if value is None
        else f"exports a 'middleware' that is {plain(cast(object, value))}"
    )
    raise RouteError(
        f"{shown} {problem}. Write: middleware = [Middleware(MyMiddleware)], with Middleware from "
        "starlette.middleware and pure ASGI classes."
    )
