"""What Next.js 16 answered, request by request: tests/conformance/ holds the recorded tree and the recorded answers.

A case of kind "next" must be answered as Next.js did; one of kind "better" as the RFCs ask, where Next.js does not.
Requests go out byte for byte, since every client library tidies paths up.
"""

import json
import re
import socket
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from app import create_app
from config import Config
from tests.servers import serving, write_tree

HERE = Path(__file__).parent / "conformance"
CASES: list[dict[str, Any]] = json.loads((HERE / "cases.json").read_text())

# Every route of the tree says who it is and what it was handed.
ROUTE = """
from starlette.responses import JSONResponse

def echo(request, params):
    seen = {{"route": {route!r}, "method": request.method, "params": params if {dynamic} else None}}
    return JSONResponse(seen, headers={{"x-echo": f"{{request.method}} {shown}"}})

{verbs} = echo
"""


def source_of(file: str, verbs: list[str]) -> str:
    route = "/" + file.removesuffix("route.py").removesuffix("/")
    dynamic = re.search(r"/(\[[^\[\]]+\]|\[\[[^\[\]]+\]\])(/|$)", route) is not None
    shown = quote(route, safe="!#$&'()*+,/:;=?@")  # as JavaScript's encodeURI writes it
    return ROUTE.format(route=route, dynamic=dynamic, shown=shown, verbs=" = ".join(verbs))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Where the recorded tree is served."""
    tree = json.loads((HERE / "tree.json").read_text())["routes"]
    folder = tmp_path_factory.mktemp("recorded") / "routes"
    write_tree(folder, {file: source_of(file, verbs) for file, verbs in tree.items()})
    with serving(create_app(Config(routes_dir=folder))) as url:
        address = urlsplit(url)
        yield str(address.hostname), int(address.port or 0)


def exchange(address: tuple[str, int], request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Write one request as it was recorded; status, headers and body of the answer."""
    body = bytes_of(request["body"])
    lines = [f"{request['method']} {request['path']} HTTP/1.1", "Host: a.test", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in request["headers"]]
    lines += [f"Content-Length: {len(body)}"] if body is not None else []
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        with connection.makefile("rb") as stream:
            answer = stream.read()
    head, _, content = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    assert "transfer-encoding" not in headers  # the echo has a length
    return int(status.split()[1]), headers, content


def bytes_of(body: dict[str, Any] | str | None) -> bytes | None:
    if isinstance(body, dict):
        if "base64" in body:
            return b64decode(body["base64"])
        return (body["repeat"] or "x").encode() * body["length"]
    return None if body is None else body.encode()


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_it_answers_as_recorded(recorded: tuple[str, int], case: dict[str, Any]):
    want = case["want"]
    status, headers, body = exchange(recorded, case["request"])
    assert status == want["status"], case["note"]
    for name in ("location", "allow", "x-echo"):
        if want.get(name) == "ANY":
            assert name in headers
        elif name in want:
            assert headers.get(name) == want[name]
    if "json" in want:
        assert json.loads(body) == want["json"]
    if status == 405:
        assert "OPTIONS" in headers["allow"].split(", ")  # always: RFC 9110 15.5.6


def test_all_cases_are_there():
    assert len(CASES) == len({case["id"] for case in CASES}) == 237
