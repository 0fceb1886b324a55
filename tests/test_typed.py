"""Handlers that say what they take: checks before anything is read, and parameters by name and type."""

from pathlib import Path

import pytest

from tests.test_router import client_of

CHECKED = """
import functools
from starlette.responses import PlainTextResponse
from auth import Unauthorized

seen = []

def requires(*checks):
    def mark(handler):
        handler.checks = checks
        return handler
    return mark

def key(request):
    if "x-key" not in request.headers:
        raise Unauthorized

async def member(request):
    if request.headers["x-key"] != "member":
        raise Unauthorized

def hides(handler):
    async def inner(request):
        return await handler(request)
    return inner

def wraps(handler):
    @functools.wraps(handler)
    async def inner(request):
        return await handler(request)
    return inner

class Holds:
    def __init__(self, handler):
        self.handler = handler
    async def __call__(self, request):
        return await self.handler(request)

class Callable:
    @requires(key, member)
    async def __call__(self, request):
        return await handler(request)

async def handler(request, suffix=""):
    return PlainTextResponse(f"{(await request.json())['name']}{suffix}")

def threaded(request):
    return PlainTextResponse("ada")

"""


@pytest.mark.parametrize(
    "post",
    [
        "requires(key, member)(handler)",
        "hides(requires(key, member)(handler))",
        "wraps(requires(key, member)(handler))",
        "functools.partial(requires(key, member)(handler), suffix='')",
        "Holds(hides(requires(key, member)(handler)))",
        "requires(key)(hides(requires(member)(handler)))",
        "requires(key, member)(threaded)",
        "Callable()",
    ],
)
def test_checks_run_before_the_body_is_read_whatever_wraps_the_handler(tmp_path: Path, post: str):
    client = client_of(tmp_path, {"x/route.py": f"{CHECKED}\nPOST = {post}\n"})
    not_json = client.post("/x", content="{")
    assert (not_json.status_code, not_json.headers["www-authenticate"]) == (401, "Bearer")
    assert client.post("/x", content="{", headers={"x-key": "guest"}).status_code == 401
    allowed = client.post("/x", json={"name": "ada"}, headers={"x-key": "member"})
    assert (allowed.status_code, allowed.text) == (200, "ada")
