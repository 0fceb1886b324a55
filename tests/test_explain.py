"""make dev answers an error with what the terminal says; production never does."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import app as front
from cli.explain import fix_of
from config import Config
from tests.servers import write_tree

HEAD = "from starlette.responses import Response\nfrom jsonresponse import JSONResponse\n"  # two lines
BODY = '{"name": "x"}'

CASES: dict[str, tuple[str, list[str], str]] = {
    "raise": (
        "async def POST(request):\n    raise LookupError('no shelf 42')",
        ["LookupError: no shelf 42"],
        "routes/x/route.py line 4, in POST: raise LookupError('no shelf 42')",
    ),
    "in a thread": (
        "def POST(request):\n    raise LookupError('no shelf 42')",
        ["LookupError: no shelf 42"],
        "routes/x/route.py line 4, in POST",
    ),
    "a dict": ("async def POST(request):\n    return {'a': 1}", ["'dict'", "Response", "JSONResponse(...)"], ""),
    "a list": ("def POST(request):\n    return [1]", ["'list'", "Response", "JSONResponse(...)"], ""),
    "a text": ("def POST(request):\n    return 'hello'", ["'str'", "Response"], ""),
    "nothing": (
        "async def POST(request):\n    JSONResponse({})",
        ["'NoneType'", "Response", "Nothing"],
        "",
    ),
    "not awaited": (
        "async def POST(request):\n    body = request.json()\n    return JSONResponse({'name': body})",
        ["coroutine", "await", "body = await request.json()"],
        "routes/x/route.py line 5, in POST: return JSONResponse({'name': body})",
    ),
    "not awaited, read": (
        "async def POST(request):\n    return JSONResponse(request.json()['name'])",
        ["coroutine", "await"],
        "routes/x/route.py line 4",
    ),
    "not awaited, in a plain def": (
        "def POST(request):\n    return JSONResponse(request.json().get('name'))",
        ["coroutine", "async def"],
        "routes/x/route.py line 4",
    ),
    "a coroutine, returned": (
        "def POST(request):\n    return request.json()",
        ["'dict'", "Return a Response", "JSONResponse(...)"],
        "",
    ),
    "a missing key": (
        "shelf = {}\nasync def POST(request):\n    return JSONResponse(shelf['seven'])",
        ["KeyError: 'seven'"],
        "routes/x/route.py line 5, in POST",
    ),
    "a name that the state does not have": (
        "async def POST(request):\n    return JSONResponse(request.state['database'])",
        ["KeyError: 'database'", "request.state has answers, channels, config, db, http,", "instrumentation.py"],
        "routes/x/route.py line 4, in POST",
    ),
    "a table that is not there": (
        "async def POST(request):\n    return JSONResponse(await request.state['db'].read('SELECT * FROM customer'))",
        ["no such table: customer", "migrations/", "python -m app migrate"],
        "routes/x/route.py line 4, in POST",
    ),
    "a question mark for a value": (
        "async def POST(request):\n    return JSONResponse(await request.state['db'].read('SELECT ?', 1))",
        ["$1"],
        "routes/x/route.py line 4, in POST",
    ),
    "values in a tuple": (
        "async def POST(request):\n    return JSONResponse(await request.state['db'].read('SELECT $1', (1,)))",
        ["'tuple'", "await db.read(sql, first, second)"],
        "routes/x/route.py line 4, in POST",
    ),
    "a value too few": (
        "async def POST(request):\n    return JSONResponse(await request.state['db'].read('SELECT $1, $2', 1))",
        ["$1, $2"],
        "routes/x/route.py line 4, in POST",
    ),
    "a row like an object": (
        "async def POST(request):\n    [row] = await request.state['db'].read('SELECT 1 AS n')\n"
        "    return JSONResponse(row.n)",
        ["'dict' object has no attribute 'n'", "['n']"],
        "routes/x/route.py line 5, in POST",
    ),
    "a set": (
        "async def POST(request):\n    return JSONResponse({'tags': {'a'}})",
        ["not JSON serializable: set", "list(...)"],
        "routes/x/route.py line 4, in POST",
    ),
    "in a group": (
        "import anyio\nasync def fail(): raise LookupError('no shelf')\nasync def POST(request):\n"
        "    async with anyio.create_task_group() as tasks:\n        tasks.start_soon(fail)",
        ["LookupError: no shelf"],
        "routes/x/route.py line 4, in fail",
    ),
    "a helper beside app.py": (
        "from a_shelf_of_the_tests import take\nasync def POST(request):\n    return JSONResponse(take(42))",
        ["LookupError: no shelf 42"],
        "routes/x/route.py line 5, in POST: return JSONResponse(take(42))",
    ),
}
HELPER = "def take(n):\n    raise LookupError(f'no shelf {n}')\n"


def answer(folder: Path, text: str, how: str) -> Any:
    write_tree(folder, {"routes/x/route.py": HEAD + text, "a_shelf_of_the_tests.py": HELPER})
    app = front.create_app(Config(routes_dir=folder / "routes", database_url=f"sqlite:///{folder}/a.db"))
    if how == "dev":
        app.add_exception_handler(Exception, front.explained)
    with TestClient(app, raise_server_exceptions=False) as client:
        return client.post("/x", content=BODY, headers={"X-Request-Id": "an-id"})


@pytest.mark.parametrize(("text", "words", "line"), CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore:coroutine.*was never awaited")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_make_dev_says_what_was_raised_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: list[str], line: str
):
    monkeypatch.syspath_prepend(tmp_path)  # pyright: ignore[reportUnknownMemberType] - pytest leaves it untyped
    response = answer(tmp_path, text, "dev")
    assert response.status_code == 500
    told = json.loads(response.text)
    for word in words:
        assert word in f"{told['error']} {told.get('fix', '')}"
    assert any(line in entry for entry in told["where"])
    assert "routes/x/route.py" in told["where"][0]
    assert told["request"] == "POST /x (routes/x/route.py)"
    assert told["requestId"] == response.headers["x-request-id"] == "an-id"
    if "take" in text:
        assert told["where"][1] == "a_shelf_of_the_tests.py line 2, in take: raise LookupError(f'no shelf {n}')"
    assert answer(tmp_path, text, "production").json() == {"error": "Internal server error"}


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (AssertionError("The `python-multipart` library must be installed to use form parsing."), "run make dev"),
        (RuntimeError('relation "customer" does not exist'), "python -m app migrate"),  # PostgreSQL's words
        (RuntimeError("the server expects 2 arguments for this query, 1 was passed"), "$1, $2"),
        (KeyError("name"), None),
        (AttributeError("'dict' object has no attribute 'n'"), "['n']"),
        (AttributeError("'State' object has no attribute 'n'"), None),
        (LookupError("no shelf"), None),
    ],
)
def test_the_fix_of_what_a_library_says(exc: Exception, words: str | None):
    fix = fix_of(exc, {"state": {"db": None}}, "")
    assert fix is None if words is None else words in (fix or "")


def test_a_stream_that_fails_later_says_it_in_its_last_event(tmp_path: Path):
    text = (
        "from sse import EventStream\nasync def POST(request):\n    async def write(emit):\n"
        "        await emit(1)\n        raise LookupError('no shelf')\n    return EventStream(write)\n"
    )
    assert 'data: {"error": "LookupError: no shelf"}' in answer(tmp_path, text, "dev").text
    assert 'data: {"error": "Internal server error"}' in answer(tmp_path, text, "production").text
