"""Which path is whose: order, parameters, redirects, methods, errors, middleware, public files."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Match, Mount, NoMatchFound
from starlette.routing import Route as StarletteRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from app import create_app
from config import Config
from loader import load_routes
from router import Route, Router, Segment
from tests.servers import serving, wait_until, write_tree
from tests.test_loader import tag

ServeTree = Callable[..., str]
Address = tuple[str, int]

IMPORTS = """
import anyio
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
"""
# says which file answered and with what
ECHO = """
from starlette.responses import JSONResponse

async def GET(request, params):
    return JSONResponse({"file": request.scope["route"].file.removeprefix("routes/"), "params": params})
"""


def echoes(*folders: str) -> dict[str, str]:
    return {f"{folder}/route.py".removeprefix("/"): ECHO for folder in folders}


def app_of(tmp_path: Path, files: dict[str, str], **options: Any) -> Starlette:
    routes = write_tree(tmp_path / "routes", files)
    return create_app(Config(routes_dir=routes, **options))


def client_of(tmp_path: Path, files: dict[str, str], **options: Any) -> TestClient:
    return TestClient(app_of(tmp_path, files, **options), raise_server_exceptions=False, follow_redirects=False)


def address_of(url: str) -> Address:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)


def raw(url: str, data: bytes) -> bytes:
    """Write bytes to a server; all that comes back until it closes."""
    with socket.create_connection(address_of(url), timeout=10) as connection:
        connection.sendall(data)
        with connection.makefile("rb") as stream:
            return stream.read()


def ask(url: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """Send a path as it is written; clients would tidy it up."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a.test", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head, _, body = raw(url, "\r\n".join([*lines, "", ""]).encode()).partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    named = (field.split(": ", 1) for field in fields)
    return int(status.split()[1]), {name.lower(): value for name, value in named}, body.decode()


