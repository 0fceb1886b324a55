"""The plan of the house: who may import whom, and that every shipped route keeps its door shut."""

import ast
import re
import sys
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import create_app
from config import ROUTES, Config
from loader import load_routes
from router import Route
from webhooks import load_channels

HERE = Path(__file__).resolve().parent.parent

# A module, or a folder of modules, may import those of the floors below its own. These are the machine's: whatever else
# stands beside them is yours, and no rule of this file looks at it. A new one of the machine is placed here.
FLOORS = [
    {"app"},
    {"cli"},
    {"chat"},
    {"state", "startup"},
    {"webhooks"},
    {"llm", "sse", "store", "worker"},
    {"offline", "db"},
    {"loader", "openapi"},
    {"router", "requestlog"},
    {"typed"},
    {"auth", "completion", "config", "errors", "jsonresponse"},
]
FLOOR = {name: number for number, floor in enumerate(reversed(FLOORS)) for name in floor}


def files_of(name: str) -> list[Path]:
    file = HERE / f"{name}.py"
    return [file] if file.is_file() else sorted((HERE / name).rglob("*.py"))


MODULES = [file for name in sorted(FLOOR) for file in files_of(name)]

# What anybody may ask: "METHOD /path", with the reason beside it.
OPEN = {"GET /api/health"}  # a monitor has no secret to lose, and it says only ok


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
        ("completion", {"llm", "openai", "anyio", "config"}),
        ("sse", {"llm", "openai", "config"}),
    ],
)
def test_some_modules_know_nothing_of_others(module: str, strangers: set[str]):
    nodes = [node for file in files_of(module) for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & strangers


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


def doors() -> list[tuple[Route, str]]:
    return [(route, method) for route in load_routes(ROUTES) for method in sorted(route.handlers)]


def closed_doors() -> list[tuple[Route, str]]:
    return [(route, method) for route, method in doors() if f"{method} {route.path}" not in OPEN]


CHANNELS = sorted(load_channels(HERE / "channels"))
SECRETS: dict[str, Any] = {
    entry.name: "c2VjcmV0LXRoYXQtaXMtc2V0" for entry in fields(Config) if entry.metadata["hidden"]
}


@pytest.mark.parametrize("secrets", [{}, SECRETS], ids=["unset", "set"])
@pytest.mark.parametrize(("route", "method"), closed_doors(), ids=lambda value: getattr(value, "path", value))
def test_every_route_is_401_without_a_credential(tmp_path: Path, route: Route, method: str, secrets: dict[str, Any]):
    params: dict[str, Any] = {s.text: ["x"] if s.rank > 1 else "x" for s in route.segments if s.rank}
    paths = [
        route.url_path_for(route.path, **params | {"channel": channel} if "channel" in params else params)
        for channel in (CHANNELS if "channel" in params else [""])
    ]
    settings: dict[str, Any] = {**secrets, "database_url": f"sqlite:///{tmp_path}/a.db"}
    config = Config(**settings)
    with TestClient(create_app(config)) as client:
        nothing: list[dict[str, str]] = [
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer None"},
            {"X-Cron-Secret": ""},
        ]
        for path, headers in product(paths, nothing):
            response = client.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"


def test_what_is_open_by_design_is_still_there():
    assert not OPEN - {f"{method} {route.path}" for route, method in doors()}
