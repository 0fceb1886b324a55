"""The layers around the routes: the body's limit, the prefix, the id of a request, errors, the project's middleware."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Match, Mount
from starlette.testclient import TestClient

from app import create_app
from config import Config
from layers.bodylimit import BodyLimit
from router import Route
from router.paths import split
from tests.servers import serving, wait_until, write_tree

ServeTree = Callable[..., str]

IMPORTS = """
from starlette.middleware import Middleware
from starlette.responses import *
from starlette.exceptions import HTTPException
from jsonresponse import JSONResponse
"""
READS = IMPORTS + "async def POST(request):\n    return PlainTextResponse(str(len(await request.body())))\nPUT = POST\n"
ANY = IMPORTS + "async def GET(request): return PlainTextResponse('ok')\nPOST = GET\n"

GUARD = """
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

class Guard:
    def __init__(self, app): self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if dict(scope["headers"]).get(b"x-key") != b"k":
            return await JSONResponse({"error": "no key"}, 403)(scope, receive, send)
        async def marked(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-marked", b"NAME")]
            await send(message)
        await self.app(scope, receive, marked)

middleware = [Middleware(Guard)]
"""
KEY = {"x-key": "k"}


def app_of(tmp_path: Path, files: dict[str, str], **options: Any) -> Starlette:
    routes = tmp_path / "routes"
    routes.mkdir(exist_ok=True)
    write_tree(routes, files)
    return create_app(Config(routes_dir=routes, database_url=f"sqlite:///{tmp_path}/a.db", **options))


def client_of(tmp_path: Path, files: dict[str, str], **options: Any) -> TestClient:
    return TestClient(app_of(tmp_path, files, **options), raise_server_exceptions=False, follow_redirects=False)


def exchange(url: str, *pieces: bytes) -> bytes:
    """Send pieces of a request, each in a packet of its own, and read to the end."""
    address = urlsplit(url)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
        return answer


def chunked(size: int) -> Iterator[bytes]:
    for at in range(0, size, 10_000):
        yield b"x" * min(10_000, size - at)


# The limit on bodies


@pytest.mark.parametrize("framing", ["declared", "chunked"])
@pytest.mark.parametrize(("path", "limit"), [("/reads", 10_000), ("/more", 200_000), ("/less", 1000)])
def test_a_body_over_the_limit_of_its_route_is_413_in_json(serve_tree: ServeTree, framing: str, path: str, limit: int):
    url = serve_tree(
        {
            "reads/route.py": READS,
            "more/route.py": "max_body_bytes = 200_000\n" + READS,
            "less/route.py": "max_body_bytes = 1000\n" + READS,
        },
        max_body_bytes=10_000,
    )
    for size, status in ((limit, 200), (limit + 1, 413)):
        body: Any = b"x" * size if framing == "declared" else chunked(size)
        response = httpx.post(url + path, content=body, trust_env=False)
        assert (response.status_code, response.text) == (
            status,
            str(size) if status == 200 else '{"error":"Content Too Large"}',
        )


@pytest.mark.parametrize("framing", ["declared", "chunked"])
def test_a_413_is_inside_the_middleware_of_its_folder_and_has_its_route_in_the_log(
    serve_tree: ServeTree, caplog: pytest.LogCaptureFixture, framing: str
):
    cors = (
        "from starlette.middleware import Middleware\nfrom starlette.middleware.cors import CORSMiddleware\n"
        "middleware = [Middleware(CORSMiddleware, allow_origins=['https://a.test'])]\n"
    )
    url = serve_tree({"cors/middleware.py": cors, "cors/api/route.py": READS}, max_body_bytes=10_000)
    caplog.set_level(logging.INFO, "request")
    body: Any = b"x" * 30_000 if framing == "declared" else chunked(30_000)
    response = httpx.post(f"{url}/cors/api", content=body, headers={"Origin": "https://a.test"}, trust_env=False)
    assert response.status_code == 413
    assert response.headers["access-control-allow-origin"] == "https://a.test"
    wait_until(lambda: "POST /cors/api 413" in caplog.text)


def test_a_body_that_is_too_large_while_a_file_is_sent_does_no_harm(
    serve_tree: ServeTree, caplog: pytest.LogCaptureFixture
):
    url = serve_tree({"x/route.py": ANY, "../public/big.bin": "x" * 3_000_000}, max_body_bytes=10_000)
    head = b"GET /big.bin HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n"
    pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in chunked(60_000)]
    answer = exchange(url, head + b"Transfer-Encoding: chunked\r\n\r\n", *pieces, b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert len(answer.partition(b"\r\n\r\n")[2]) == 3_000_000
    answer = exchange(url, head + b"Content-Length: 60000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert httpx.get(f"{url}/x", trust_env=False).text == "ok"
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("length", ["0" * 4400 + "2", "9" * 30, "9" * 5000, "-1", "1_0", "abc"])
def test_a_length_that_is_no_number_is_400_or_413(serve_tree: ServeTree, length: str, caplog: pytest.LogCaptureFixture):
    url = serve_tree({"x/route.py": READS})
    answer = exchange(
        url, f"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    assert int(answer.split()[1]) == 400
    assert not [record for record in caplog.records if record.exc_info]


SIZES = st.integers(0, 40)
PIECES = st.lists(st.binary(max_size=12), max_size=6)


@given(pieces=PIECES, limit=st.integers(0, 30), version=st.sampled_from(["1.1", "2", "3"]), declared=st.booleans())
def test_any_body_under_any_framing_meets_the_same_limit(pieces: list[bytes], limit: int, version: str, declared: bool):
    """RFC 9110 15.5.14: what is refused is the size, however it is said."""
    whole = b"".join(pieces)
    headers: list[tuple[bytes, bytes]] = []
    if declared:
        headers = [(b"content-length", str(len(whole)).encode())]
    elif version == "1.1":
        headers = [(b"transfer-encoding", b"chunked")]
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    found: list[bytes] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    async def reader(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            found.append(message["body"])
            more = message["more_body"]

    async def run() -> int:
        from starlette.exceptions import HTTPException

        scope = {"type": "http", "http_version": version, "headers": headers}
        try:
            await BodyLimit(reader, limit)(scope, receive, send)
        except HTTPException as exc:
            return exc.status_code
        return 200

    status = asyncio.run(run())
    assert status == (200 if len(whole) <= limit else 413)
    assert status == 413 or b"".join(found) == whole


def test_trailers_are_no_headers(serve_tree: ServeTree):
    """RFC 9110 6.5.1: a trailer is never merged, whether it comes in a packet of its own or not."""
    asks = IMPORTS + (
        "async def POST(request):\n    await request.body()\n"
        "    return PlainTextResponse(request.headers.get('x-user', 'nobody'))\n"
    )
    url = serve_tree({"x/route.py": asks})
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    address = urlsplit(url)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10) as connection:
        connection.sendall(head)
        anyio.run(anyio.sleep, 0.2)  # the app has begun, and waits for the rest
        connection.sendall(b"0\r\nX-User: admin\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.endswith(b"nobody")


# Where the app is mounted


@pytest.mark.parametrize(
    ("given", "root"),
    [("/", ""), ("/app", "/app"), ("/app/", "/app"), ("app", "/app"), ("//app//", "/app")],
)
def test_root_path_in_every_form(tmp_path: Path, given: str, root: str):
    where = IMPORTS + (
        "def GET(request):\n"
        "    return JSONResponse([request.url.path, request.scope['path'], str(request.url_for('/probe'))])\n"
    )
    with serving(app_of(tmp_path, {"probe/route.py": where}), root_path=given) as url:
        path = f"{root}/probe"
        answer = httpx.get(f"{url}/probe", trust_env=False, headers={"Host": "a.test"})
        assert answer.json() == [path, path, f"http://a.test{path}"]
        for asked in ("/probe/", "//probe", "/x/../probe"):
            answer = exchange(url, f"GET {asked} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 308 ")
            assert f"\r\nlocation: {root}/probe\r\n".encode() in answer


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    path=st.binary(max_size=14).map(lambda b: b.translate(None, b"?#\r\n\0"))
    | st.text("ab./\\%2eE5c", max_size=14).map(str.encode),
    prefix=st.sampled_from(["", "/", "app", "/app", "/app/", "//app"]),
)
def test_any_bytes_as_a_path_behind_any_prefix_end_in_one_answer(echo: Starlette, path: bytes, prefix: str):
    """At most three redirects, each to a path of this host, and what the handler reads is what was routed."""
    tidy = "/" + prefix.strip("/") if prefix.strip("/") else ""
    raw = b"/" + path
    status, headers, seen = asyncio.run(ask(echo, prefix, raw))
    for _ in range(3):
        if status != 308:
            break
        location: str = headers[b"location"].decode("latin-1")
        assert location.startswith(tidy + "/")
        assert not location.removeprefix(tidy).startswith(("//", "/\\"))
        raw = location.removeprefix(tidy).encode("latin-1")
        status, headers, seen = asyncio.run(ask(echo, prefix, raw))
    assert status in (200, 400)
    if status == 200:
        assert seen["parts"] == (split(raw.decode("latin-1")) or [])
        assert seen["path"] == tidy + "/" + "/".join(seen["parts"])


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Starlette:
    source = IMPORTS + (
        "def GET(request, params):\n"
        "    return JSONResponse({'path': request.scope['path'], 'parts': params.get('all', [])})\n"
    )
    return app_of(tmp_path_factory.mktemp("echo"), {"[[...all]]/route.py": source})


async def ask(app: Any, root: str, raw: bytes) -> tuple[int, dict[bytes, bytes], Any]:
    """Ask as uvicorn does: with the prefix as it was given before the path."""
    full = root.encode() + raw
    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "GET", "headers": [], "query_string": b""}
    scope |= {"root_path": root, "raw_path": full, "path": unquote_to_bytes(full).decode("utf-8", "replace")}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = sent[1]["body"] if sent[0]["status"] == 200 else b"null"
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(body)


# The middleware beside app.py


def test_the_projects_middleware_wraps_everything(tmp_path: Path):
    files = {"probe/route.py": ANY, "../public/report.txt": "report", "../middleware.py": GUARD}
    client = client_of(tmp_path, files, max_body_bytes=10)
    for method, path, status in (
        ("GET", "/probe", 200),
        ("GET", "/report.txt", 200),
        ("GET", "/probe/", 308),
        ("GET", "/%zz", 400),
        ("GET", "/", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/probe", 405),
    ):
        assert client.request(method, path).status_code == 403
        response = client.request(method, path, headers=KEY)
        assert (response.status_code, response.headers.get_list("x-marked")) == (status, ["NAME"])
    response = client.post("/probe", content=b"x" * 11, headers=KEY)
    assert (response.status_code, response.headers.get_list("x-marked")) == (413, ["NAME"])


def test_the_projects_middleware_sees_what_a_handler_raised_after_it_was_answered(
    serve_tree: ServeTree, tmp_path: Path
):
    reports = """
from starlette.middleware import Middleware

class Reports:
    def __init__(self, app): self.app = app

    async def __call__(self, scope, receive, send):
        try:
            await self.app(scope, receive, send)
        except Exception as exc:
            with open(PLACE, "a") as seen:
                seen.write(f"{scope['route'].path} {exc!r}\\n")
            raise

middleware = [Middleware(Reports)]
"""
    files = {"../middleware.py": reports.replace("PLACE", repr(str(tmp_path / "seen")))}
    url = serve_tree({"boom/[id]/route.py": "async def GET():\n    raise LookupError('no shelf')\n", **files})
    answer = httpx.get(f"{url}/boom/7", trust_env=False)
    assert (answer.status_code, answer.json()) == (500, {"error": "Internal server error"})
    seen = tmp_path / "seen"  # written behind the answer
    wait_until(lambda: seen.exists() and seen.read_text() == "/boom/[id] LookupError('no shelf')\n")


@pytest.mark.parametrize(
    ("file", "source", "words"),
    [
        ("middleware.py", "1 / 0", "while loading middleware.py"),
        ("middleware.py", "", "middleware.py does not export 'middleware'"),
        ("middleware.py", "middleware = 'x'", "middleware.py exports a 'middleware' that is 'x'"),
        ("middleware.py", "import sys; sys.exit()", "middleware.py: it ends the process"),
        ("_middleware.py", "", "_middleware.py: only middleware.py of that very name is read"),
        ("Middleware.py", "", "Middleware.py: only middleware.py of that very name is read"),
    ],
)
def test_a_middleware_file_that_cannot_wrap_stops_the_start(tmp_path: Path, file: str, source: str, words: str):
    from startup import message_of

    with pytest.raises(Exception) as raised:  # noqa: PT011 - its own
        app_of(tmp_path, {"x/route.py": ANY, f"../{file}": source})
    assert words in message_of(raised.value)


# The id, and the log


def test_one_id_stands_in_every_line_of_a_request(serve_tree: ServeTree, capfd: pytest.CaptureFixture[str]):
    from logs import set_up_logging

    source = (
        "import anyio, logging\n"
        "async def GET(request):\n"
        "    log = logging.getLogger(__name__)\n"
        "    log.info('before')\n"
        "    await anyio.sleep(0.05)\n"
        "    await anyio.to_thread.run_sync(log.info, 'in a thread')\n"
        "    1 / 0\n"
    )
    url = serve_tree(
        {
            "name/route.py": source,
            "own/route.py": IMPORTS + "def GET(): return Response(headers={'X-Request-Id': 'mine'})\n",
        }
    )
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    set_up_logging("info")
    try:

        async def ask_all() -> None:
            async with httpx.AsyncClient(trust_env=False) as client:
                await asyncio.gather(
                    *(client.get(f"{url}/name", headers={"X-Request-Id": f"find-me-{n}"}) for n in range(12))
                )

        asyncio.run(ask_all())
        answer = httpx.get(f"{url}/own", trust_env=False)
        wait_until(lambda: len(re.findall(r"GET /own 200", capture(capfd))) == 1)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    text = capture(capfd)
    for n in range(12):
        lines = [line for line in text.splitlines() if re.search(rf"\bid=find-me-{n}\b", line)]
        assert [
            bool(re.search(words, "\n".join(lines)))
            for words in ("before", "in a thread", "GET /name 500", "Exception in ASGI")
        ] == [True] * 4
    assert "routes.name.route: before" in text
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert f"id={answer.headers['x-request-id']}" in text


_captured: dict[int, str] = {}


def capture(capfd: pytest.CaptureFixture[str]) -> str:
    _captured[id(capfd)] = _captured.get(id(capfd), "") + capfd.readouterr().err
    return _captured[id(capfd)]


def record(message: str, *args: Any, exc: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    info = (type(exc), exc, exc.__traceback__) if exc else None
    made = logging.LogRecord("routes.x.route", logging.WARNING, "x.py", 1, message, args, info)
    for name, value in extra.items():
        setattr(made, name, value)
    return made


def test_no_text_of_a_client_passes_for_a_line_of_the_log():
    from logs import TextLines

    forged = "x\n2026-11-26 17:00:00,000 WARNING auth: admin\r\x1b[2K\x85 \u2028z"
    text = TextLines().format(record("no %s", forged, exc=ValueError(forged), id="r-1"))
    assert all(line.startswith("    ") for line in text.split("\n")[1:])
    assert not re.search("[\r\x1b\x85\u2028]", text)
    assert text.split("\n")[0].endswith("no x id=r-1")


@pytest.mark.parametrize("character", ["\r", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066"])
@pytest.mark.parametrize("half", ["", "\ud800"], ids=["text", "half"])  # half a surrogate pair takes another way
def test_a_line_of_the_log_moves_no_reader_of_it(character: str, half: str):
    """What ends a line for some readers, moves a terminal's cursor or turns its text around is escaped."""
    from logs import JsonLines, TextLines

    said = f"a{character}b{half}"
    made = record("no %s", said, id="r-1", fields={"conversation": said})
    assert character not in TextLines().format(made)
    line = JsonLines().format(made)
    assert character not in line
    assert (json.loads(line)["message"], json.loads(line)["conversation"]) == (f"no {said}", said)


def test_json_lines_are_one_object_each():
    from logs import JsonLines

    fields = {"method": "GET", "path": "/users/[id]", "status": 200, "ms": 3}
    line = JsonLines().format(record("GET\n%s", "\ud800", exc=ValueError("a\nb"), id="r-1", fields=fields))
    assert "\n" not in line
    found = json.loads(line)
    assert {name: found[name] for name in ("id", *fields)} == {"id": "r-1", **fields}
    assert (found["level"], found["logger"], found["message"]) == ("warning", "routes.x.route", "GET\n\ud800")
    assert "ValueError" in found["exception"]


def test_the_line_of_a_401_has_the_clients_address(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "request")
    client = client_of(tmp_path, {"x/route.py": IMPORTS + "def GET(): raise HTTPException(401)\n", "y/route.py": ANY})
    client.get("/x")
    client.get("/y")
    refused, answered = [line for line in caplog.messages if line.startswith("GET /")]
    assert "client=testclient" in refused
    assert "client=" not in answered


def test_what_a_client_sent_is_no_line_of_the_traceback(tmp_path: Path):
    app = app_of(tmp_path, {"boom/[id]/route.py": IMPORTS + "def GET(request, params): int(params['id'])\n"})
    with pytest.raises(ValueError, match="invalid literal") as raised:
        TestClient(app).get("/boom/x%0a2026-11-26%2017:00:00,000%20WARNING%20auth:%20admin")
    assert raised.value.__notes__ == ["while answering GET /boom/[id] (routes/boom/[id]/route.py)"]


# Errors


def test_a_client_that_leaves_before_the_head_is_left_and_no_fault(
    serve_tree: ServeTree, caplog: pytest.LogCaptureFixture
):
    base = (
        "from starlette.middleware import Middleware\nfrom starlette.middleware.base import BaseHTTPMiddleware\n"
        "class Plain(BaseHTTPMiddleware):\n"
        "    async def dispatch(self, request, call_next): return await call_next(request)\n"
        "middleware = [Middleware(Plain)]\n"
    )
    url = serve_tree({"in/middleware.py": base, "in/x/route.py": READS, "x/route.py": READS})
    caplog.set_level(logging.INFO, "request")
    address = urlsplit(url)
    for path in ("/in/x", "/x"):
        with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc".encode())
            anyio.run(anyio.sleep, 0.1)  # the handler waits for the rest
        wait_until(lambda path=path: f"POST {path} left" in caplog.text)
    assert not [record for record in caplog.records if record.exc_info]


def test_what_a_handler_cancels_or_ends_itself_is_an_error_like_any_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "request")
    source = IMPORTS + (
        "import asyncio, sys\n"
        "async def GET():\n    task = asyncio.create_task(asyncio.sleep(9))\n    task.cancel()\n    await task\n"
        "async def POST(): sys.exit('bye')\n"
        "def PUT(): sys.exit()\n"
    )
    client = client_of(tmp_path, {"x/route.py": source})
    for method in ("GET", "POST", "PUT"):
        response = client.request(method, "/x")
        assert (response.status_code, response.json()) == (500, {"error": "Internal server error"})
    assert "left" not in caplog.text


