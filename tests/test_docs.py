"""Every python block of the docs runs: files are written where their first line says, the rest must compile."""

import ast
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from starlette.testclient import TestClient

from app import create_app
from config import Config
from loader import load_routes
from tests.processes import PYTHON, Project, run
from tests.servers import ModelServer, wait_until, write_tree
from tests.shipped import ROUTES as SHIPPED_ROUTES
from tests.test_house import MODULES
from tests.tokens import JWT_SECRET, claims

HERE = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([HERE / "README.md", *(HERE / "docs").glob("*.md")])
RUNNING, PORTING = HERE / "docs" / "running.md", HERE / "docs" / "porting.md"
FILE = re.compile(r"(?:#|--) (\S+\.\w+)\n")

# Variables that the docs name and that are not settings of the app, each with whose it is.
FOREIGN = {
    "CREDENTIALS_DIRECTORY",  # systemd's
    "FORWARDED_ALLOW_IPS",  # uvicorn's
    "PROMETHEUS_MULTIPROC_DIR",  # its client's
    "SENTRY_DSN",  # its own
    "GITHUB_SECRET",  # channels/github.py reads it by itself
    "TWILIO_AUTH_TOKEN",  # an example's own
    "DISCORD_PUBLIC_KEY",  # the same
    "DATABSE_URL",  # misspelt on purpose
    "SHOP_NAME",  # the same
    "UPLOADS_DIR",  # the same
    "SHOP_SECRET",  # the same
    "STOCK_URL",  # the same
    "NEXT_PUBLIC_",  # Next.js's
}


def blocks_of(document: Path, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def files_of(document: Path) -> dict[str, str]:
    """The blocks that name a file in their first line, by that name."""
    blocks = [*blocks_of(document), *blocks_of(document, "sql")]
    files = {named[1]: block for block in blocks if (named := FILE.match(block))}
    assert len(files) == len([block for block in blocks if FILE.match(block)]), "two blocks are one file"
    return files


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_block_compiles(document: Path):
    for block in blocks_of(document):
        compile(block, document.name, "exec")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a document's files; a module beside routes/ is imported by its name, and forgotten afterwards."""
    (tmp_path / "routes").mkdir()
    monkeypatch.chdir(tmp_path)  # where an example writes its files
    monkeypatch.syspath_prepend(tmp_path)  # pyright: ignore[reportUnknownMemberType] - pytest leaves it untyped
    for document in DOCUMENTS:
        for name in files_of(document):
            sys.modules.pop(name.removesuffix(".py"), None)  # a clone may have one of its own
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if files_of(d)], ids=lambda path: path.name)
def test_the_routes_of_a_document_load_and_answer(document: Path, tree: Path):
    write_tree(tree, files_of(document))
    url = f"sqlite:///{tree / 'data/app.db'}"
    secrets: dict[str, Any] = {"webchat_token": "t", "cron_secret": "s", "auth_jwt_secret": JWT_SECRET}
    app = create_app(Config(routes_dir=tree / "routes", database_url=url, **secrets))
    session = jwt.encode(claims(aud=None, iss=None), JWT_SECRET, "HS256")
    with TestClient(app, headers={"Authorization": "Bearer t", "Cookie": f"session={session}"}) as client:
        for route in load_routes(tree / "routes"):
            params: dict[str, Any] = {s.text: ["1"] if s.rank > 1 else "1" for s in route.segments if s.rank}
            for method in route.handlers:
                response = client.request(method, route.url_path_for(route.path, **params), content="{}")
                assert response.status_code not in (401, 405, 500)


def test_the_upload_of_the_docs_takes_a_picture_and_refuses_the_rest(tree: Path):
    write_tree(tree, files_of(HERE / "docs" / "typed.md"))
    app = create_app(Config(routes_dir=tree / "routes", database_url=f"sqlite:///{tree / 'data/app.db'}"))
    picture = {"file": ("../../a.png", b"\x89PNG", "image/png")}
    with TestClient(app) as client:
        kept = client.post("/upload", data={"title": "A", "year": "2026"}, files=picture)
        assert (kept.status_code, kept.json()) == (201, {"title": "A", "year": 2026, "bytes": 4})
        assert (tree / "data" / "picture").read_bytes() == b"\x89PNG"
        refused: list[tuple[dict[str, Any], str]] = [
            ({"data": {"title": ""}, "files": picture}, "title"),
            ({"data": {"title": "A", "year": ""}, "files": picture}, "year"),
            ({"data": {"title": "A"}}, "file"),
            ({"data": {"title": "A", "file": "text"}}, "file"),
            ({"data": {"title": "A"}, "files": {"file": ("a.svg", b"<svg>", "image/svg+xml")}}, "file"),
            ({"json": {"title": "A"}}, "title"),
        ]
        for sent, field in refused:
            answer = client.post("/upload", **sent)
            assert (answer.status_code, [one["field"] for one in answer.json()["details"]]) == (400, [field])
        broken = {"Content-Type": "multipart/form-data; boundary=x"}
        assert client.post("/upload", content=b"--x\r\nbroken", headers=broken).status_code == 400
        assert client.post("/upload", content=b"a" * 5_500_001, headers=broken).status_code == 413


def test_the_loader_works_in_another_starlette_app(tree: Path, monkeypatch: pytest.MonkeyPatch):
    [block] = [block for block in blocks_of(HERE / "docs/routing.md") if not FILE.match(block)]
    text = "from starlette.responses import Response\n\n\ndef GET(request):\n    return Response('Hello')\n"
    write_tree(tree, {"routes/hello/route.py": text})
    monkeypatch.chdir(tree)
    found: dict[str, Any] = {}
    exec(block, found)  # noqa: S102 - it is ours, and shown to be run
    assert TestClient(found["app"]).get("/hello").text == "Hello"


