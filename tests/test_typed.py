"""Handlers that say what they take: checks before anything is read, and parameters by name and type."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from config import HERE
from loader import RouteError, load_routes
from tests.servers import write_tree
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


# Bodies

IMPORTS = """
from __future__ import annotations
import functools
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Callable, Literal
from uuid import UUID
from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from typing_extensions import TypedDict
from jsonresponse import JSONResponse

def shown(value):
    return JSONResponse(TypeAdapter(Any).dump_python(value, mode="json"))
"""
POSTS = (
    IMPORTS
    + """
@dataclass
class Author:
    name: Annotated[str, Field(min_length=1)]
    age: Annotated[int, Field(ge=0, lt=150)] | None = None

@dataclass
class NewPost:
    title: Annotated[str, Field(min_length=1, max_length=200)]
    tags: Annotated[list[str], Field(max_length=3)] = field(default_factory=list)
    author: Author | None = None
    score: float = 0.0
    kind: Literal["draft", "public"] = "draft"
    day: date | None = None
    either: int | bool = 0
    anything: Any = None

async def POST(request: Request, body: NewPost) -> JSONResponse:
    return shown(body)
"""
)


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    return client_of(tmp_path_factory.mktemp("posts"), {"posts/route.py": POSTS})


def test_a_body_becomes_what_its_annotation_says(posts: TestClient):
    sent = {"title": "Hi", "tags": ["a"], "author": {"name": "Ada", "age": 36}, "score": 1, "day": "2026-11-26"}
    answer = posts.post("/posts", json=sent)
    assert answer.json() == {**sent, "score": 1.0, "kind": "draft", "either": 0, "anything": None}
    assert posts.post("/posts", json={"title": "Hi"}).json()["tags"] == []


@pytest.mark.parametrize(
    ("sent", "details"),
    [
        ("{}", {"title": "is required: a string of 1 to 200 characters"}),
        ('{"title": ""}', {"title": "must be a string of 1 to 200 characters"}),
        ('{"title": 7}', {"title": "must be a string of 1 to 200 characters"}),
        ('{"title": "a", "tags": ["b", 7]}', {"tags.1": "must be a string"}),
        ('{"title": "a", "tags": ["b", "c", "d", "e"]}', {"tags": "must be a list of at most 3 entries"}),
        ('{"title": "a", "tags": "b"}', {"tags": "must be a list of at most 3 entries"}),
        ('{"title": "a", "author": {}}', {"author.name": "is required: a non-empty string"}),
        ('{"title": "a", "author": 7}', {"author": "must be an object or null"}),
        (
            '{"title": "a", "author": {"name": "b", "age": "7"}}',
            {"author.age": "must be a whole number of at least 0 and less than 150 or null"},
        ),
        ('{"title": "a", "score": "7"}', {"score": "must be a number"}),
        ('{"title": "a", "kind": "secret"}', {"kind": 'must be one of "draft", "public"'}),
        ('{"title": "a", "day": "today"}', {"day": "must be a date such as 2026-11-26 or null"}),
        ('{"title": "a", "either": "7"}', {"either": "must be a whole number or true or false"}),
        (
            '{"tags": 7, "score": null}',
            {"title": "is required", "tags": "must be a list of", "score": "must be a number"},
        ),
        ("[]", {"body": "must be an object"}),
        ("null", {"body": "must be an object"}),
        # hostile
        ('{"title": "a", "score": NaN}', {"score": "must be a finite number"}),
        ('{"title": "a", "score": -Infinity}', {"score": "must be a finite number"}),
        ('{"title": "a", "score": 1e999}', {"score": "must be a finite number"}),
        ('{"title": "a", "score": 1' + "0" * 400 + ".0}", {"score": "must be a finite number"}),
        ('{"title": "a", "anything": {"b": [1, NaN]}}', {"anything.b.1": "must be a finite number"}),
        (
            '{"title": "a", "either": 18446744073709551616}',
            {"either": "must be a number of 64 bits; write a longer one as a string"},
        ),
        (
            '{"title": "a", "either": ' + "9" * 4300 + "}",
            {"either": "must be a number of 64 bits; write a longer one as a string"},
        ),
        (
            '{"title": "a", "either": ' + "9" * 100_000 + "}",
            {"body": "is not JSON: number out of range at line 1 column"},
        ),
        ('{"title": "a", "anything": ' + "[" * 100_000, {"body": "is nested too deeply"}),
        ("[" * 100_000 + "]" * 100_000, {"body": "is nested too deeply"}),
        ('{"title": "a", "anything": ' + '{"b":' * 100_000, {"body": "is nested too deeply"}),
        ('{"title": "' + "a" * 900_000 + '"}', {"title": "must be a string of 1 to 200 characters"}),
        ('{"title": "\\ud800"}', {"body": "is not JSON: unexpected end of hex escape at line 1 column"}),
        (b'{"title": "\xff"}', {"body": "is not JSON: invalid unicode code point at line 1 column 12"}),
        ("{", {"body": "is not JSON: EOF while parsing an object at line 1 column 1"}),
        ('{"title": "a"} x', {"body": "is not JSON: trailing characters at line 1 column 16"}),
        ("'a'", {"body": "is not JSON: expected value at line 1 column 1"}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_does_not_fit_a_body_is_400_with_each_field(posts: TestClient, sent: str | bytes, details: dict[str, Any]):
    answer = posts.post("/posts", content=sent, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "Invalid request")
    found = {entry["field"]: entry["message"] for entry in answer.json()["details"]}
    assert found.keys() == details.keys()
    assert [name for name, words in details.items() if not found[name].startswith(words)] == []
    assert "pydantic" not in answer.text


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"title": "a"}', "application/json; charset=utf-8", 200),
        (b'{"title": "a"}', "Application/JSON", 200),
        (b'{"title": "a"}', "application/merge-patch+json", 200),
        (b'\xef\xbb\xbf{"title": "a"}', "application/json", 200),
        (b'{"title": "a"}', "text/plain", 415),
        (b'{"title": "a"}', "application/x-www-form-urlencoded", 415),
        (b'{"title": "a"}', "text/json", 415),
        (b'{"title": "a"}', None, 415),
        (b"", None, 400),
        (b"", "application/json", 400),
        (b" ", "application/json", 400),
        ('{"title": "a"}'.encode("utf-16"), "application/json", 400),
        (b'{"title": "a", "title": "b"}', "application/json", 200),  # the last one counts, as for JSON.parse
    ],
)
def test_a_body_is_json_and_says_so(posts: TestClient, content: bytes, kind: str | None, status: int):
    answer = posts.post("/posts", content=content, headers={"content-type": kind} if kind else {})
    assert answer.status_code == status
    if status == 415:
        assert answer.json() == {"error": "The body must be JSON, with Content-Type: application/json"}
        assert answer.headers["accept"] == "application/json"
    if not content:
        assert answer.json()["details"] == [
            {"field": "body", "message": "is required: JSON, with Content-Type: application/json"}
        ]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_a_body_may_be_read_whatever_its_content_type_says(tmp_path: Path, kind: str | None):
    source = IMPORTS + "from typed import AnyContentType\n"
    source += "async def POST(request, body: Annotated[list[int], AnyContentType]): return shown(body)\n"
    client = client_of(tmp_path, {"x/route.py": source})
    headers = {"content-type": kind} if kind else {}
    assert client.post("/x", content="[1]", headers=headers).json() == [1]
    assert client.post("/x", content="[x]", headers=headers).status_code == 400


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json"])
def test_a_body_that_is_described_and_may_be_anything_is_handed_in_as_it_came(tmp_path: Path, kind: str | None):
    source = IMPORTS + "import json\n"
    source += 'async def POST(request, body: Annotated[Any, Field(description="A")]): return shown(json.dumps(body))\n'
    client = client_of(tmp_path, {"x/route.py": source})
    headers = {"content-type": kind} if kind else {}
    assert client.post("/x", content='{"a": 100000000000000000000}', headers=headers).json() == '{"a": 1e+20}'
    assert client.post("/x", content='{"a": NaN}', headers=headers).status_code == 400


def test_a_value_that_a_handler_made_is_checked_as_a_body_is(tmp_path: Path):
    source = (
        IMPORTS
        + """
