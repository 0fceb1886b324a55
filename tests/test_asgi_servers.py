"""The app under other ASGI servers, and under uvicorn by its name: each is asked the same."""

import httpx
import pytest

from tests.processes import Project, running
from tests.servers import free_port, wait_until, write_tree

pytestmark = pytest.mark.slow

ECHO = """
from starlette.responses import PlainTextResponse, StreamingResponse
from jsonresponse import JSONResponse

async def GET(request, params):
    return JSONResponse({"path": request.scope["path"], "params": params, "q": dict(request.query_params)})

async def POST(request):
    return PlainTextResponse(str(len(await request.body())))

async def PUT():
    async def pieces():
        for n in range(3):
            yield f"{n} "
    return StreamingResponse(pieces())

async def DELETE():
    1 / 0
"""
ONE_EACH = httpx.Limits(max_keepalive_connections=0)  # uvicorn ends a connection behind an exception

TOLD = """
from auth import requires, service
from sse import EventStream

@requires(service)
async def GET(request):
    async def write(emit):
        await emit({"n": 1})
    return EventStream(write)
"""
GUARD = """
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

class Guard:
    def __init__(self, app): self.app = app
    async def __call__(self, scope, receive, send):
        await JSONResponse({"error": "no"}, 403)(scope, receive, send)

middleware = [Middleware(Guard)]
"""
SERVERS = {
    "uvicorn": [".venv/bin/uvicorn", "app:app", "--port", "PORT"],
    "make start": [".venv/bin/python", "-m", "app", "start"],
    "hypercorn": [".venv/bin/hypercorn", "app:app", "--bind", "127.0.0.1:PORT"],
    "hypercorn by HTTP/2": [".venv/bin/hypercorn", "app:app", "--bind", "127.0.0.1:PORT"],
    "granian": [".venv/bin/granian", "--interface", "asgi", "app:app", "--port", "PORT"],
}


@pytest.mark.parametrize("server", SERVERS)
def test_each_server_answers_the_same(project: Project, server: str):
    write_tree(
        project / "routes",
        {
            "echo/[id]/route.py": ECHO,
            "told/route.py": TOLD,
            "closed/middleware.py": GUARD,
            "small/route.py": "max_body_bytes = 10\n" + ECHO,
            "../public/note.txt": "note",
        },
    )
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    token = "a-token-of-the-tests"
    command = [word.replace("PORT", str(port)) for word in SERVERS[server]]
    is_2 = server.endswith("HTTP/2")  # whose bodies need no length, and are not chunked
    with (
        running(project, *command, PORT=str(port), WEBCHAT_TOKEN=token) as process,
        httpx.Client(base_url=base, trust_env=False, timeout=30, limits=ONE_EACH, http1=not is_2, http2=is_2) as client,
    ):

        def is_up() -> bool:
            assert process.process.poll() is None, process.output
            try:
                return client.get("/note.txt").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_up, 60)
        assert client.get("/note.txt").http_version == ("HTTP/2" if is_2 else "HTTP/1.1")
        for method, path, status in (
            ("GET", "/echo/a%2Fb?x=1", 200),
            ("HEAD", "/echo/7", 200),
            ("OPTIONS", "/echo/7", 204),
            ("PATCH", "/echo/7", 405),
            ("DELETE", "/echo/7", 500),
            ("GET", "/echo/7/", 308),
            ("GET", "/echo/%zz", 400),
            ("GET", "/nothing", 404),
            ("GET", "/closed/x", 403),
            ("GET", "/note.txt", 200),
            ("POST", "/note.txt", 405),
            ("GET", "/told", 401),
        ):
            assert (method, path, client.request(method, path).status_code) == (method, path, status)
        assert client.get("/echo/a%2Fb?x=1").json() == {"path": "/echo/a/b", "params": {"id": "a/b"}, "q": {"x": "1"}}
        assert client.get("/echo/7/").headers["location"] == "/echo/7"
        assert client.get("/echo/7", headers={"X-Request-Id": "r-1"}).headers["x-request-id"] == "r-1"
        assert client.post("/echo/7", content=b"x" * 1000).text == "1000"
        assert client.put("/echo/7").text == "0 1 2 "
        for body in (b"x" * 11, iter([b"x" * 6, b"x" * 5])):
            assert client.post("/small", content=body).status_code == 413
        answer = client.get("/told", headers={"Authorization": f"Bearer {token}"})
        assert answer.text == 'data: {"n": 1}\n\ndata: [DONE]\n\n'