def call(app: ASGIApp, path: str) -> tuple[int, Headers, bytes]:
    """Ask an app without a server, for what is asked thousands of times."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(), "root_path": ""}

    async def run() -> None:
        await app(scope | {"headers": [], "query_string": b""}, receive, send)

    asyncio.run(run())
    return sent[0]["status"], Headers(raw=sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeTree]:
    """Start a server on a tree, one for all the tests that name the same tree."""
    with ExitStack() as stack:

        @cache
        def start(*files: tuple[str, str]) -> str:
            folder = write_tree(tmp_path_factory.mktemp("site") / "routes", dict(files))
            return stack.enter_context(serving(create_app(Config(routes_dir=folder))))

        def start_tree(files: dict[str, str]) -> str:
            return start(*files.items())

        yield start_tree


# Which file answers

ORDER: list[tuple[list[str], list[tuple[str, str | None, dict[str, Any]]]]] = [
    (
        ["prio/[...all]", "prio/[id]/[sub]", "prio/[id]", "prio/[id]/settings", "prio/static/[x]", "prio/static"],
        [
            ("/prio/static", "prio/static", {}),
            ("/prio/Static", "prio/[id]", {"id": "Static"}),
            ("/prio/static/x", "prio/static/[x]", {"x": "x"}),
            ("/prio/x/settings", "prio/[id]/settings", {"id": "x"}),
            ("/prio/static/x/y", "prio/[...all]", {"all": ["static", "x", "y"]}),
            ("/prio", None, {}),
        ],
    ),
    (
        ["back/known/y", "back/[a]/x"],
        [("/back/known/x", "back/[a]/x", {"a": "known"}), ("/back/known/z", None, {}), ("/back/known", None, {})],
    ),
    (
        ["back2/a/[...rest]", "back2/[x]/exact"],
        [
            ("/back2/a/exact", "back2/a/[...rest]", {"rest": ["exact"]}),
            ("/back2/b/exact", "back2/[x]/exact", {"x": "b"}),
            ("/back2/a", None, {}),
        ],
    ),
    (
        ["back4/[...all]", "back4/[a]/[...rest]", "back4/[a]/[b]/end"],
        [
            ("/back4/1/2/3", "back4/[a]/[...rest]", {"a": "1", "rest": ["2", "3"]}),
            ("/back4/1/2/end", "back4/[a]/[b]/end", {"a": "1", "b": "2"}),
            ("/back4/1", "back4/[...all]", {"all": ["1"]}),
        ],
    ),
    (
        ["back5/a/b", "back5/a/[id]", "back5/[[...all]]"],
        [
            ("/back5/a", "back5/[[...all]]", {"all": ["a"]}),
            ("/back5", "back5/[[...all]]", {}),
            ("/back5/a/b", "back5/a/b", {}),
            ("/back5/a/c", "back5/a/[id]", {"id": "c"}),
            ("/back5/a/b/c", "back5/[[...all]]", {"all": ["a", "b", "c"]}),
        ],
    ),
    (
        ["[x]/a/b", "y/[[...rest]]", "[...all]"],
        [
            ("/y", "y/[[...rest]]", {}),
            ("/y/a/b", "y/[[...rest]]", {"rest": ["a", "b"]}),
            ("/z/a/b", "[x]/a/b", {"x": "z"}),
            ("/z/a", "[...all]", {"all": ["z", "a"]}),
            ("/", None, {}),
        ],
    ),
    (["[[...all]]"], [("/", "[[...all]]", {}), ("/a", "[[...all]]", {"all": ["a"]})]),
    (["(g)/(h)", "@slot/x"], [("/", "(g)/(h)", {}), ("/x", "@slot/x", {}), ("/(g)", None, {}), ("/@slot/x", None, {})]),
]


@pytest.mark.parametrize(("folders", "answers"), ORDER, ids=[tree[0][0] for tree in ORDER])
def test_the_first_that_matches_answers(
    tmp_path: Path, folders: list[str], answers: list[tuple[str, str | None, dict[str, Any]]]
):
    files = echoes(*folders)
    for client in (client_of(tmp_path, files), TestClient(Starlette(routes=load_routes(tmp_path / "routes")))):
        for path, folder, params in answers:
            response = client.get(path)
            if folder is None:
                assert response.status_code == 404
            else:
                assert response.json() == {"file": f"{folder}/route.py", "params": params}


def test_a_wrong_method_does_not_fall_through(tmp_path: Path):
    post = IMPORTS + "async def POST(): return PlainTextResponse('')"
    response = client_of(tmp_path, echoes("x/new") | {"x/[id]/route.py": post}).post("/x/new")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/d/a%2Fb", {"id": "a/b"}),
        ("/d/a%252Fb", {"id": "a%2Fb"}),
        ("/d/a+b", {"id": "a+b"}),
        ("/d/a%2Bb", {"id": "a+b"}),
        ("/d/%25", {"id": "%"}),
        ("/d/%00", {"id": "\0"}),
        ("/d/%0d%0aX:1", {"id": "\r\nX:1"}),
        ("/d/%F0%9F%91%8B", {"id": "👋"}),
        ("/d/a%5Cb", {"id": "a\\b"}),
        ("/d/a%3Fb%23c", {"id": "a?b#c"}),
        ("/d/..%2f..%2Fx", {"id": "../../x"}),
        ("/d/...", {"id": "..."}),
        ("/d/%2e%2e%2e", {"id": "..."}),
        ("/d/.hidden", {"id": ".hidden"}),
        ("/d/a;b=1,c", {"id": "a;b=1,c"}),
        ("/d/a?b=/../c//", {"id": "a"}),
        ("/c/a%2Fb/c", {"all": ["a/b", "c"]}),
        ("/c/%2F", {"all": ["/"]}),
        ("/%64/x", {"id": "x"}),
    ],
)
def test_parameters_are_split_first_and_decoded_once(site: ServeTree, path: str, params: dict[str, Any]):
    status, _, body = ask(site(echoes("d/[id]", "c/[...all]")), path)
    assert status == 200
    assert json.loads(body)["params"] == params


SPELT = [
    ("café", "/caf%C3%A9"),
    ("café", "/caf%c3%a9"),
    ("esc/caf%C3%A9", "/esc/caf%C3%A9"),
    ("sp ace", "/sp%20ace"),
    ("static", "/st%61tic"),
    ("dollar$seg", "/dollar$seg"),
    ("dollar$seg", "/dollar%24seg"),
    ("tilde~seg", "/%74ilde~seg"),
    ("a!'()*,;:@&=+b", "/a!'()*,;:@&=+b"),
    ("pre-[x]", "/pre-[x]"),
    ("pre-[x]", "/pre-%5Bx%5D"),
    ("100%", "/100%25"),
    ("a%2Fb", "/a%2fb"),
    ("%5Fname", "/_name"),
    ("日本", "/%E6%97%A5%E6%9C%AC"),
]


@pytest.mark.parametrize(("folder", "path"), SPELT)
def test_folder_names_and_paths_are_compared_decoded(site: ServeTree, folder: str, path: str):
    url = site(echoes(*(spelt for spelt, _ in SPELT)))
    status, _, body = ask(url, path)
    assert (status, json.loads(body)["file"]) == (200, f"{folder}/route.py")
    assert ask(url, path + "/")[0] == 308


@pytest.mark.parametrize("path", ["/CAFE", "/sp+ace", "/cafe%CC%81", "/%2Fcafe", "/cafe%20", "/cafe%00", "/a/b"])
def test_what_only_resembles_a_path_is_404(site: ServeTree, path: str):
    status, _, body = ask(site(echoes("cafe", "café", "sp ace", "a%2Fb")), path)
    assert (status, body) == (404, '{"error":"Not Found"}')


@pytest.mark.parametrize(
    "path", ["/%", "/d/%zz", "/d/%E2%9C", "/d/%ff", "/d/%C0%AF", "/d/%ED%A0%80", "/d/a%2", "/%g0/x"]
)
def test_a_malformed_escape_is_400(site: ServeTree, path: str):
    status, headers, body = ask(site(echoes("d/[id]", "[[...all]]")), path)
    assert (status, headers["content-type"]) == (400, "application/json")
    assert "malformed" in body


# Before routing


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/x/", "/x"),
        ("/x/?a=1&b=%20/", "/x?a=1&b=%20/"),
        ("/nowhere/", "/nowhere"),
        ("/d/%E2%9C%93/", "/d/%E2%9C%93"),
        ("/d/a%2F/", "/d/a%2F"),
        ('/d/a"b/', "/d/a%22b"),
        ("/d/a%zz/", "/d/a%zz"),
        ("//x", "/x"),
        ("///", "/"),
        ("/x//", "/x/"),
        ("/x//y//z?q=a//b", "/x/y/z?q=a//b"),
        ("/x\\y", "/x/y"),
        ("/x\\", "/x/"),
        ("/x/\\/y", "/x/y"),
        ("//example.com/x", "/example.com/x"),
        ("//example.com", "/example.com"),
        ("///example.com/x", "/example.com/x"),
        ("/\\example.com/x", "/example.com/x"),
        ("\\\\example.com/x", None),
        ("/.//example.com/", "/example.com/"),
        ("/..//example.com", "/example.com"),
        ("/%2e/example.com/", "/example.com"),
        ("/x/..//example.com/", "/example.com/"),
        ("//%2e%2e//x", "/x"),
        ("/x/.", "/x"),
        ("/d/%2e", "/d"),
        ("/a/b/..", "/a"),
        ("/a/b/../", "/a"),
        ("/a/b/%2E%2e/", "/a"),
        ("/a/./b/", "/a/b"),
        ("/x/#f", "/x"),
    ],
)
def test_an_untidy_path_is_sent_to_the_tidy_one(site: ServeTree, path: str, location: str | None):
    url = site(echoes("x", "d/[id]"))
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
        status, headers, _ = ask(url, path, method)
        if location is None:
            assert status == 400
        else:
            assert (status, headers["location"]) == (308, location)


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/x/..", "/"),
        ("/x/../", "/"),
        ("/./", "/"),
        ("/..", "/"),
        ("/../../..", "/"),
        ("/a/./b", "/a/b"),
        ("/a/%2e/b", "/a/b"),
        ("/a/c/../b", "/a/b"),
        ("/a/c/%2e%2E/b", "/a/b"),
        ("/a/c/.%2e/b", "/a/b"),
        ("/../a/b", "/a/b"),
        ("/x/../../a/b?a=1&b=2", "/a/b?a=1&b=2"),
        ("/chat.css/../a/b", "/a/b"),
        ("//example.com/%2e%2e", "/"),
        ("/a/..\\..//b", "/b"),
        ("/a/..%2fb", None),
        ("/a/...", None),
        ("/a/..;", None),
        ("/a/b?x=/../..", None),
        ("http://other.test/a/b", None),
    ],
)
def test_dot_segments_are_sent_to_the_path_they_stand_for(site: ServeTree, path: str, location: str | None):
    url = site(echoes("", "a/[b]", "x") | {"../public/chat.css": "css"})
    for method in ("GET", "POST", "DELETE"):
        status, headers, _ = ask(url, path, method)
        assert (status in (200, 405), headers.get("location")) == (location is None, location)


def test_a_request_for_no_path_is_not_one_for_the_root(site: ServeTree):
    url = site(echoes("", "[[...all]]/(none)/_x"))
    assert ask(url, "*", "OPTIONS")[0] == 404
    assert ask(url, "*")[0] == 404


@pytest.mark.parametrize("folder", ["[id]", "[...all]", "[[...all]]"])
async def test_a_path_without_its_slash_is_none(tmp_path: Path, folder: str):
    """A server may let it through: HTTP/1.1 has no such target but `*` (RFC 9112 3.2)."""
    app = app_of(tmp_path, echoes(folder))
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "abc", "raw_path": b"abc", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 404


@given(path=st.text("ab./\\%2eE5c", max_size=14))
def test_a_redirect_stays_here_and_comes_to_an_end(path: str):
    async def ok() -> Response:
        return PlainTextResponse("ok")

    app = Starlette()
    app.router = Router([Route([Segment(3, "all")], {"GET": ok})])
    path, status = "/" + path, 308
    for _ in range(5):
        status, headers, _ = call(app, path)
        if status != 308:
            break
        path = headers["location"]
        assert path.startswith("/")
        assert not path.startswith(("//", "/\\"))
    assert status in (200, 400)


# Methods


VERBS = IMPORTS + "{} = lambda request: PlainTextResponse(request.method, headers={{'x-method': request.method}})"


@pytest.mark.parametrize(
    ("exported", "allow"),
    [
        ("GET", "GET, HEAD, OPTIONS"),
        ("HEAD", "HEAD, OPTIONS"),
        ("POST", "OPTIONS, POST"),
        ("PUT = PATCH = DELETE", "DELETE, OPTIONS, PATCH, PUT"),
        ("POST = GET", "GET, HEAD, OPTIONS, POST"),
        ("OPTIONS", "OPTIONS"),
        ("GET = HEAD = POST = PUT = PATCH = DELETE = OPTIONS", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
    ],
)
def test_a_verb_that_is_not_exported_is_405_with_allow(serve_tree: ServeTree, exported: str, allow: str):
    url = serve_tree({"x/route.py": VERBS.format(exported)})
    handled = set(exported.split(" = "))
    runs = handled | {"HEAD"} if "GET" in handled else handled
    for method in (
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "PROPFIND",
        "PURGE",
        "M-SEARCH",
    ):
        status, headers, body = ask(url, "/x", method)
        if method in runs:
            assert (status, headers["x-method"], body) == (200, method, "" if method == "HEAD" else method)
        elif method == "OPTIONS":
            assert (status, headers["allow"], body) == (204, allow, "")
        else:
            assert (status, headers["allow"]) == (405, allow)
            assert body == ("" if method == "HEAD" else '{"error":"Method Not Allowed"}')


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "TRACE", "PROPFIND"])
def test_every_method_is_404_where_nothing_answers(site: ServeTree, method: str):
    assert ask(site(echoes("x")), "/nope", method)[0] == 404


def test_plain_starlette_gives_the_same_answers_for_methods(tmp_path: Path):
    files = {"x/route.py": VERBS.format("GET = PUT"), "p/route.py": VERBS.format("POST")}
    ours = client_of(tmp_path, files)
    plain = TestClient(Starlette(routes=load_routes(tmp_path / "routes")), raise_server_exceptions=False)
    for path in ("/x", "/p", "/nope"):
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE"):
            one, two = ours.request(method, path), plain.request(method, path)
            assert (one.status_code, one.headers.get("allow")) == (two.status_code, two.headers.get("allow"))
            assert one.headers.get("x-method") == two.headers.get("x-method")


def test_head_runs_get_and_keeps_its_headers(serve_tree: ServeTree):
    url = serve_tree({"x/route.py": IMPORTS + "async def GET(): return PlainTextResponse('hello', headers={'x': '1'})"})
    status, headers, body = ask(url, "/x", "HEAD")
    assert (status, headers["content-length"], headers["x"], body) == (200, "5", "1", "")


def test_head_of_a_stream_without_end_ends(serve_tree: ServeTree, tmp_path: Path):
    stream = """