from typed.inputs import Value

@dataclass
class Photo:
    title: Annotated[str, Field(min_length=1)]
    width: int = 0

PHOTO = Value(Photo)

async def GET(request, query): return shown(PHOTO.check(dict(query)))
"""
    )
    client = client_of(tmp_path, {"x/route.py": source})
    assert client.get("/x?title=a&width=7").json() == {"title": "a", "width": 7}
    answer = client.get("/x?width=wide")
    assert (answer.status_code, answer.json()["details"]) == (
        400,
        [
            {"field": "title", "message": "is required: a non-empty string"},
            {"field": "width", "message": "must be a whole number"},
        ],
    )


def test_a_body_with_a_default_may_be_absent(tmp_path: Path):
    source = IMPORTS + "async def POST(request, body: dict[str, int] = {'none': 0}): return shown(body)\n"
    client = client_of(tmp_path, {"x/route.py": source})
    assert client.post("/x").json() == {"none": 0}
    assert client.post("/x", json={"one": 1}).json() == {"one": 1}


def test_an_answer_lists_twenty_problems_at_most(tmp_path: Path):
    client = client_of(tmp_path, {"x/route.py": IMPORTS + "async def POST(request, body: list[int]): ...\n"})
    details = client.post("/x", json=[""] * 30).json()["details"]
    assert (details[0], len(details)) == ({"field": "0", "message": "must be a whole number"}, 21)
    assert details[-1] == {"field": "body", "message": "has 10 more problems"}
    details = client.post("/x", json=[""] * 5000).json()["details"]
    assert details == [{"field": "body", "message": "has 5000 problems, too many to list"}]


def test_a_recursive_type_is_checked_to_its_depth(tmp_path: Path):
    source = (
        IMPORTS
        + """
