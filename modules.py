"""Import the files of a folder by path, each once, whoever asks for it first.

A folder is a package and a file a module of it, named as they are: ``routes/users/[id]/route.py`` is
``routes.users.{id}.route``, which is also what `logging.getLogger(__name__)` says. So a file imports what stands
beside it, `from .helper import shape`, and what a bracketed folder holds by its name:
`import_module("..{id}.route", __package__).shape`. No ``__init__.py`` is needed.
"""

import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from nearest import nearest

HERE = Path(__file__).resolve().parent


class RouteError(Exception):
    """A file or folder that cannot be served; the message says which, what is wrong and how to fix it."""


class Modules:
    """Imports the files of one tree. Loading a tree again, or another of that name, starts afresh."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = _free_name(root)
        self._packages: dict[Path, str] = {}
        if self.name in _trees:  # an earlier load: its helpers may have changed since
            for name in [name for name in sys.modules if name == self.name or name.startswith(f"{self.name}.")]:
                del sys.modules[name]
        _trees[self.name] = root
        self.package(root)

    def load(self, file: Path) -> ModuleType:
        """Return a file's module. Raises what it raises, with a note that names it, and forgets it again."""
        name = f"{self.package(file.parent)}.{file.stem}"
        loaded = sys.modules.get(name)
        if loaded is not None and loaded.__file__ == str(file):
            return loaded
        return execute(name, file, shown(self.root, file))

    def package(self, folder: Path) -> str:
        """Return the name of a folder's package, and make it known to `import`."""
        if folder not in self._packages:
            name = self.name
            if folder != self.root:
                parent = self.package(folder.parent)
                beside = folder.with_name(f"{folder.name}.py").is_file()  # then x is x.py, and the folder gets a slash
                name = f"{parent}.{component(folder.name)}{'/' * beside}"
            package = ModuleType(name, "A folder of the project.")
            package.__path__ = [str(folder)]
            package.__package__ = name
            sys.modules[name] = package
            self._packages[folder] = name
        return self._packages[folder]


_trees: dict[str, Path] = {}  # the roots by name, as they stand in sys.modules
_prepared: dict[Path, Modules] = {}
_alone: set[str] = set()
_executing: list[str] = []


def prepare(*roots: Path) -> None:
    """Begin a load of several trees, so that files of one may import those of another, and all are executed once."""
    for name in _alone:
        sys.modules.pop(name, None)
    _alone.clear()
    _prepared.clear()
    _prepared.update((root, Modules(root)) for root in roots if root.is_dir())


def modules_of(root: Path) -> Modules:
    """Return the modules that were prepared for a root, once; else new ones."""
    return _prepared.pop(root, None) or Modules(root)


def load_alone(file: Path) -> ModuleType:
    """Load a file that stands beside the folders, under its own name, or return it where another has imported it."""
    loaded = sys.modules.get(file.stem)
    if loaded is not None and loaded.__file__ == str(file) and file.stem not in _alone:
        return loaded
    _alone.add(file.stem)
    return execute(file.stem, file, file.name)


def execute(name: str, file: Path, where: str) -> ModuleType:
    """Execute a file as a module of that name. Raises what it raises, or `RouteError` where it ends the process."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # first: dataclasses with postponed annotations look their module up
    _executing.append(where)
    try:
        spec.loader.exec_module(module)
    except BaseException as exc:
        sys.modules.pop(name, None)
        if not isinstance(exc, Exception | KeyboardInterrupt):
            raise RouteError(ends_process(exc, where)) from exc
        exc.add_note(f"while loading {where}")
        if isinstance(exc, ModuleNotFoundError) and (words := misnamed(exc.name)):
            exc.add_note(words)
        elif isinstance(exc, ModuleNotFoundError) and is_missing(exc.name):
            exc.add_note(
                f"No package that is installed has {exc.name!r}. Add the one that does to the dependencies in "
                "pyproject.toml and run make dev, which installs what is missing."
            )
        raise
    finally:
        _executing.pop()
    values: list[object] = list(vars(module).values())
    if any(getattr(value.__class__, "is_built_from_files", False) is True for value in values):
        sys.modules.pop(name, None)
        raise RouteError(imports_app(where))
    return sys.modules.get(name, module)


def imports_app(where: str) -> str:
    return (
        f"{where} imports the app, which is built from that file. A handler has it as request.app, "
        "and what app.py does not build is imported from its own module."
    )


def executing() -> str | None:
    """The file that is being executed now, as messages name it."""
    return _executing[-1] if _executing else None


def ends_process(exc: BaseException, where: str) -> str:
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    told = f", saying {str(exc)!r}" if isinstance(exc, SystemExit) and isinstance(exc.code, str) else ""
    return (
        f"{where}: it ends the process with {type(exc).__name__} when it is imported{told} "
        f"({os.path.basename(frame.filename)} line {frame.lineno}). "
        "Raise an error such as RuntimeError instead, or move the call into a function."
    )


def plain(value: object) -> str:
    """A value as messages show it: without the address that a function's has."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def misnamed(name: str | None) -> str | None:
    """Say which module of the project may have been meant: `lib.money` where libs/money.py stands beside app.py."""
    folder = HERE
    for part in (name or "").split("."):
        names = {entry.stem for entry in folder.glob("[!._]*") if entry.suffix == ".py" or any(entry.glob("*.py"))}
        if part not in names:
            near = nearest(part, names)
            where = "beside app.py" if folder == HERE else f"in {folder.relative_to(HERE)}/"
            return f"There is no {part!r} {where}. Did you mean {near!r}, which is there?" if near else None
        folder /= part
    return None


def is_missing(name: str | None) -> bool:
    """Whether a module's package is not installed at all; one of the trees' own is not wanted from elsewhere."""
    top = (name or "").partition(".")[0]
    return bool(top) and top not in _trees and importlib.util.find_spec(top) is None


def _free_name(root: Path) -> str:
    """A root's name, or another where an installed package or a module has that name."""
    name = root.name if root.name.isidentifier() else escape(root.name)
    while name not in _trees and _is_taken(name, root):
        name += "_"
    return name


def _is_taken(name: str, root: Path) -> bool:
    if (module := sys.modules.get(name)) is not None:
        return not any(Path(place).resolve() == root.resolve() for place in getattr(module, "__path__", ()))
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).parent.resolve() != root.resolve()


def component(name: str) -> str:
    """A folder's name in a module's, no two alike: braces for brackets, which pydantic reads as a generic type's.

    Dots separate there, but for those of [...x]. What could be taken for another name is escaped.
    """
    if re.search(r"[{},]|_[0-9a-f]+_", name):
        return escape(name)
    name = name.replace("[", "{").replace("]", "}")
    return name if re.fullmatch(r"\{{1,2}\.\.\.[^.]*", name) else name.replace(".", "_2e_")


def escape(name: str) -> str:
    """Turn a name into an identifier, no two names into one: an odd character becomes ``_hex_``."""
    if name.isidentifier() and name.isascii() and not re.search("_[0-9a-f]+_", name):
        return name
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name)


def shown(root: Path, file: Path) -> str:
    """A file as messages name it: routes/users/[id]/route.py."""
    return (Path(root.name) / file.relative_to(root)).as_posix()
