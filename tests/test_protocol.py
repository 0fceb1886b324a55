"""What `make start` gives uvicorn: limits on heads and connections. From outside, byte by byte."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from cli.protocol import Protocol
from startup import most_connections
from tests.processes import PYTHON, Project, running
from tests.servers import free_port, serving, wait_until, write_tree

HEAD = b"GET / HTTP/1.1\r\nHost: a.test\r\n"


class Quick(Protocol):
    head_seconds = 0.5


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{sum(len(name) + len(value) for name, value in request.headers.raw)} headers")


async def refuses(request: Request) -> PlainTextResponse:
    return PlainTextResponse("not read", 401)  # before the body is there


async def talks(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


app = Starlette()
app.add_route("/", length)
app.add_route("/refuses", refuses, methods=["POST"])
app.router.routes.append(WebSocketRoute("/talks", talks))


@pytest.fixture
def connect() -> Iterator[Callable[[str], socket.socket]]:
    with ExitStack() as stack:

        def connected(url: str) -> socket.socket:
            address = urlsplit(url)
            return stack.enter_context(
                socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=30)
            )

        yield connected


def read(connection: socket.socket) -> bytes:
    """Whatever comes until the server closes."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            answer += data
    return answer


def flood(connection: socket.socket, piece: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        for _ in range(400):
            connection.sendall(piece)


Connect = Callable[[str], socket.socket]


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [b"X-A: " + b"a" * 8000 + b"\r\n", b"X" * 8000, b"X-A: b\r\n" * 800],
    ids=["values", "one name", "many"],
)
def test_a_head_that_does_not_end_is_431(connect: Connect, piece: bytes):
    with serving(app, lifespan="off", http=Protocol) as url:
        connection = connect(url)
        connection.sendall(HEAD)
        flood(connection, piece)
        answer = read(connection)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")  # a reset may overtake it
        slow = connect(url)
        slow.sendall(HEAD)
        for _ in range(9):
            slow.sendall(b"X-A: " + b"a" * 8000 + b"\r\n")
        assert read(slow).endswith(b'{"error":"The headers are too large"}')


@pytest.mark.slow
def test_a_head_below_the_limit_is_answered_and_a_body_is_no_head(connect: Connect):
    with serving(app, lifespan="off", http=Protocol) as url, httpx.Client(base_url=url, trust_env=False) as client:
        for _ in range(3):  # over one connection: each head counts for itself
            assert client.get("/", headers={"X-A": "a" * 40_000}).status_code == 200
            assert client.post("/refuses", content=b"x" * 300_000).text == "not read"
        connection = connect(url)
        connection.sendall((HEAD + b"\r\n") * 2 + HEAD + b"Connection: close\r\n\r\n")
        assert read(connection).count(b"200 OK") == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        HEAD,
        b"\r\n",
        HEAD + b"\r\n" + b"\r\n",
        HEAD + b"\r\n" + HEAD,
    ],
    ids=["nothing", "a letter", "half", "a blank line", "a request and a blank line", "a request and a half"],
)
def test_who_sends_no_whole_head_is_left(connect: Connect, sent: bytes):
    with serving(app, lifespan="off", http=Quick, timeout_keep_alive=30) as url:
        connection = connect(url)
        first, end, rest = sent.partition(b"\r\n\r\n")
        connection.sendall(first + end)
        if end:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.sendall(rest)
        assert read(connection) == b""


@pytest.mark.slow
def test_an_answer_takes_as_long_as_it_takes(connect: Connect):
    told: list[str] = []

    async def slowly(request: Request) -> StreamingResponse:
        import anyio

        async def pieces():
            for n in range(4):
                await anyio.sleep(Quick.head_seconds / 2)
                yield f"{n} "

        told.append(request.method)
        return StreamingResponse(pieces())

    slow = Starlette()
    slow.add_route("/", slowly)
    with serving(slow, lifespan="off", http=Quick) as url:
        connection = connect(url)
        connection.sendall(HEAD + b"Connection: close\r\n\r\n")
        assert b"3 " in read(connection)


@pytest.mark.slow
def test_websockets_of_a_middleware_are_taken(connect: Connect):
    pytest.importorskip("wsproto", reason="no package for WebSockets is installed")
    with serving(app, lifespan="off", http=Protocol, ws="wsproto") as url:
        connection = connect(url)
        connection.sendall(
            b"GET /talks HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        answer = b""
        while b"hello" not in answer and (data := connection.recv(65536)):
            answer += data
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"hello" in answer


@pytest.mark.parametrize(
    ("streams", "descriptors", "most"), [(500, None, 2000), (500, 100_000, 2000), (462, 1024, 462), (1, 10, 1)]
)
def test_connections_are_as_many_as_the_answers_and_the_descriptors_allow(
    streams: int, descriptors: int | None, most: int
):
    assert most_connections(streams, descriptors) == most


def test_what_comes_beyond_them_is_503_until_there_is_room(project: Project, connect: Connect):
    write_tree(project, {"routes/a/route.py": "def GET():\n    return 'a'\n", "public/a.txt": "a"})
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(project, PYTHON, "-m", "app", "start", PORT=str(port), CHAT_MAX_STREAMS="1") as server:

        def asks() -> int:
            try:
                return httpx.get(f"{url}/a.txt", trust_env=False).status_code
            except httpx.TransportError:
                assert server.process.poll() is None, server.output
                return 0

        wait_until(lambda: asks() == 200)
        held = [connect(url) for _ in range(1002)]
        wait_until(lambda: asks() == 503)
        for connection in held:
            connection.close()
        wait_until(lambda: asks() == 200)