class Tree(BaseModel):
    left: Tree | None = None
    right: Tree | list[Tree] | None = None
    size: int = 0

async def POST(request, body: Tree): return shown(body)
"""
    )
    client = client_of(tmp_path, {"x/route.py": source})
    deep = '{"right":' * 150 + '{"size": "1"}' + "}" * 150
    details = client.post("/x", content=deep, headers={"content-type": "application/json"}).json()["details"]
    assert details[0]["message"] in ("must be a whole number", "must be a list or null", "must be an object or null")


# Queries

QUERY = (
    IMPORTS
    + """
@dataclass
class Page:
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["newest", "oldest"] = "newest"
    tag: list[str] = field(default_factory=list)
    ids: list[int] | None = None
    ratio: float = 1.0
    year: Literal[2025, 2026] = 2026
    deep: bool = False
    day: date | None = None
    who: UUID | None = None
    price: Decimal | None = None

async def GET(request: Request, query: Page) -> JSONResponse:
    return shown(query)
"""
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    return client_of(tmp_path_factory.mktemp("pages"), {"pages/route.py": QUERY})


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"limit": 20, "order": "newest", "tag": [], "ids": None, "ratio": 1.0, "deep": False}),
        ("limit=7&order=oldest&other=1", {"limit": 7, "order": "oldest"}),
        ("limit=007", {"limit": 7}),
        ("limit=7&limit=8", {"limit": 8}),
        ("tag=a&tag=b&ids=1", {"tag": ["a", "b"], "ids": [1]}),
        ("ratio=-1.5e3&year=2025&deep=true", {"ratio": -1500.0, "year": 2025, "deep": True}),
        ("day=2026-11-26&price=1.50", {"day": "2026-11-26", "price": "1.50"}),
    ],
)
def test_a_query_becomes_what_its_annotation_says(pages: TestClient, query: str, found: dict[str, Any]):
    answer = pages.get(f"/pages?{query}")
    assert {name: answer.json()[name] for name in found} == found


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        *(
            (f"limit={text}", "limit", "must be a whole number from 1 to 100")
            for text in (
                "0",
                "101",
                "x",
                "",
                "1.0",
                "%201",
                "1_0",
                "%2B5",
                "1e1",
                "%EF%BC%91",
                "9" * 30,
                "9" * 5000,
                "NaN",
            )
        ),
        *((f"ratio={text}", "ratio", "must be a number") for text in ("nan", "inf", "-Infinity", "1e999", "1_0.5", "")),
        ("ids=1&ids=x", "ids.1", "must be a whole number"),
        ("order=best", "order", 'must be one of "newest", "oldest"'),
        ("year=2024", "year", "must be one of 2025, 2026"),
        ("deep=maybe", "deep", "must be true or false"),
        ("day=tomorrow", "day", "must be a date such as 2026-11-26"),
        ("who=ada", "who", "must be a UUID"),
    ],
)
def test_what_does_not_fit_a_query_is_400_with_its_field(pages: TestClient, query: str, field: str, message: str):
    answer = pages.get(f"/pages?{query}")
    assert (answer.status_code, answer.json()["details"]) == (400, [{"field": field, "message": message}])


# Params

USERS = (
    IMPORTS
    + """
