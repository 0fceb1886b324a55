"""The OpenAPI document: what a tree says about itself is what it does, and in the words of the specification."""

import json
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from loader import load_routes
from openapi import document
from tests.servers import write_tree

IMPORTS = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Annotated, Literal
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from auth import operator, requires, service
from jsonresponse import JSONResponse
from sse import EventStream
from typed import AnyContentType

class Author(BaseModel):
    name: str = Field(min_length=1, description="As it is shown.")

class Post(BaseModel):
    id: int
    author: Author
    replies: list[Post] = []

@dataclass
class NewPost:
    title: Annotated[str, Field(min_length=1, max_length=200)]
    tags: list[str] = field(default_factory=list)

@dataclass
class Page:
    order: Literal["newest", "oldest"]
    limit: Annotated[int, Field(ge=1, le=100, description="How many.")] = 20
    tag: list[str] = field(default_factory=list)
    after: int | None = None

@dataclass
class Params:
    id: int

@dataclass
class Frame:
    text: str
"""


def described(tmp_path: Path, files: dict[str, str]) -> dict[str, Any]:
    """Load a tree, and return its document: a valid one, whatever the tree."""
    routes = load_routes(write_tree(tmp_path / "routes", {name: IMPORTS + source for name, source in files.items()}))
    found = document(routes, title="tests", version="1")
    OpenAPIV31SpecValidator(found).validate()
    return json.loads(json.dumps(found))


def operation(tmp_path: Path, handler: str, folder: str = "x/[id]") -> dict[str, Any]:
    """The one operation of a tree with one handler."""
    [path] = described(tmp_path, {f"{folder}/route.py": handler})["paths"].values()
    [found] = path.values()
    return found


def test_a_body_a_query_and_parameters_are_described_by_their_types(tmp_path: Path):
    handler = "async def POST(request, params: Params, query: Page, body: NewPost) -> JSONResponse[Post]: ..."
    found = described(tmp_path, {"posts/[id]/route.py": handler})
    post = found["paths"]["/posts/{id}"]["post"]
    limit = {"type": "integer", "minimum": 1, "maximum": 100, "default": 20, "description": "How many."}
    assert post["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
        {"name": "order", "in": "query", "required": True, "schema": {"type": "string", "enum": ["newest", "oldest"]}},
        {"name": "limit", "in": "query", "required": False, "schema": limit, "description": "How many."},
        {"name": "tag", "in": "query", "required": False, "schema": {"type": "array", "items": {"type": "string"}}},
        {"name": "after", "in": "query", "required": False, "schema": {"type": "integer"}},
    ]
    sent = {"schema": {"$ref": "#/components/schemas/NewPost"}}
    assert post["requestBody"] == {"required": True, "content": {"application/json": sent}}
    answer = {"schema": {"$ref": "#/components/schemas/Post"}}
    assert post["responses"]["2XX"] == {"description": "The answer", "content": {"application/json": answer}}
    assert list(found["components"]["schemas"]) == ["Author", "NewPost", "Post", "Problem"]  # what is referred to
    assert found["components"]["schemas"]["NewPost"]["properties"]["title"] == {
        "type": "string",
        "minLength": 1,
        "maxLength": 200,
    }


def test_a_body_that_is_described_and_may_be_anything_has_its_words_and_no_415(tmp_path: Path):
    sent = 'Annotated[Any, Field(description="A pet.", examples=[{"name": "Tom"}])]'
    found = operation(tmp_path, f"from typing import Any\nasync def POST(request, body: {sent}) -> Response: ...")
    schema = found["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"description": "A pet.", "examples": [{"name": "Tom"}]}
    assert "415" not in found["responses"]


@pytest.mark.parametrize(
    ("handler", "statuses"),
    [
        ("async def GET(request): ...", ""),
        ("async def POST(request): ...", "413"),
        ("async def POST(request, body: NewPost): ...", "400 413 415"),
        ("async def POST(request, body: Annotated[NewPost, AnyContentType]): ...", "400 413"),
        ("async def POST(request, body): ...", "400 413"),
        ("async def GET(request, query: Page): ...", "400"),
        ("@requires(service)\nasync def GET(request): ...", "401"),
    ],
)
def test_an_error_is_listed_where_it_can_happen(tmp_path: Path, handler: str, statuses: str):
    found = operation(tmp_path, handler, "x")["responses"]
    assert list(found) == ["2XX", *statuses.split(), "4XX", "500", "5XX"]
    assert set(operation(tmp_path / "two", handler, "x/[id]")["responses"]) == {*found, "400", "404"}


@pytest.mark.parametrize(
    ("returned", "responses"),
    [
        ("JSONResponse[list[Post]]", {"2XX": "application/json array"}),
        ("Annotated[JSONResponse[Post], 201]", {"201": "application/json Post"}),
        ("JSONResponse", {"2XX": "application/json"}),
        ("Annotated[JSONResponse[Post], 201] | RedirectResponse", {"201": "application/json Post", "3XX": ""}),
        (
            "Annotated[JSONResponse[Post], 200] | Annotated[PlainTextResponse, 200]",
            {"200": "application/json Post, text/plain string"},
        ),
        ("JSONResponse[Post] | JSONResponse[Author]", {"2XX": "application/json Post|Author"}),
        ("HTMLResponse", {"2XX": "text/html string"}),
        ("StreamingResponse", {"2XX": "*/*"}),
        ("Response", {"2XX": "*/*"}),
        ("Annotated[Response, 204]", {"204": ""}),
        ("EventStream[Frame]", {"2XX": "text/event-stream Frame"}),
        ("NotImported", {"2XX": "*/*"}),
    ],
)
def test_an_answer_is_described_by_its_annotation(tmp_path: Path, returned: str, responses: dict[str, str]):
    found = operation(tmp_path, f"async def GET(request) -> {returned}: ...", "x")["responses"]

    def word(schema: dict[str, Any]) -> str:
        if "anyOf" in schema:
            return "|".join(map(word, schema["anyOf"]))
        return schema.get("$ref", schema.get("type", "")).rpartition("/")[2]

    shown = {
        status: ", ".join(
            f"{kind} {word(entry['schema'])}".strip() for kind, entry in found[status].get("content", {}).items()
        )
        for status in found
        if "$ref" not in found[status]
    }
    assert shown == responses


def test_the_frames_of_a_stream_are_described(tmp_path: Path):
    found = operation(tmp_path, "async def GET(request) -> EventStream[Frame]: ...", "x")["responses"]["2XX"]
    assert found["description"].startswith("Server-sent events: the data of each is JSON of this schema")


def test_a_docstring_is_the_summary_and_the_description(tmp_path: Path):
    found = operation(tmp_path, 'def GET(request):\n    """List them.\n\n    All of them.\n    """', "x")
    assert (found["summary"], found["description"]) == ("List them.", "All of them.")


SECURITY: list[tuple[str, list[dict[str, list[str]]] | None]] = [
    ("@requires(service)", [{"service": []}]),
    ("@requires(service, operator)", [{"service": []}, {"operator": []}, {"cron": []}]),
    ("@requires(operator)\n@requires(service)", [{"service": [], "operator": []}, {"service": [], "cron": []}]),
    ("def mine(request): ...\n@requires(mine)", [{"mine": []}]),
    ("", None),
]


@pytest.mark.parametrize(("requires", "security"), SECURITY)
def test_security_is_what_the_checks_ask_for(
    tmp_path: Path, requires: str, security: list[dict[str, list[str]]] | None
):
    found = described(tmp_path, {"x/route.py": f"{requires}\ndef GET(request): ...\n"})
    assert found["paths"]["/x"]["get"].get("security") == security
    schemes = found["components"].get("securitySchemes", {})
    assert set(schemes) == {name for entry in security or [] for name in entry}
    if "cron" in schemes:
        assert schemes["cron"] | {"description": ""} == {
            "type": "apiKey",
            "in": "header",
            "name": "X-Cron-Secret",
            "description": "",
        }


def test_paths_are_written_as_the_specification_writes_them(tmp_path: Path):
    handler = "def GET(request): ...\ndef HEAD(request): ...\ndef OPTIONS(request): ...\ndef PUT(request): ...\n"
    folders = [
        "",
        "(site)/about",
        "users/[id]",
        "users/[...rest]",
        "docs/[...slug]",
        "shop/[[...parts]]",
        "%7Bx%7D/ü",
        "v1.0",
    ]
    found = described(tmp_path, {f"{folder}/route.py".removeprefix("/"): handler for folder in folders})
    assert set(found["paths"]) == {
        "/", "/about", "/users/{id}", "/docs/{slug}", "/shop", "/shop/{parts}", "/%7Bx%7D/%C3%BC", "/v1.0"
    }  # fmt: skip
    assert all(list(path) == ["get", "head", "put"] for path in found["paths"].values())
    [slug] = found["paths"]["/docs/{slug}"]["get"]["parameters"]
    assert (slug["x-catch-all"], slug["schema"]["type"]) == ("[...slug]", "array")
    ids = [verb["operationId"] for path in found["paths"].values() for verb in path.values()]
    assert len(set(ids)) == len(ids)
    assert {"getUsersById", "putShopByParts", "get"} <= set(ids)


def test_what_has_no_schema_is_said_in_the_log_and_left_open(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    handler = "class Odd: ...\nasync def GET(request) -> JSONResponse[Odd]: ..."
    found = operation(tmp_path, handler, "x")
    assert found["responses"]["2XX"]["content"] == {"application/json": {"schema": {}}}
    assert "routes/x/route.py: GET answers with Odd, which has no schema" in caplog.text