import anyio, pathlib
from starlette.responses import StreamingResponse

async def forever():
    try:
        while True:
            yield b"tick"
            await anyio.sleep(0.01)
    finally:
        pathlib.Path(__file__).with_name("ended").touch()

async def GET():
    return StreamingResponse(forever())
"""
    status, _, body = ask(serve_tree({"x/route.py": stream}), "/x", "HEAD")
    assert (status, body) == (200, "")
    wait_until((tmp_path / "routes/x/ended").exists)


# What a handler gives back


@pytest.mark.parametrize(
    ("value", "kind"), [("None", "NoneType"), ("{}", "dict"), ("'text'", "str"), ("Response", "type")]
)
def test_anything_but_a_response_is_500_and_the_log_says_where(
    serve_tree: ServeTree, caplog: pytest.LogCaptureFixture, value: str, kind: str
):
    url = serve_tree({"x/[id]/route.py": f"{IMPORTS}async def POST(): return {value}"})
    status, _, body = ask(url, "/x/7", "POST")
    assert (status, body) == (500, '{"error":"Internal server error"}')
    wait_until(lambda: caplog.records)
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (record.name, bool(record.exc_info)) == ("uvicorn.error", True)
    assert (
        "No response is returned from route handler 'routes/x/[id]/route.py'. Expected a Response object but received "
        f"'{kind}' (method: POST, url: /x/7)."
    ) in caplog.text


@pytest.mark.parametrize("define", ["async def", "def"])
def test_what_a_handler_raises_is_logged_and_not_told(
    serve_tree: ServeTree, caplog: pytest.LogCaptureFixture, define: str
):
    source = f"{define} GET(request):\n    raise ValueError('a secret of the house')\n"
    status, headers, body = ask(serve_tree({"x/route.py": source}), "/x")
    assert (status, body) == (500, '{"error":"Internal server error"}')
    assert headers["content-type"] == "application/json"
    wait_until(lambda: caplog.records)
    assert "ValueError: a secret of the house" in caplog.text
    assert "routes/x/route.py" in caplog.text
    assert "while answering GET /x (routes/x/route.py)" in caplog.text


def test_an_http_exception_is_its_status_and_detail_in_json(serve_tree: ServeTree):
    raises = IMPORTS + "def GET():\n    raise HTTPException(418, 'short and stout', headers={'X-Tea': '1'})\n"
    url = serve_tree({"tea/route.py": raises, "gone/route.py": raises.replace("418, 'short and stout'", "410")})
    status, headers, body = ask(url, "/tea")
    assert (status, headers["x-tea"], body) == (418, "1", '{"error":"short and stout"}')
    assert ask(url, "/gone")[2] == '{"error":"Gone"}'


def test_a_background_task_runs_after_the_answer(serve_tree: ServeTree, tmp_path: Path):
    source = """