class Params(TypedDict):
    id: int
    slug: list[str]

async def GET(request, params: Params): return shown(params)
"""
)


def test_parameters_are_converted_and_404_where_they_do_not_fit(tmp_path: Path):
    client = client_of(tmp_path, {"users/[id]/[...slug]/route.py": USERS})
    assert client.get("/users/7/a/b").json() == {"id": 7, "slug": ["a", "b"]}
    for id in ("x", "7.0", "%207", "7_0", "+7", "9" * 25):
        answer = client.get(f"/users/{id}/a")
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


def test_an_optional_catch_all_that_is_absent_has_its_default(tmp_path: Path):
    source = (
        IMPORTS
        + """
@dataclass
class Params:
    parts: list[int] = field(default_factory=list)
def GET(request, params: Params): return shown(params)
"""
    )
    client = client_of(tmp_path, {"[[...parts]]/route.py": source})
    assert [client.get(path).json() for path in ("/", "/1/2")] == [{"parts": []}, {"parts": [1, 2]}]


def test_all_three_and_in_any_order(tmp_path: Path):
    source = (
        IMPORTS
        + """
async def PUT(request, body: int, query: dict[str, int], *, params: dict[str, int]):
    return shown([body, query, params])
def PATCH(request, body, query, params: dict[str, str]):
    return shown([body, dict(query), params])
"""
    )
    client = client_of(tmp_path, {"x/[id]/route.py": source})
    assert client.put("/x/7?a=1", json=3).json() == [3, {"a": 1}, {"id": 7}]
    assert client.patch("/x/7?a=1", json={"b": 3}).json() == [{"b": 3}, {"a": "1"}, {"id": "7"}]
    assert client.put("/x/y?a=b", json="c").status_code == 404
    assert client.put("/x/7?a=b", json="c").json()["details"][0]["field"] == "a"


# What is refused at the start


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (
            "async def GET(id: str): ...",
            "GET takes 'id: str', which nothing hands in: parameters are found by name. "
            "Write async def GET(request, params), and read params['id'] (docs/typed.md).",
        ),
        ("async def GET(id): ...", "GET takes 'id', which nothing hands in"),
        ("async def POST(request, id): ...", "Write async def POST(request, params), and read params['id']"),
        ("async def GET(request, q: str = ''): ...", "Write async def GET(request, query), and read query['q']"),
        (
            "async def GET(request, q: int | None = None): ...",
            "GET takes 'q: int | None = None', which nothing hands in",
        ),
        ("async def GET(q: str): ...", "and read query['q']"),
        ("async def GET(request, *, q: str = ''): ...", "and read query['q']"),
        ("async def GET(request, ctx): ...", "GET takes 'ctx', which nothing hands in"),
        ("async def POST(post: Post): ...", "Write async def POST(request, body: Post)"),
        ("async def POST(request, post: Post): ...", "Write async def POST(request, body: Post)"),
        ("async def GET(request, db: Callable[[], int]): ...", "and read it from the request or from request.state"),
        (
            "async def POST(body: Post): ...",
            "POST takes body: Post first, where the request comes. Write async def POST(request, body: Post).",
        ),
        ("async def GET(request, body: Post): ...", "GET takes a body, which has no meaning in a GET (RFC 9110 9.3)"),
        ("async def HEAD(request, body): ...", "HEAD takes a body"),
        ("def DELETE(request, body: Post): ...", "DELETE takes a body"),
        ("async def POST(request, body: Nothing): ...", "POST says body: Nothing, and there is no such name"),
        (
            "async def POST(request, body: Plain): ...",
            "POST says body: Plain, which pydantic cannot read: Unable to generate pydantic-core schema for",
        ),
        ("async def POST(request, body: Broken): ...", "POST says body: Broken, and Nowhere is not defined."),
        ("async def POST(request, body: bytes): ...", "Read bytes with await request.body()."),
        (
            "async def GET(request, query: int): ...",
            "GET says query: int, but query is made of names. Write a dataclass",
        ),
        ("async def GET(request, query: list[str]): ...", "GET says query: list[str], but query is made of names."),
        (
            "async def GET(request, params: Post): ...",
            "GET has a field title in params, but no folder of the path is "
            "called [title]: it has [id]. Rename the field or the folder.",
        ),
        ("async def GET(request, params: Empty): ...", "GET has no field id in params, but [id] is in its path."),
        ("async def GET(request, params: Listed): ...", "GET has a field id in params that must be of one value"),
    ],
)
def test_a_handler_that_cannot_be_called_is_refused_with_the_fix(tmp_path: Path, handler: str, words: str):
    source = (
        IMPORTS
        + """