@pytest.fixture
def ported(
    tree: Path, serve_tree: Callable[..., str], model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    """A client of an app that is the files of docs/porting.md; the server ticks by itself."""
    monkeypatch.setenv("SHOP_SECRET", "shop")
    files = {f"../{name}": text for name, text in files_of(PORTING).items()}
    with httpx.Client(base_url=serve_tree(files, openai_base_url=model.url, cron_interval=0.05)) as client:
        yield client


def sent() -> list[object]:
    """What the example's mailing.py has sent so far."""
    return list(sys.modules["mailing"].SENT.values())


def test_the_ported_chat_streams_what_the_model_says(ported: httpx.Client, bearer: dict[str, str], model: ModelServer):
    assert ported.post("/api/support", json={"message": "Hi"}).status_code == 401
    wrong = ported.post("/api/support", json=["Hi"], headers=bearer)
    assert (wrong.status_code, wrong.json()["details"][0]["field"]) == (400, "message")
    said = ported.post("/api/support", json={"message": "Hi"}, headers=bearer).text
    assert said == 'data: {"text": "Hel"}\n\ndata: {"text": "lo"}\n\ndata: [DONE]\n\n'
    assert model.asked[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_tick_stores_when_the_ported_job_is_next(ported: httpx.Client, tree: Path):
    def due() -> list[str]:
        with closing(sqlite3.connect(tree / "data/app.db")) as db:
            return [id for (id,) in db.execute("SELECT id FROM house_job WHERE name = 'digest'")]

    wait_until(due)
    assert re.fullmatch(r"cron:digest:[0-9-]+T09:00:00\+00:00", due()[0])


def test_what_after_did_is_a_job(ported: httpx.Client):
    assert ported.post("/orders", json={"book": 1}).status_code == 201
    wait_until(lambda: sent() == [{"book": 1}])


def test_the_ported_proxy_sends_strangers_to_the_login(ported: httpx.Client):
    stranger = ported.get("/dashboard")
    assert (stranger.status_code, stranger.headers["location"]) == (307, "/login")
    assert ported.get("/dashboard", headers={"Cookie": "session=1"}).json() == {"session": "1"}


def test_the_backup_of_the_docs_holds_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    [block] = [block for block in blocks_of(RUNNING) if "backup(" in block]
    with closing(sqlite3.connect("data/app.db", isolation_level=None)) as app:
        app.execute("PRAGMA journal_mode=WAL")
        app.execute("CREATE TABLE said (word)")
        app.execute("INSERT INTO said VALUES ('kept')")
        exec(compile(block, RUNNING.name, "exec"), {})  # noqa: S102 - the block is what is tested
    with closing(sqlite3.connect("backup.db")) as copy:
        assert copy.execute("SELECT word FROM said").fetchall() == [("kept",)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_shell_block_can_be_parsed(document: Path):
    for block in blocks_of(document, "bash"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_that_a_document_names_exists(document: Path):
    settings = {field.name.upper() for field in fields(Config)}
    words = set(re.findall(r"\b[A-Z]+(?:_[A-Z0-9]+)+\b|\bNEXT_PUBLIC_", document.read_text()))
    assert words - settings - FOREIGN == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_of_the_api_that_a_document_names_is_a_route(document: Path):
    text = re.sub(r"https?://(localhost|example\.com|route-py)(:\d+)?", " ", document.read_text())
    own = [re.sub(r"^routes|/route\.py$", "", name) for name in files_of(document) if name.endswith("/route.py")]
    shapes = [path.split("/") for path in [re.sub(r"^routes|/route\.py$", "", file) for file in SHIPPED_ROUTES] + own]
    for path in re.findall(r"(?<![\w./*])/api/[\w/\[\]-]+(?:\.json)?", text):
        parts = path.rstrip("/").split("/")
        assert any(
            len(shape) == len(parts) and all(b == a or b.startswith("[") for a, b in zip(parts, shape, strict=True))
            for shape in shapes
        ), path


def test_every_line_of_the_log_is_explained():
    section = RUNNING.read_text().split("\n## The log\n")[1].split("\n## ")[0]
    shown = re.findall(r"`([^`]+)`", section)
    for file in MODULES:
        for line in lines_logged_by(file):
            pattern = re.escape(line).replace("%s", ".*")
            assert any(re.fullmatch(pattern, example) for example in shown), f"{file.name} logs {line!r}"


def lines_logged_by(file: Path) -> list[str]:
    """The texts that a module's logger is given, with their %s."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return [
        next(a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "logger"
        and call.func.attr in ("debug", "info", "warning", "error", "exception", "log")
    ]


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if any(file.startswith("tests/") for file in files_of(d))], ids=lambda p: p.name
)
def test_the_tests_of_a_document_pass(document: Path, project: Project):
    files = files_of(document)
    write_tree(project, files)
    tests = [file for file in files if Path(file).name.startswith("test_")]
    done = run(project, PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *tests)
    assert done.returncode == 0, done.stdout
    written = sum(files[file].count("\ndef test_") + files[file].count("\nasync def test_") for file in tests)
    assert len(set(re.findall(r"^PASSED (\S+::\w+)", done.stdout, re.MULTILINE))) == written > 0


def test_every_local_link_leads_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_is_short_and_leads_to_every_page():
    readme = (HERE / "README.md").read_text()
    assert len(readme.splitlines()) < 150
    for page in (HERE / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in readme