import pathlib
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse

async def GET():
    done = pathlib.Path(__file__).with_name("done")
    return PlainTextResponse(str(done.exists()), background=BackgroundTask(done.touch))
"""
    assert ask(serve_tree({"x/route.py": source}), "/x")[2] == "False"
    wait_until((tmp_path / "routes/x/done").exists)


def test_a_background_task_that_fails_is_logged(serve_tree: ServeTree, caplog: pytest.LogCaptureFixture):
    source = IMPORTS + "def fail(): 1 / 0\ndef GET(): return PlainTextResponse('ok', background=BackgroundTask(fail))\n"
    assert ask(serve_tree({"x/route.py": source}), "/x")[2] == "ok"
    wait_until(lambda: "ZeroDivisionError" in caplog.text)


READS = IMPORTS + "async def POST(request): return JSONResponse(len(await request.body()))"


def test_a_body_that_is_too_large_is_413_in_json(serve_tree: ServeTree):
    url = serve_tree({"x/route.py": READS}, max_body_bytes=100)
    head = b"POST /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n"
    declared = [raw(url, head + b"Content-Length: %d\r\n\r\n" % n + b"x" * n) for n in (100, 101)]
    chunked = [raw(url, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks_of(n)) for n in (100, 101)]
    for fits, large in (declared, chunked):
        assert fits.startswith(b"HTTP/1.1 200")
        assert fits.endswith(b"\r\n\r\n100")
        assert large.startswith(b"HTTP/1.1 413")
        assert large.endswith(b'\r\n\r\n{"error":"Content Too Large"}')


def chunks_of(n: int) -> bytes:
    return b"".join(b"1\r\nx\r\n" for _ in range(n)) + b"0\r\n\r\n"


# Exception handlers, as Starlette documents them


class Refused(Exception):
    pass


class RefusedTwice(Refused):
    pass


async def by_status(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return PlainTextResponse(f"status {exc.status_code}", exc.status_code)


def by_class(request: Request, exc: Exception) -> Response:
    return PlainTextResponse(f"class {type(exc).__name__} at {request.url.path}", 422)


@pytest.mark.parametrize("folder", ["plain", "inside"])
def test_exception_handlers_by_status_and_by_class_are_used(tmp_path: Path, folder: str):
    raises = "from starlette.exceptions import HTTPException\nfrom tests.test_router import Refused, RefusedTwice\n"
    files = {f"{folder}/{name}/route.py": f"{raises}def GET(): raise {name}" for name in ("Refused", "RefusedTwice")}
    files |= {f"{folder}/{n}/route.py": f"{raises}def GET(): raise HTTPException({n})" for n in (404, 409, 500)}
    files |= {f"{folder}/bug/route.py": "def GET(): 1 / 0", "inside/middleware.py": tag("inside")}
    app = app_of(tmp_path, files)
    app.add_exception_handler(404, by_status)
    app.add_exception_handler(Refused, by_class)
    client = TestClient(app, raise_server_exceptions=False)
    for path, status, text in (
        ("404", 404, "status 404"),
        ("nowhere", 404, "status 404"),
        ("409", 409, '{"error":"Conflict"}'),
        ("500", 500, '{"error":"Internal Server Error"}'),
        ("Refused", 422, f"class Refused at /{folder}/Refused"),
        ("RefusedTwice", 422, f"class RefusedTwice at /{folder}/RefusedTwice"),
        ("bug", 500, '{"error":"Internal server error"}'),
    ):
        response = client.get(f"/{folder}/{path}")
        assert (response.status_code, response.text) == (status, text)
        assert response.headers.get("x-inside") == ("inside" if folder == "inside" else None)


@pytest.mark.parametrize("key", [500, Exception])
def test_the_handler_for_500_answers_and_the_exception_is_raised_again(tmp_path: Path, key: Any):
    app = app_of(tmp_path, {"x/route.py": "def GET(): 1 / 0"})
    app.exception_handlers.pop(Exception)
    app.add_exception_handler(key, by_class)
    response = TestClient(app, raise_server_exceptions=False).get("/x")
    assert (response.status_code, response.text) == (422, "class ZeroDivisionError at /x")
    with pytest.raises(ZeroDivisionError):
        TestClient(app).get("/x")


def test_a_handler_that_raises_in_turn_is_500(tmp_path: Path):
    def broken(request: Request, exc: Exception) -> Response:
        raise ValueError("of the handler")

    app = app_of(tmp_path, {"x/route.py": "from tests.test_router import Refused\ndef GET(): raise Refused"})
    app.add_exception_handler(Refused, broken)
    response = TestClient(app, raise_server_exceptions=False).get("/x")
    assert (response.status_code, response.text) == (500, '{"error":"Internal server error"}')
    with pytest.raises(ValueError, match="of the handler"):
        TestClient(app).get("/x")


def test_debug_shows_the_traceback_as_starlette_does(tmp_path: Path):
    app = app_of(tmp_path, {"x/route.py": "def GET(): 1 / 0"})
    app.debug = True
    assert "ZeroDivisionError" in TestClient(app, raise_server_exceptions=False).get("/x").text


# Starlette's tools


def test_the_scope_says_which_route_and_endpoint_answered(tmp_path: Path):
    source = (
        IMPORTS
        + """
async def GET(request):
    route, endpoint = request.scope["route"], request.scope["endpoint"]
    return JSONResponse([route.path, route.file, endpoint.__name__, request.path_params, request.url.path])