def test_plain_handlers_run_at_once_up_to_the_setting_and_async_ones_beside_them(serve_tree: ServeTree):
    plain = IMPORTS + (
        "import threading\nlock, go = threading.Lock(), threading.Event()\n"
        "now = {'arrived': 0, 'inside': 0, 'most': 0}\n"
        "def GET():\n"
        "    with lock:\n"
        "        now['inside'] += 1\n"
        "        now['most'] = max(now['most'], now['inside'])\n"
        "    go.wait(60)\n"
        "    with lock:\n        now['inside'] -= 1\n"
        "    return PlainTextResponse('ok')\n"
        "async def PUT():\n    return JSONResponse(now)\n"
        "async def POST():\n    go.set()\n    return PlainTextResponse('go')\n"
    )
    counts = (
        "from starlette.middleware import Middleware\n"
        "class Counts:\n"
        "    def __init__(self, app): self.app = app\n"
        "    async def __call__(self, scope, receive, send):\n"
        "        from .route import now\n"
        "        now['arrived'] += scope['method'] == 'GET'\n"
        "        await self.app(scope, receive, send)\n"
        "middleware = [Middleware(Counts)]\n"
    )
    url = serve_tree({"plain/route.py": plain, "plain/middleware.py": counts}, handler_threads=2)

    def now() -> dict[str, int]:
        return httpx.put(f"{url}/plain", trust_env=False).json()

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(httpx.get, f"{url}/plain", trust_env=False, timeout=60) for _ in range(4)]
        wait_until(lambda: (now()["arrived"], now()["inside"]) == (4, 2))
        assert httpx.post(f"{url}/plain", trust_env=False).text == "go"
        assert [answer.result().text for answer in asked] == ["ok"] * 4
    assert now() == {"arrived": 4, "inside": 0, "most": 2}


