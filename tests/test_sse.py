"""Event streams of any route, by the front door: frames, heartbeat, failures, HEAD, clients that leave."""

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Events
from tests.servers import wait_until

ServeTree = Callable[..., str]

ROUTE = """
import anyio
from starlette.exceptions import HTTPException
from starlette.responses import Response
from sse import EventStream

class Quick(EventStream):
    beat = {beat}
    hold = {hold}

gate = anyio.Event()

async def GET(request):
    async def write(emit):
{body}
    return Quick(write)

async def POST(request):  # the test says when a stream goes on, not a clock
    gate.set()
    return Response()
"""


def route(body: str, *, beat: float = 60, hold: float = 60) -> dict[str, str]:
    lines = "".join(f"        {line}\n" for line in body.strip().splitlines())
    return {"count/route.py": ROUTE.format(body=lines, beat=beat, hold=hold)}


def read_until(response: httpx.Response, words: str) -> Iterator[str]:
    """What has come when the words have; then the rest of it, once the gate was opened."""
    text, pieces = "", response.iter_text()
    while words not in text:
        text += next(pieces)
    yield text
    httpx.post(response.url, trust_env=False)
    yield text + "".join(pieces)


def test_any_route_can_stream_events(serve_tree: ServeTree):
    url = serve_tree(route('for n in range(3):\n    await emit({"n": n, "text": "a\\u2028b\\n"})'))
    response = httpx.get(f"{url}/count", trust_env=False)
    frames = [b'data: {"n": %d, "text": "a\\u2028b\\n"}\n\n' % n for n in range(3)]
    assert response.content == b"".join(frames) + b"data: [DONE]\n\n"
    assert response.headers["content-type"] == "text/event-stream"


def test_a_reader_that_nobody_here_wrote_understands_them(serve_tree: ServeTree, events: Events):
    url = serve_tree(route('await emit("eins")\nawait anyio.sleep(0.1)\nawait emit(["zwei", 2])', beat=0.02))
    assert [event.data for event in events(f"{url}/count")] == ['"eins"', '["zwei", 2]', "[DONE]"]


def test_silence_is_broken_by_a_comment(serve_tree: ServeTree):
    url = serve_tree(route("await emit(1)\nawait gate.wait()\nawait emit(2)", beat=0.05, hold=0.05))
    with httpx.stream("GET", f"{url}/count", trust_env=False) as response:
        *_, text = read_until(response, "data: 1\n\n: ping\n\n")
    assert re.fullmatch(r"(: ping\n\n)*data: 1\n\n(: ping\n\n)+data: 2\n\n(: ping\n\n)*data: \[DONE\]\n\n", text)


def test_the_head_is_held_for_the_first_event_but_not_for_ever(serve_tree: ServeTree):
    url = serve_tree(route("await gate.wait()\nraise HTTPException(418)", beat=0.05, hold=0.05))
    with httpx.stream("GET", f"{url}/count", trust_env=False) as response:
        assert response.status_code == 200  # it went out before the failure
        *_, text = read_until(response, ": ping\n\n")
    assert re.fullmatch(r"""(: ping\n\n)+data: {"error": "I'm a Teapot"}\n\ndata: \[DONE\]\n\n""", text)


def test_a_failure_before_the_first_event_has_its_own_status(serve_tree: ServeTree):
    url = serve_tree(route('raise HTTPException(409, "Not now")'))
    response = httpx.get(f"{url}/count", trust_env=False)
    assert (response.status_code, response.json()) == (409, {"error": "Not now"})


def test_an_unexpected_failure_is_logged_and_never_shown(serve_tree: ServeTree, caplog: pytest.LogCaptureFixture):
    url = serve_tree(route('await emit(1)\nraise ValueError("a secret")'))
    response = httpx.get(f"{url}/count", trust_env=False)
    assert response.text == 'data: 1\n\ndata: {"error": "Internal server error"}\n\ndata: [DONE]\n\n'
    wait_until(lambda: any("a secret" in (record.exc_text or "") for record in caplog.records))
    [logged] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "while answering GET /count (routes/count/route.py)" in (logged.exc_text or "")