async def POST(request): return await GET(request)
"""
    )
    files = {"u/[id]/[...rest]/route.py": source, "s/route.py": source}
    plain = write_tree(tmp_path / "routes", files)
    for client in (client_of(tmp_path, files), TestClient(Starlette(routes=load_routes(plain)))):
        expected = ["/u/[id]/[...rest]", "routes/u/[id]/[...rest]/route.py", "POST", {"id": "7", "rest": ["a b"]}]
        assert client.post("/u/7/a%20b").json() == [*expected, "/u/7/a b"]
        assert client.get("/s").json() == ["/s", "routes/s/route.py", "GET", {}, "/s"]
        assert client.head("/s").status_code == 200


def test_routes_are_listed_in_the_order_in_which_they_are_tried(tmp_path: Path):
    app = app_of(tmp_path, echoes("[x]", "b", "a/[[...c]]"))
    assert [getattr(route, "path", None) for route in app.routes] == ["/a/[[...c]]", "/b", "/[x]"]


@pytest.mark.parametrize(
    ("name", "params", "path"),
    [
        ("/", {}, "/"),
        ("/users", {}, "/users"),
        ("/users/[id]", {"id": "7"}, "/users/7"),
        ("/users/[id]", {"id": 7}, "/users/7"),
        ("/users/[id]", {"id": "a/b c?d%é"}, "/users/a%2Fb%20c%3Fd%25%C3%A9"),
        ("/docs/[...slug]", {"slug": ["a", "b/c"]}, "/docs/a/b%2Fc"),
        ("/docs/[...slug]", {"slug": ("a",)}, "/docs/a"),
        ("/docs/[...slug]", {"slug": "a"}, "/docs/a"),
        ("/shop/[[...slug]]", {}, "/shop"),
        ("/shop/[[...slug]]", {"slug": []}, "/shop"),
        ("/shop/[[...slug]]", {"slug": ["a"]}, "/shop/a"),
        ("/café au lait", {}, "/caf%C3%A9%20au%20lait"),
        ("/by/[name]", {"name": "x"}, "/by/x"),
        ("/at/[path]", {"path": "x"}, "/at/x"),
        ("/users/[id]", {}, None),
        ("/users/[id]", {"id": "7", "other": "x"}, None),
        ("/users/[id]", {"id": ""}, None),
        ("/users/[id]", {"id": ".."}, None),
        ("/docs/[...slug]", {"slug": []}, None),
        ("/docs/[...slug]", {"slug": ["a", "", "b"]}, None),
        ("/docs/[...slug]", {}, None),
        ("/users/7", {}, None),
        ("/nowhere", {}, None),
    ],
)
def test_a_path_is_built_from_a_route_and_its_parameters(
    tmp_path: Path, name: str, params: dict[str, Any], path: str | None
):
    folders = [
        "",
        "users",
        "users/[id]",
        "docs/[...slug]",
        "shop/[[...slug]]",
        "café au lait",
        "by/[name]",
        "at/[path]",
    ]
    app = app_of(tmp_path, echoes(*folders))
    if path is None:
        with pytest.raises(NoMatchFound):
            app.url_path_for(name, **params)
        return
    assert app.url_path_for(name, **params) == path
    assert TestClient(app).get(path).status_code == 200  # and it leads there
    outer = Starlette(routes=[Mount("/in", app=app, name="inner"), Mount("/nameless", app=app)])
    assert outer.url_path_for(f"inner:{name}", **params) == "/in" + path
    assert outer.url_path_for(name, **params).startswith("/nameless")


URL_FOR = IMPORTS + "def GET(request): return PlainTextResponse(str(request.url_for('/x/[id]', id='a b')))"


def test_an_app_below_a_prefix_knows_where_it_is(tmp_path: Path):
    inner = app_of(tmp_path, echoes("x/[id]", "[...all]", "") | {"url/route.py": URL_FOR})
    outer = Starlette(routes=[Mount("/api", app=inner), Mount("/t/{tenant}", app=inner)])
    client = TestClient(outer, follow_redirects=False)
    assert client.get("/api/x/a%2Fb").json()["params"] == {"id": "a/b"}
    assert client.get("/api/api/x").json()["params"] == {"all": ["api", "x"]}
    assert client.get("/api/").json()["file"] == "route.py"
    assert client.get("/t/acme/x/7").json()["params"] == {"tenant": "acme", "id": "7"}
    assert client.get("/t/a%20b/x/7").json()["params"] == {"tenant": "a b", "id": "7"}
    assert client.get("/api/url").text == "http://testserver/api/x/a%20b"
    for path, location in (
        ("/api/x/7/?q=1", "/api/x/7?q=1"),
        ("/api//x", "/api/x"),
        ("/api//example.com", "/api/example.com"),
        ("/t/acme/x/", "/t/acme/x"),
        ("/t/a%20b/x/", "/t/a%20b/x"),
    ):
        response = client.get(path)
        assert (response.status_code, response.headers["location"]) == (308, location)


def test_a_proxy_that_strips_a_prefix_is_told_with_root_path(tmp_path: Path):
    app = app_of(tmp_path, echoes("x/[id]", "", "v1/x") | {"url/route.py": URL_FOR})
    for root in ("/v1", "/a/b/v1/"):
        with serving(app, root_path=root.rstrip("/")) as url:
            prefix = root.rstrip("/")
            assert '"id":"7"' in ask(url, "/x/7")[2]
            assert '"file":"route.py"' in ask(url, "/")[2]
            assert ask(url, "/url")[2] == f"http://a.test{prefix}/x/a%20b"
            assert ask(url, "/x/7/?q")[1]["location"] == f"{prefix}/x/7?q"
            assert ask(url, "//example.com")[1]["location"] == f"{prefix}/example.com"
            assert ask(url, "/%76%31/x")[0] == 200


def test_what_is_added_to_the_app_comes_after_the_routes(tmp_path: Path):
    async def added(request: Request) -> Response:
        return PlainTextResponse(f"added {request.path_params}")

    app = app_of(tmp_path, echoes("x") | {"admin/x/route.py": ECHO, "admin/middleware.py": tag("admin")})
    (tmp_path / "files").mkdir()
    (tmp_path / "files/index.html").write_text("index")
    (tmp_path / "files/a.txt").write_text("file")
    app.router.routes.append(StarletteRoute("/x", added))
    app.router.routes.append(StarletteRoute("/y/{id}", added, methods=["GET"]))
    app.mount("/static", StaticFiles(directory=tmp_path / "files", html=True))
    client = TestClient(app, follow_redirects=False)
    assert client.get("/x").json()["file"] == "x/route.py"
    assert client.get("/y/7").text == "added {'id': '7'}"
    assert client.post("/y/7").status_code == 405
    assert client.get("/static/a.txt").text == "file"
    assert client.get("/static/").text == "index"
    assert client.get("/static").headers["location"] == "http://testserver/static/"
    assert client.get("/static//a.txt").text == "file"
    assert client.get("/y/7/").headers["location"] == "/y/7"
    assert client.get("/nowhere/").headers["location"] == "/nowhere"
    for path in ("/nowhere", "/admin/nowhere"):
        response = client.get(path)
        assert (response.status_code, response.text) == (404, '{"error":"Not Found"}')
        assert response.headers.get("x-inside") == ("admin" if "admin" in path else None)


def test_middleware_of_the_app_is_around_everything(tmp_path: Path):
    namespace: dict[str, Any] = {}
    exec(tag("app"), namespace)  # noqa: S102 - our own text
    app = app_of(tmp_path, {"x/route.py": ECHO, "bug/route.py": "def GET(): 1 / 0"}, max_body_bytes=10)
    app.add_middleware(namespace["Tag"], name="app")
    client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)
    for method, path, status in (
        ("GET", "/x", 200),
        ("POST", "/x", 405),
        ("GET", "/nope", 404),
        ("GET", "/x/", 308),
        ("GET", "/%zz", 400),
    ):
        response = client.request(method, path)
        assert (response.status_code, response.headers.get("x-inside")) == (status, "app")
    assert client.post("/x", content=b"x" * 11).status_code == 413
    assert client.get("/bug").json() == {"error": "Internal server error"}


def test_a_websocket_is_turned_away(tmp_path: Path):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client_of(tmp_path, echoes("x")).websocket_connect("/x"):
        pass


# middleware.py


def test_middleware_is_around_every_answer_of_its_folder(serve_tree: ServeTree):
    raises = IMPORTS + "def GET(): raise HTTPException(404, 'no such thing')\ndef POST(): 1 / 0\n"
    stream = (
        IMPORTS
        + """
