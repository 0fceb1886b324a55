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
import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import unquote_to_bytes

from starlette.middleware import Middleware

from router import VERBS, Guard, Handler, Route, Segment
from typed.signature import HandlerError

T = TypeVar("T")


class RouteError(Exception):
    """A file or folder that cannot be served; the message says which, what is wrong and how to mend it."""


Place = tuple[str | int, ...]  # a node of the tree: texts, and ranks where a parameter stands


class RouteFile(NamedTuple):
    """A route.py on disk, before it is imported: where it answers, and the folders with middleware around it."""

    file: Path
    shown: str  # the path that messages use: routes/users/[id]/route.py
    segments: tuple[Segment, ...]
    guards: tuple[tuple[int, Path, bool], ...]  # depth, middleware.py, covers_paths


def load_routes(root: Path) -> list[Route]:
    """Load every route file below a folder, in the order in which they are tried.

    What is wrong is raised all at once: one problem as itself, several as an `ExceptionGroup`. A problem is a
    `RouteError`, or whatever a module raised on import, with a note that names the file.
    """
    problems: list[Exception] = []
    files = sorted(walk(root, problems), key=order)
    problems += conflicts(files)
    modules = Modules(root)
    routes: list[Route] = []
    guards: dict[Path, Sequence[Middleware]] = {}
    for file in files:
        try:
            for _, path, _ in file.guards:
                if path not in guards:
                    guards[path] = ()  # one report for each file, however many routes it is around
                    guards[path] = collect_middleware(modules.load(path), _shown(root, path))
            handlers = collect_verbs(modules.load(file.file), file.shown)
        except Exception as exc:
            problems.append(exc)
            continue
        around = [Guard(depth, guards[path], covers) for depth, path, covers in file.guards]
        try:
            routes.append(Route(file.segments, handlers, file=file.shown, guards=around))
        except HandlerError as exc:
            problems.append(RouteError(f"{file.shown}: {exc}"))
        except Exception as exc:
            exc.add_note(
                f"while building the middleware of {', '.join(_shown(root, path) for _, path, _ in file.guards)}"
            )
            guards.update((path, ()) for _, path, _ in file.guards)
            problems.append(exc)
    raise_together(problems, root)
    return routes


def order(file: RouteFile) -> tuple[tuple[Segment, ...], str]:
    """The order in which files are tried, as a key to sort by."""
    return file.segments, file.shown


def raise_together(problems: Sequence[Exception], root: Path | None = None) -> None:
    """Raise one problem as itself, several as an `ExceptionGroup`, none not at all."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ExceptionGroup(f"{len(problems)} problems" + (f" in {root.name}/" if root else ""), problems)


def walk(root: Path, problems: list[Exception]) -> Iterator[RouteFile]:
    """Yield the route files below a folder; what is wrong with a folder's name joins ``problems``."""

    def visit(
        folder: Path, segments: tuple[Segment, ...], guards: tuple[tuple[int, Path, bool], ...], group: bool
    ) -> Iterator[RouteFile]:
        entries = {entry.name: entry for entry in os.scandir(folder)}
        if "middleware.py" in entries and entries["middleware.py"].is_file():
            guards += ((len(segments), folder / "middleware.py", not group),)
        if "route.py" in entries and entries["route.py"].is_file():
            yield RouteFile(folder / "route.py", _shown(root, folder / "route.py"), segments, guards)
        for name in sorted(entries):
            if name.startswith("_") or not entries[name].is_dir():
                continue
            if entries[name].is_symlink() and (folder / name).resolve() in (here := folder.resolve(), *here.parents):
                problems.append(
                    RouteError(f"{_shown(root, folder / name)}: this link leads to a folder above it. Remove it.")
                )
                continue
            transparent = is_transparent(name)
            try:
                below = segments if transparent else (*segments, parse_folder(name))
            except ValueError as exc:
                if any((folder / name).rglob("route.py")):
                    problems.append(RouteError(f"{_shown(root, folder / name)}: {exc}"))
                continue
            yield from visit(folder / name, below, guards, group or transparent)

    if not root.is_dir():
        raise RouteError(f"{root}: there is no such folder. Create it, or set ROUTES_DIR to the folder of your routes.")
    for file in visit(root, (), (), False):
        if (problem := below_catch_all(file)) is None:
            yield file
        else:
            problems.append(problem)


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
    """Return the segment that a folder name stands for. Raises `ValueError` with the mend."""
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
    try:
        text = unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise ValueError(f"'{name}' has escapes that are not UTF-8. Write the name itself.") from None
    if text in (".", ".."):
        raise ValueError(f"'{name}' can never be reached: clients resolve '{text}'. Rename the folder.")
    return Segment(0, text)