@pytest.mark.parametrize(
    "handler",
    ["async def GET(): await anyio.sleep(3)", "def GET(): time.sleep(3)"],
)
def test_a_route_that_takes_longer_than_its_timeout_is_504(tmp_path: Path, handler: str):
    client = client_of(tmp_path, {"x/route.py": f"import anyio, time\ntimeout = 0.2\n{handler}\n"})
    response = client.get("/x")
    assert (response.status_code, response.json()) == (504, {"error": "The answer took too long"})


def test_an_app_that_is_mounted_without_its_lifespan_says_so(tmp_path: Path):
    inner = app_of(tmp_path, {"x/route.py": "def GET(request): request.state['worker']"})
    with pytest.raises(KeyError) as raised:
        TestClient(Starlette(routes=[Mount("/base", app=inner)])).get("/base/x")
    assert any("lifespan" in note for note in raised.value.__notes__)


@pytest.mark.parametrize(
    "body", ['{"a":NaN}', '{"a":Infinity}', '{"a":"\\ud800"}', "1e400", "1" * 5000, "[" * 2000, "\xff"]
)
def test_what_is_no_json_is_400(tmp_path: Path, body: str):
    source = IMPORTS + "async def POST(request): return JSONResponse(await request.json())\n"
    response = client_of(tmp_path, {"x/route.py": source}).post("/x", content=body.encode("latin-1"))
    assert (response.status_code, response.json()["details"][0]["field"]) == (400, "body")