def PUT():
    async def pieces():
        yield "a"
        yield "b"
    return StreamingResponse(pieces())
"""
    )
    url = serve_tree(
        {
            "open/route.py": ECHO,
            "in/middleware.py": tag("in"),
            "in/route.py": ECHO,
            "in/deep/[id]/route.py": raises + stream,
            "in/deep/[id]/more/middleware.py": tag("more"),
            "in/deep/[id]/more/route.py": ECHO,
        }
    )
    for method, path, status, inside in (
        ("GET", "/in", 200, "in"),
        ("HEAD", "/in", 200, "in"),
        ("OPTIONS", "/in", 204, "in"),
        ("POST", "/in", 405, "in"),
        ("TRACE", "/in", 405, "in"),
        ("GET", "/in/deep/7", 404, "in"),
        ("POST", "/in/deep/7", 500, "in"),
        ("PUT", "/in/deep/7", 200, "in"),
        ("GET", "/in/deep/7/more", 200, "more"),
        ("GET", "/in/nowhere", 404, "in"),
        ("GET", "/in/deep", 404, "in"),
        ("GET", "/in/no/where/at/all", 404, "in"),
        ("GET", "/in/deep/7/more/nowhere", 404, "more"),
        ("GET", "/%69n/nowhere", 404, "in"),
        ("GET", "/open", 200, None),
        ("GET", "/nowhere", 404, None),
        ("GET", "/inn/nowhere", 404, None),
    ):
        answered, headers, _ = ask(url, path, method)
        found = re.findall("(?i)x-inside: (\\w+)", raw(url, request_of(method, path)).decode())
        assert (path, answered) == (path, status)
        assert (path, headers.get("x-inside") is not None) == (path, inside is not None)
        assert (path, found) == (path, {"in": ["in"], "more": ["more", "in"], None: []}[inside])


def request_of(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".encode()


def test_middleware_sees_a_stream_to_its_end(serve_tree: ServeTree):
    loud = tag("loud").replace(
        "await send(message)",
        "await send(message | {'body': message['body'].upper()} if 'body' in message else message)\n"
        "            if message.get('more_body') is False:\n                DONE.append(1)",
    )
    stream = (
        IMPORTS
        + """
from .middleware import DONE

def GET():
    async def pieces():
        yield f"done: {DONE} "
        yield "two"
    return StreamingResponse(pieces())
"""
    )
    url = serve_tree({"in/middleware.py": "DONE = []\n" + loud, "in/route.py": stream})
    for done in ("[]", "[1]"):
        assert f"DONE: {done} " in ask(url, "/in")[2]


def test_a_guard_can_answer_before_anything_in_its_folder_does(serve_tree: ServeTree):
    guard = """
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

class Members:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        app = self.app if "member" in scope["query_string"].decode() else JSONResponse({"error": "members only"}, 403)
        await app(scope, receive, send)