class Post(BaseModel):
    title: str
class Plain: ...
@dataclass
class Broken:
    there: Nowhere
@dataclass
class Listed:
    id: list[str]
@dataclass
class Empty: ...
"""
    )
    with pytest.raises(RouteError) as caught:
        load_routes(write_tree(tmp_path / "routes", {"x/[id]/route.py": source + handler}))
    assert str(caught.value).startswith(f"routes/x/[id]/route.py: {handler.partition('def ')[2].partition('(')[0]} ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("parts: str = ''", "GET has a field parts in params that must be list[str], since [[...parts]] is a list."),
        ("parts: list[str]", "GET has a field parts in params without a default, but [[...parts]] may be absent."),
    ],
)
def test_a_catch_all_is_a_list_and_may_be_absent(tmp_path: Path, field: str, words: str):
    source = f"{IMPORTS}\n@dataclass\nclass Params:\n    {field}\ndef GET(request, params: Params): ...\n"
    with pytest.raises(RouteError, match=re.escape(words)):
        load_routes(write_tree(tmp_path / "routes", {"[[...parts]]/route.py": source}))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes TypedDict of typing from Python 3.12 on")
def test_a_typeddict_of_typing_is_refused_with_the_import_to_write(tmp_path: Path):
    source = (
        "from typing import TypedDict\nclass Post(TypedDict):\n    title: str\ndef POST(request, body: Post): ...\n"
    )
    with pytest.raises(RouteError, match=r"says body: Post, .* write: from typing_extensions import TypedDict"):
        load_routes(write_tree(tmp_path / "routes", {"x/route.py": source}))


@pytest.mark.parametrize(
    "handler",
    [
        "async def GET(): return shown('ok')",
        "async def GET(req): return shown('ok')",
        "async def GET(request: Request): return shown('ok')",
        "async def GET(request: Request[Any]): return shown('ok')",
        "async def GET(request: 'NotImported'): return shown('ok')",
        "async def GET(request, clock: Callable[[], float] = lambda: 0.0): return shown('ok')",
        "async def GET(request, limit=7): return shown('ok')",
        "async def GET(request, params: dict[str, str]): return shown('ok')",
        "async def GET(request, params: dict[str, str | list[str]]): return shown('ok')",
        "async def _get(request, suffix: str = ''): return shown(suffix)\nGET = functools.partial(_get, suffix='ok')",
    ],
)
def test_what_is_no_concern_of_types_is_left_alone(tmp_path: Path, handler: str):
    assert client_of(tmp_path, {"x/route.py": IMPORTS + handler + "\n"}).get("/x").json() == "ok"


def test_a_tree_without_types_never_imports_pydantic(tmp_path: Path):
    source = "async def GET(request, params: dict[str, str], query): ...\nasync def POST(request, body): ...\n"
    root = write_tree(tmp_path / "routes", {"x/[id]/route.py": source})
    program = f"import sys; from loader import load_routes; load_routes(__import__('pathlib').Path({str(root)!r})); "
    loaded = subprocess.run(
        [sys.executable, "-c", program + "print('pydantic' in sys.modules)"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout == "False\n"