@pytest.mark.parametrize("body", ['{"a":"\\ud83d\\ude00"}', "[1e308,12345678901234567890]", '\ufeff{"a":1}', "null"])
def test_what_is_json_is_taken(tmp_path: Path, body: str):
    source = IMPORTS + "async def POST(request): return JSONResponse(await request.json())\n"
    response = client_of(tmp_path, {"x/route.py": source}).post("/x", content=body.encode())
    assert (response.status_code, response.json()) == (200, json.loads(body.removeprefix("\ufeff")))


# Guards


def test_a_guard_wraps_whatever_answers_at_its_path(tmp_path: Path):
    from starlette.responses import PlainTextResponse
    from starlette.websockets import WebSocket, WebSocketDisconnect

    app = app_of(
        tmp_path,
        {
            "admin/middleware.py": GUARD,
            "admin/a/route.py": ANY,
            "(h)/admin/b/route.py": ANY,
            "@s/admin/c/route.py": ANY,
            "%61dmin/d/route.py": ANY,
            "[...rest]/route.py": ANY,
            "[x]/y/route.py": ANY,
            "administration/route.py": ANY,
            "(club)/middleware.py": GUARD.replace("NAME", "club"),
            "(club)/members/route.py": ANY,
            "../public/admin/file.txt": "file",
        },
    )

    async def added(request: Any) -> Any:
        return PlainTextResponse("added")

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    app.mount("/admin/tools", PlainTextResponse("tools"))
    app.mount("/deep", Starlette(routes=[Mount("/", app=PlainTextResponse("deep"))]))
    app.add_route("/admin/added", added, methods=["PUT"])
    app.add_route("/open/added", added, methods=["PUT"])
    app.router.add_websocket_route("/admin/socket", socket)
    app.router.add_websocket_route("/open/socket", socket)
    client = TestClient(app, follow_redirects=False)
    for method, path, status in (
        ("GET", "/admin/a", 200),
        ("GET", "/admin/b", 200),
        ("DELETE", "/admin/b", 405),
        ("OPTIONS", "/admin/b", 204),
        ("GET", "/admin/c", 200),
        ("GET", "/admin/d", 200),
        ("HEAD", "/admin/d", 200),
        ("GET", "/admin/y", 200),
        ("GET", "/%61dmin/y", 200),
        ("GET", "/admin/no/such", 200),
        ("PUT", "/admin/no/such", 405),
        ("GET", "/admin%2Fno/such", 200),  # who joins the segments of a catch-all reads admin/no/such
        ("GET", "/admin%2fno%2fsuch", 200),
        ("GET", "/%2Fadmin/no", 200),
        ("GET", "/admin", 200),
        ("GET", "/admin/file.txt", 200),
    ):
        assert (path, client.request(method, path).status_code) == (path, 403)
        response = client.request(method, path, headers=KEY)
        assert (path, response.status_code, response.headers.get_list("x-marked")) == (path, status, ["NAME"])
    for path, marked in (("/administration", []), ("/x/y", []), ("/members", ["club"]), ("/open/other", [])):
        assert client.get(path, headers=KEY).headers.get_list("x-marked") == marked
    for path, ok in (("/admin/socket", False), ("/open/socket", True)):
        if ok:
            with client.websocket_connect(path):
                continue
        with pytest.raises(Exception) as refused, client.websocket_connect(path):  # noqa: PT011 - a denial or a close
            pass
        assert not isinstance(refused.value, AssertionError)
        with client.websocket_connect(path, headers=KEY) as connection, pytest.raises(WebSocketDisconnect):
            connection.receive_text()


