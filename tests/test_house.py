"""The plan of the house: which module may import which. It looks at the machine's own modules alone."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent

# A module, or a folder of modules, may import those of the floors below its own. These are the machine's: whatever else
# stands beside them is yours, and no rule of this file looks at it. A new one of the machine is placed here.
FLOORS = [
    {"app"},
    {"cli", "layers"},
    {"chat", "startup"},
    {"state"},
    {"webhooks", "answers"},
    {"llm", "sse", "store", "worker"},
    {"quota"},
    {"model", "db"},
    {"loader", "openapi"},
    {"router", "modules"},
    {"typed", "auth"},
    {"visitors"},
    {"config", "errors", "jsonresponse", "logs", "metrics"},
    {"nearest"},
]
FLOOR = {name: number for number, floor in enumerate(reversed(FLOORS)) for name in floor}


def files_of(name: str) -> list[Path]:
    file = HERE / f"{name}.py"
    return [file] if file.is_file() else sorted((HERE / name).rglob("*.py"))


MODULES = [file for name in sorted(FLOOR) for file in files_of(name)]


def name_of(file: Path) -> str:
    return file.relative_to(HERE).with_suffix("").parts[0]


def imports_of(file: Path) -> set[str]:
    """What stands beside app.py and a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return {name for name in found if files_of(name)}


def shown(file: Path) -> str:
    return str(file.relative_to(HERE))


def test_every_module_of_the_plan_is_there():
    assert not {name for name in FLOOR if not files_of(name)}


@pytest.mark.parametrize("file", MODULES, ids=shown)
def test_imports_point_downwards(file: Path):
    imported = imports_of(file) - {name_of(file)}  # inside a folder its files may import each other
    assert imported <= set(FLOOR), (
        f"{shown(file)} imports {imported - set(FLOOR)}: give it a floor in tests/test_house.py"
    )
    climbing = {name for name in imported if FLOOR[name] >= FLOOR[name_of(file)]}
    assert not climbing, f"{shown(file)} imports {climbing}: what they share belongs to a module below both"


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("loader", {"llm", "sse", "auth", "config", "state", "openai", "httpx"}),
        ("router", {"llm", "sse", "auth", "config", "state", "openai", "httpx"}),
        ("jsonresponse", {"llm", "sse", "auth", "config", "state", "openai", "httpx"}),
        ("errors", {"llm", "sse", "auth", "config", "state", "openai", "httpx"}),
        ("llm", {"starlette", "uvicorn"}),
        ("model", {"llm", "starlette", "uvicorn"}),
        ("sse", {"llm", "openai", "config"}),
    ],
)
def test_some_modules_know_nothing_of_others(module: str, strangers: set[str]):
    nodes = [node for file in files_of(module) for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & strangers


def test_every_folder_of_the_machine_is_type_checked():
    checked = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["pyright"]["include"]
    assert {name for name in FLOOR if (HERE / name).is_dir()} | {"*.py"} <= set(checked)


def test_a_lint_rule_that_is_set_aside_says_why():
    files = [*MODULES, *(HERE / "bench").glob("*.py")]
    bare = re.compile(r"# noqa(?!: [A-Z0-9, ]+ - \w)")
    assert not [
        f"{shown(file)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if bare.search(line)
    ]


def test_no_module_of_the_house_hides_one_of_the_library():
    assert not set(FLOOR) & sys.stdlib_module_names