middleware = [Middleware(Members)]
"""
    url = serve_tree({"in/middleware.py": guard, "in/x/route.py": ECHO, "out/route.py": ECHO})
    for method, path in (("GET", "/in/x"), ("POST", "/in/x"), ("OPTIONS", "/in/x"), ("GET", "/in/nowhere")):
        assert ask(url, path, method)[0] == 403
    assert [ask(url, path)[0] for path in ("/in/x?member", "/in/nowhere?member", "/out")] == [200, 404, 200]


def test_what_middleware_raises_is_an_answer_too(tmp_path: Path):
    source = tag("a").replace(
        "async def tagged",
        "from starlette.exceptions import HTTPException\n        "
        "raise HTTPException(403, 'not here')\n        async def tagged",
    )
    response = client_of(tmp_path, {"middleware.py": source, "x/route.py": ECHO}).get("/x")
    assert (response.status_code, response.text) == (403, '{"error":"not here"}')


def test_a_group_owns_routes_but_no_paths(tmp_path: Path):
    client = client_of(tmp_path, {"(g)/middleware.py": tag("g"), "(g)/x/route.py": ECHO, "y/route.py": ECHO})
    inside = {path: client.get(path).headers.get("x-inside") for path in ("/x", "/y", "/nowhere", "/x/nowhere")}
    assert inside == {"/x": "g", "/y": None, "/nowhere": None, "/x/nowhere": None}


def test_middleware_of_the_root_is_around_unknown_paths_too(tmp_path: Path):
    client = client_of(tmp_path, {"middleware.py": tag("root"), "x/route.py": ECHO})
    for path, status in (("/x", 200), ("/nowhere", 404), ("/x/nowhere", 404), ("/", 404)):
        response = client.get(path)
        assert (response.status_code, response.headers["x-inside"]) == (status, "root")


# public/


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tmp_path = tmp_path_factory.mktemp("public")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "public/sub").mkdir(parents=True)
    (tmp_path / "public/link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "public/linked").symlink_to(tmp_path)
    (tmp_path / "public/inner.txt").symlink_to(tmp_path / "public/a.txt")
    (tmp_path / "public/latest").symlink_to("v2")
    (tmp_path / "public/sub/round").symlink_to(tmp_path / "public/sub")
    files = {
        "../public/v2/app.js": "version 2",
        "../public/.env": "secret",
        "../public/.git/config": "secret",
        "../public/v2/.htpasswd": "secret",
        "../public/v2/.well-known/x": "known",
        "../public/a.txt": "0123456789",
        "../public/both": "the file",
        "../public/sub/café 1.html": "<p>café",
        "../public/index.html": "index",
        "../public/.well-known/x": "known",
        "../public/100%.txt": "percent",
    }
    write_tree(tmp_path / "routes", echoes("", "both", "[...all]", "sub/[id]"))
    write_tree(tmp_path / "routes", files)
    with serving(create_app(Config(routes_dir=tmp_path / "routes"))) as url:
        yield url


def test_a_public_file_is_served_as_it_is(public: str):
    status, headers, body = ask(public, "/a.txt")
    assert (status, body, headers["content-type"]) == (200, "0123456789", "text/plain; charset=utf-8")
    assert headers["cache-control"] == "public, max-age=0"
    assert ask(public, "/a.txt", If_None_Match=headers["etag"])[0] == 304
    assert ask(public, "/a.txt", If_Modified_Since=headers["last-modified"].title().replace("Gmt", "GMT"))[0] == 304
    status, ranged, body = ask(public, "/a.txt", Range="bytes=2-4")
    assert (status, ranged["content-range"], body) == (206, "bytes 2-4/10", "234")
    assert ask(public, "/a.txt", Range="bytes=99-")[0] == 416
    status, head, body = ask(public, "/a.txt", "HEAD")
    assert (status, head["content-length"], body) == (200, "10", "")


@pytest.mark.parametrize(
    ("range", "status", "body"),
    [
        ("bytes=0-", 206, "0123456789"),
        ("bytes=-3", 206, "789"),
        ("bytes=-100", 206, "0123456789"),
        ("bytes=8-99", 206, "89"),
        ("BYTES=0-0", 206, "0"),
        ("bytes=0-0, 0-5, 3-6", 206, "0123456"),  # what overlaps is sent once
        ("bytes=99-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=10-", 416, None),
        ("bytes=5-2", 200, "0123456789"),  # a range that is none is ignored, and so is a set with one
        ("bytes=0-0,5-2", 200, "0123456789"),
        ("bytes=", 200, "0123456789"),
        ("bytes=-", 200, "0123456789"),
        ("bytes=a-b", 200, "0123456789"),
        ("bytes 0-1", 200, "0123456789"),
        ("bytes=0-1-2", 200, "0123456789"),
        ("items=0-1", 200, "0123456789"),
        ("bytes=" + "9" * 18 + "-", 416, None),
        ("bytes=" + "9" * 5000 + "-", 200, "0123456789"),  # a server may ignore any
        ("bytes=0-" + "9" * 5000, 200, "0123456789"),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(10)) * 100, 200, "0123456789"),
    ],
)
def test_a_range_is_answered_as_rfc_9110_14_says(public: str, range: str, status: int, body: str | None):
    found, headers, text = ask(public, "/a.txt", Range=range)
    assert found == status
    if status == 416:
        assert headers["content-range"] == "bytes */10"
    else:
        assert text == body
    assert ask(public, "/a.txt", "HEAD", Range=range)[0] in (200, status)


def test_ranges_apart_are_parts_and_too_many_are_the_whole(public: str):
    status, headers, text = ask(public, "/a.txt", Range="bytes=0-1,5-6")
    assert (status, headers["content-type"].partition(";")[0]) == (206, "multipart/byteranges")
    assert re.findall(r"bytes (\d-\d)/10\s+(\d\d)", text) == [("0-1", "01"), ("5-6", "56")]
    many = "bytes=" + ",".join(f"{n}-{n}" for n in (0, 2, 4, 6, 8)) + ",0-0" * 2000
    assert ask(public, "/a.txt", Range=many)[0] in (200, 206)
    assert ask(public, "/a.txt", Range="bytes=0-1", If_Range='"another"')[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_a_public_file_is_only_read(public: str, method: str):
    status, headers, body = ask(public, "/a.txt", method)
    assert (status, headers["allow"], body) == (405, "GET, HEAD", '{"error":"Method Not Allowed"}')


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/both", "the file"),
        ("/sub/caf%C3%A9%201.html", "caf"),
        ("/.well-known/x", "known"),
        ("/v2/.well-known/x", "known"),
        ("/latest/app.js", "version 2"),
        ("/100%25.txt", "percent"),
        ("/index.html", "index"),
        ("/inner.txt", "0123456789"),
        ("/", '"file":"route.py"'),
        ("/sub", '"file":"[...all]/route.py"'),
        ("/sub/x", '"file":"sub/[id]/route.py"'),
        ("/A.txt", '"file":"[...all]/route.py"'),
    ],
)
def test_a_public_file_comes_before_the_routes_but_not_before_the_root(public: str, path: str, text: str):
    status, _, body = ask(public, path)
    assert (status, text in body) == (200, True)


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/sub/..%2f..%2fsecret.txt",
        "/sub/..%5c..%5csecret.txt",
        "/link.txt",
        "/linked/secret.txt",
        "/sub/round/../../../secret.txt",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/v2/.htpasswd",
        "/latest/.htpasswd",
        "/%2Fetc/passwd",
        "//etc/passwd",
        "/a.txt%00",
        "/a.txt/",
        "/a.txt/.",
    ],
)
def test_nothing_outside_the_public_folder_is_served(public: str, path: str):
    _, _, body = ask(public, path)
    assert "secret" not in re.sub(r'"(file|params)":.*', "", body)
    assert "root:" not in body
    assert "0123456789" not in body


def test_index_html_answers_at_the_root_when_no_route_does(serve_tree: ServeTree):
    url = serve_tree(echoes("x") | {"../public/index.html": "index"})
    assert [ask(url, path)[2] for path in ("/", "/index.html")] == ["index", "index"]
    assert ask(url, "/", "HEAD")[0] == 200


def test_a_public_file_that_is_gone_is_404(serve_tree: ServeTree, tmp_path: Path):
    url = serve_tree(echoes("x") | {"../public/a.txt": "a"})
    (tmp_path / "public/a.txt").unlink()
    assert ask(url, "/a.txt")[0] == 404


# Properties

SEGMENTS = st.sampled_from(
    [Segment(0, text) for text in ("a", "b", "é")] + [Segment(1, "x"), Segment(2, "r"), Segment(3, "o")]
)
PATHS = st.lists(st.sampled_from(["a", "b", "%C3%A9", "c", "a%2Fb", "%61"]), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


def places(tree: list[list[Segment]]) -> list[tuple[Segment, ...]]:
    """A tree that the loader would let through: catch-alls at the end, one file a place, no two kinds of them."""
    found: set[tuple[Segment, ...]] = set()
    for segments in tree:
        cut = next((i + 1 for i, segment in enumerate(segments) if segment.rank >= 2), len(segments))
        place = tuple(Segment(s.rank, f"{s.text}{i}" if s.rank else s.text) for i, s in enumerate(segments[:cut]))
        *above, last = place or (None,)
        rivals = {s for s in found if s[:-1] == tuple(above) and s and s[-1].rank >= 2}
        if last and last.rank >= 2 and (rivals or (last.rank == 3 and tuple(above) in found)):
            continue
        if any(s[:-1] == place and s[-1].rank == 3 for s in found if s):
            continue
        found.add(place)
    return sorted(found)


@settings(max_examples=400, deadline=None)
@given(tree=st.lists(st.lists(SEGMENTS, max_size=4), max_size=12), requests=st.lists(PATHS, min_size=1, max_size=6))
def test_the_table_and_the_ordered_list_agree(tree: list[list[Segment]], requests: list[str]):
    async def echo(request: Request) -> Response:
        return JSONResponse([request.scope["route"].path, request.path_params])

    routes = [Route(place, {"GET": echo}) for place in places(tree)]
    app = Starlette()
    app.router = Router(routes)
    for path in requests:
        scope = {"type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode()}
        found = ((route.path, *route.matches(scope)) for route in routes)
        first = next(([shown, child["path_params"]] for shown, match, child in found if match is Match.FULL), None)
        status, _, body = call(app, path)
        assert (status, json.loads(body) if status == 200 else None) == (200 if first else 404, first)


SERVED = {
    **echoes("", "d/[id]", "c/[...all]", "o/[[...all]]", "café", "(g)/x"),
    "p/route.py": READS,
    "in/middleware.py": tag("in"),
    "in/x/route.py": ECHO,
    "../public/a.txt": "file",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server to throw things at."""
    folder = tmp_path_factory.mktemp("hostile") / "routes"
    write_tree(folder, SERVED)
    with serving(create_app(Config(routes_dir=folder, max_body_bytes=1000)), timeout_keep_alive=1) as url:
        yield url