def test_a_guard_wraps_what_was_added_to_the_app(tmp_path: Path):
    from starlette.responses import PlainTextResponse
    from starlette.staticfiles import StaticFiles

    app = app_of(tmp_path, {"admin/middleware.py": GUARD, "x/route.py": ANY})

    async def added(request: Any) -> Any:
        return PlainTextResponse("added")

    write_tree(tmp_path / "files", {"admin/secret.txt": "secret", "a.txt": "a"})
    app.mount("/admin/tools", PlainTextResponse("tools"))
    app.add_route("/admin/added", added)
    app.add_route("/open/added", added)
    app.mount("/", StaticFiles(directory=tmp_path / "files"))
    client = TestClient(app, follow_redirects=False)
    for path in (
        "/admin/tools",
        "/admin/tools/x",
        "/admin%2Ftools/x",
        "/admin/added",
        "/admin/added/",
        "/admin/nothing",
        "/admin/secret.txt",
        "/x/%2e%2e%2fadmin/secret.txt",
        "/%2Fadmin/secret.txt",
        "/admin%2Fsecret.txt",
    ):
        assert (path, client.get(path).status_code in (403, 404, 308, 307)) == (path, True)
        assert "secret" not in client.get(path).text
        assert client.get(path, headers=KEY).status_code in (200, 404, 307, 308)
    assert client.get("/admin/tools").status_code == client.get("/admin/added").status_code == 403
    assert client.get("/admin/secret.txt", headers=KEY).text == "secret"
    assert client.get("/open/added").text == "added"
    assert client.get("/a.txt").text == "a"