def test_what_a_writer_waited_for_and_was_cancelled_is_an_error_and_nobody_left(
    serve_tree: ServeTree, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "request")
    waits = "import asyncio\ntask = asyncio.create_task(asyncio.sleep(9))\ntask.cancel()\nawait task"
    assert httpx.get(f"{serve_tree(route('raise SystemExit'))}/count", trust_env=False).status_code == 500
    url = serve_tree(route(f"await emit(1)\n{waits}"))
    response = httpx.get(f"{url}/count", trust_env=False)
    assert response.text == 'data: 1\n\ndata: {"error": "Internal server error"}\n\ndata: [DONE]\n\n'
    wait_until(lambda: "GET /count 200" in caplog.text)
    assert "ended=error" in caplog.text
    assert "left" not in caplog.text
    url = serve_tree(route(waits))
    response = httpx.get(f"{url}/count", trust_env=False)
    assert (response.status_code, response.json()) == (500, {"error": "Internal server error"})


def test_a_stream_that_writes_nothing_still_ends_properly(serve_tree: ServeTree):
    assert httpx.get(f"{serve_tree(route('pass'))}/count", trust_env=False).text == "data: [DONE]\n\n"


def test_head_gets_the_head_and_does_not_wait_for_the_stream(serve_tree: ServeTree):
    url = serve_tree(route("await emit(1)\nawait anyio.sleep_forever()"))
    response = httpx.head(f"{url}/count", trust_env=False)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "text/event-stream"


BEHIND = """
made, sizes = [], []
async def make():
    for n in range(60):
        made.append(n)
        time.sleep(0.03)  # it keeps the loop, so that everything on it comes late
        await anyio.sleep(0)
async with anyio.create_task_group() as tasks:
    tasks.start_soon(make)
    while sum(sizes) < 60:
        if made:
            events, made[:] = list(made), []
            sizes.append(len(events))
            await emit(*events)
        else:
            await anyio.sleep(0)
await emit({"sizes": sizes})
"""


@pytest.mark.slow
def test_a_stream_rests_while_the_loop_is_behind_and_loses_nothing(serve_tree: ServeTree, events: Events):
    url = serve_tree(route("import time" + BEHIND))
    *told, last, done = [event.data for event in events(f"{url}/count")]
    assert told == [str(n) for n in range(60)]
    assert done == "[DONE]"
    sizes: list[int] = json.loads(last)["sizes"]
    assert sizes[0] == 1  # it does not rest before it is late
    assert max(sizes) > 3


def test_what_a_route_does_at_the_end_is_done_when_the_client_leaves(serve_tree: ServeTree, tmp_path: Path):
    left = tmp_path / "left"
    body = f"""
try:
    await emit(1)
    await anyio.sleep_forever()
finally:
    with anyio.CancelScope(shield=True):
        await anyio.Path({str(left)!r}).write_text("kept")
"""
    url = serve_tree(route(body))
    with httpx.stream("GET", f"{url}/count", trust_env=False) as response:
        told = response.iter_text()  # kept: an iterator that nobody holds closes the connection
        assert next(told) == "data: 1\n\n"
        assert not left.exists()
    wait_until(lambda: left.exists() and left.read_text() == "kept")


def test_a_client_that_takes_nothing_is_dropped(serve_tree: ServeTree, tmp_path: Path):
    left = tmp_path / "left"
    body = f"""
try:
    while True:
        await emit("x" * 4_000_000)
finally:
    with anyio.CancelScope(shield=True):
        await anyio.Path({str(left)!r}).write_text(stream.ended)
"""
    files = route(body)
    files["count/route.py"] = (
        files["count/route.py"]
        .replace("hold = 60", "hold = patience = 0.15")
        .replace("return Quick(write)", "stream = Quick(write)\n    return stream")
    )
    host, port = serve_tree(files).removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(b"GET /count HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: left.exists() and left.read_text() == "left")