def exchange(url: str, data: bytes) -> bytes:
    """What comes back for some bytes when nothing follows them."""
    with socket.create_connection(address_of(url), timeout=10) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as stream:
                return stream.read()
        except OSError:  # it hung up first
            return b""


def assert_calm(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    statuses = re.findall(rb"HTTP/1\.1 (\d)\d\d ", answer)
    assert set(statuses) <= {b"1", b"2", b"3", b"4"}
    loud = [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert not loud, caplog.text


FUZZ = settings(
    max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
# weighted, so that most requests come as far as a handler
METHODS = st.sampled_from(
    ["GET"] * 8 + ["POST"] * 4 + ["HEAD", "OPTIONS", "PUT", "TRACE", "CONNECT", "PRI", "get", "X"]
)
STARTS = ["", "/d/a", "/d/", "/c/", "/o", "/caf%C3%A9", "/x", "/p", "/in/", "/a.txt", "http://h/d/"]
FRAGMENTS = [
    "/",
    "//",
    ".",
    "..",
    "\\",
    "%2e",
    "%2F",
    "%5C",
    "%00",
    "%25",
    "%",
    "%C3%A9",
    "%ff",
    "a",
    "c",
    "?",
    "#",
    ";",
    "@",
    "[",
]
TARGETS = st.one_of(
    st.tuples(st.sampled_from(STARTS), st.lists(st.sampled_from(FRAGMENTS), max_size=4)).map(
        lambda target: (target[0] + "".join(target[1])).encode() or b"/"
    ),
    st.tuples(st.just(b"/"), st.binary(max_size=12)).map(b"".join),
)
HEADERS = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 9999999999999999",
            b"Content-Length: 1_0",
            b"Transfer-Encoding: gzip",
            b"Connection: upgrade\r\nUpgrade: websocket",
            b"Connection: close",
            b"Expect: 100-continue",
            b"Range: bytes=0-0,-1,5-2",
            b"Range: bytes=-",
            b"If-None-Match: \xff",
            b"If-Modified-Since: \xff",
            b"Host: \xff",
            b"Cookie: \xff=;=",
            b"Content-Type: \xff; charset=\xff",
            b"X-Long: LONG",
            b"\xff: x",
        ]
    ),
    max_size=2,
)
BODIES = st.sampled_from(
    [
        *[b"\r\n"] * 5,
        b"Content-Length: 3\r\n\r\nabc",
        b"Content-Length: 3000\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nCHUNKS",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\r\n\xff\xff",
    ]
)


@FUZZ
@given(method=METHODS, target=TARGETS, headers=HEADERS, body=BODIES)
def test_no_request_makes_the_server_fail(
    hostile: str, caplog: pytest.LogCaptureFixture, method: str, target: bytes, headers: list[bytes], body: bytes
):
    lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: a.test", *headers, body]
    data = b"\r\n".join(lines)
    data = data.replace(b"LONG", b"x" * 70_000).replace(b"CHUNKS", chunks_of(1100))
    assert_calm(exchange(hostile, data), caplog)


@FUZZ
@given(data=st.binary(max_size=200))
def test_no_bytes_make_the_server_fail(hostile: str, caplog: pytest.LogCaptureFixture, data: bytes):
    assert_calm(exchange(hostile, data), caplog)


@pytest.mark.slow
@FUZZ
@given(path=st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_text_arrives_as_one_parameter(hostile: str, path: str):
    sent = quote(path, safe="")
    status, _, body = ask(hostile, f"/d/{sent}")
    if path in ("", ".", ".."):
        assert status in (200, 308)
    else:
        assert json.loads(body) == {"file": "d/[id]/route.py", "params": {"id": path}}