FOLDERS = ["a", "b", "(g)", "@s", "[x]", "%61"]
PLACES = st.lists(st.sampled_from(FOLDERS), max_size=3).filter(lambda names: names.count("[x]") < 2)


def reference(guards: list[list[str]], answering: list[str] | None, parts: list[str]) -> set[str]:
    """Which guards wrap an answer: ten lines, by the rule as the docs say it."""
    names = [name.replace("%61", "a") for name in answering or [] if name[0] not in "(@"]
    found: set[str] = set()
    for guard in guards:
        groups = [i for i, name in enumerate(guard) if name[0] in "(@"]
        owner = guard[: groups[-1] + 1] if groups else []
        path = [name.replace("%61", "a") for name in guard if name[0] not in "(@"]
        is_own = not owner or (answering is not None and answering[: len(owner)] == owner)
        fits = len(path) <= len(parts) and all(
            part == name or (name == "[x]" and (answering is None or i >= len(names) or names[i] in ("[x]", "[...r]")))
            for i, (name, part) in enumerate(zip(path, parts, strict=False))
        )
        if is_own and fits:
            found.add("/".join(guard))
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    guards=st.lists(PLACES, max_size=4, unique_by=tuple),
    routes=st.lists(PLACES, min_size=1, max_size=4, unique_by=tuple),
    catch_all=st.booleans(),
    asked=st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=3), min_size=1, max_size=5),
)
def test_any_tree_of_guards_answers_as_the_reference_says(
    tmp_path_factory: pytest.TempPathFactory,
    guards: list[list[str]],
    routes: list[list[str]],
    catch_all: bool,
    asked: list[list[str]],
):
    tag = GUARD.replace('if dict(scope["headers"]).get(b"x-key") != b"k":', "if False:")
    files = {"/".join([*guard, "middleware.py"]): tag.replace("NAME", "/".join(guard)) for guard in guards}
    taken: set[str] = set()
    for route in [*routes, *([["[...r]"]] if catch_all else [])]:
        path = "/".join(name.replace("%61", "a") for name in route if name[0] not in "(@")
        if path not in taken:
            taken.add(path)
            files["/".join([*route, "route.py"])] = ANY
    app = app_of(tmp_path_factory.mktemp("guards"), files)
    routed = [route for route in app.routes if isinstance(route, Route)]
    client = TestClient(app)
    for parts in asked:
        path = "/" + "/".join(parts)
        response = client.get(path)
        found = set(response.headers.get_list("x-marked"))
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "headers": [],
        }
        first = next((route for route in routed if route.matches(scope)[0] is Match.FULL), None)
        assert (first is None) == (response.status_code == 404)
        answering = first.file.split("/")[1:-1] if first else None
        assert found == reference(guards, answering, parts)
        assert len(response.headers.get_list("x-marked")) == len(found)