def conflicts(files: Sequence[RouteFile]) -> list[Exception]:
    """Return what is wrong between files: two on one path, two names for one parameter, and catch-alls that clash."""
    problems: list[Exception] = []
    named: dict[
        Place, tuple[str, RouteFile]
    ] = {}  # the parameter's name at each place of the tree, and where it stands
    answering: dict[Place, RouteFile] = {}

    def report(problem: str, *involved: RouteFile) -> None:
        mend = "Rename or remove one of them" if len(involved) > 1 else "Rename one of the folders"
        problems.append(RouteError(f"{problem}: {' and '.join(file.shown for file in involved)}. {mend}."))

    for file in files:
        place: Place = ()
        names: set[str] = set()
        clash = False
        for rank, text in file.segments:
            if rank == 0:
                place += (text,)
                continue
            if text in names:
                report(f'You cannot have the same slug name "{text}" repeat within a single dynamic path', file)
            names.add(text)
            before, first = named.setdefault((*place, rank), (text, file))
            if before != text:
                clash = True
                different = f"('{before}' !== '{text}')"
                report(f"You cannot use different slug names for the same dynamic path {different}", first, file)
            if rank == 3 and (required := named.get((*place, 2))):
                both = "You cannot use both a required and optional catch-all route at the same level"
                report(both, required[1], file)
            if rank == 3 and (plain := answering.get(place)):
                same = "You cannot define a route with the same specificity as an optional catch-all route"
                report(same, plain, file)
            place += (rank,)
        other = answering.setdefault(place, file)
        if other is not file and not clash:
            path = "/" + "/".join(map(str, file.segments))
            report(f"Conflicting routes at {path}: only one file can answer there", other, file)
    return problems


class Modules:
    """Imports the files of one tree under private names, so that no other code is shadowed by them or shadows them.

    A folder becomes a package and a file a module of it: ``routes/users/[id]/route.py`` is
    ``_routes_5f2c….users._5b_id_5d_.route``. Escaping what is not a letter or digit keeps two folders from sharing a
    name; the root carries a digest of its path, so that two trees of one shape can stand in one process. Since a
    folder is a package, a route can import what stands beside it: ``from .helper import shape``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.packages: dict[Path, str] = {}
        self.name = f"_routes_{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}"
        for name in [name for name in sys.modules if name == self.name or name.startswith(f"{self.name}.")]:
            del sys.modules[name]  # an earlier load: its helpers may have changed since

    def load(self, file: Path, shown: str | None = None) -> ModuleType:
        """Execute a file afresh. Raises what it raises, with a note that names it, and forgets it again."""
        name = f"{self._package(file.parent)}.{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # first: dataclasses with postponed annotations look their module up
        try:
            spec.loader.exec_module(module)
        except BaseException as exc:
            sys.modules.pop(name, None)
            exc.add_note(f"while loading {shown or _shown(self.root, file)}")
            if isinstance(exc, ModuleNotFoundError) and is_missing(exc.name):
                exc.add_note(
                    f"No package that is installed has {exc.name!r}. Add the one that does to the dependencies in "
                    "pyproject.toml and run make dev, which installs what is missing."
                )
            raise
        return sys.modules.get(name, module)

    def _package(self, folder: Path) -> str:
        if folder not in self.packages:
            name = self.name
            if folder != self.root:
                beside = folder.with_name(f"{folder.name}.py").is_file()  # then x is x.py, and the folder gets a slash
                name = f"{self._package(folder.parent)}.{escape(folder.name + '/' * beside)}"
            package = ModuleType(name, "A folder of routes.")
            package.__path__ = [str(folder)]
            package.__package__ = name
            sys.modules[name] = package
            self.packages[folder] = name
        return self.packages[folder]


def load_files(root: Path, read: Callable[[str, str, Mapping[str, Any]], T]) -> dict[str, T]:
    """Load the files of a folder that has no folders in it, by name; {} where there is no such folder.

    ``read(name, shown, found)`` makes what is wanted of what a module defines, and raises `ValueError` with the mend.
    A file whose name begins with ``_`` is left out. All problems are raised together, as `load_routes` does.
    """
    if not root.is_dir():
        return {}
    modules = Modules(root)
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
        shown = _shown(root, file)
        try:
            files[file.stem] = read(file.stem, shown, found)
        except ValueError as exc:
            problems.append(RouteError(f"{shown}: {exc}"))
    raise_together(problems, root)
    return files


def load_beside(file: Path, read: Callable[[Mapping[str, Any]], T]) -> T | None:
    """Load one file that stands beside the folders, such as instrumentation.py; None where there is none.

    ``read(found)`` makes what is needed of what it defines, and raises `ValueError` with the fix.
    """
    if not file.is_file():
        return None
    found = vars(Modules(file.parent).load(file, file.name))
    try:
        return read(found)
    except ValueError as exc:
        raise RouteError(f"{file.name}: {exc}") from None


def is_missing(name: str | None) -> bool:
    """Whether a module's package is not installed at all; one of the tree's own is not wanted from elsewhere."""
    top = (name or "").partition(".")[0]
    return bool(top) and not top.startswith("_routes_") and importlib.util.find_spec(top) is None


def escape(name: str) -> str:
    """Turn a folder's name into an identifier, no two names into one: an odd character becomes ``_hex_``."""
    if name.isidentifier() and name.isascii() and not re.search("_[0-9a-f]+_", name):
        return name
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name)


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
    problem = "does not export 'middleware'" if value is None else f"exports a 'middleware' that is {value!r}"
    raise RouteError(
        f"{shown} {problem}. Write: middleware = [Middleware(MyMiddleware)], with Middleware from "
        "starlette.middleware and pure ASGI classes."
    )


def _shown(root: Path, file: Path) -> str:
    return (Path(root.name) / file.relative_to(root)).as_posix()
