"""Whatever a type is and whatever is sent, a typed handler answers 200, 400, 404 or 415, and its document is valid."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.requests import Request
from starlette.testclient import TestClient

from bench.typed import HOSTILE, MODEL
from errors import BadRequest
from loader import load_routes
from openapi import document
from tests.test_router import client_of
from typed import EMPTY, Taken
from typed.inputs import Body

IMPORTS = """
from __future__ import annotations
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID
from pydantic import AnyUrl, BaseModel, Field, Json, JsonValue, RootModel, SecretStr, TypeAdapter
from typing_extensions import TypedDict
from jsonresponse import JSONResponse

class Colour(Enum):
    red = "red"
    one = 1

class Size(IntEnum):
    small = 1
    large = 2

class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9

class Dog(BaseModel):
    kind: Literal["dog"]
    friend: Pet | None = None

Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
Dog.model_rebuild()

class Tree(BaseModel):
    value: int = 0
    children: list[Tree] = []
    left: Tree | dict[str, Tree] | None = None

class Pair(NamedTuple):
    a: int
    b: str

class Anything(RootModel[JsonValue]): ...

def shown(value):
    return JSONResponse(TypeAdapter(Any).dump_python(value, mode="json"))
"""
LISTS = [  # what the segments of a path cannot be
    "set[int]", "frozenset[Decimal]", "set[datetime]", "list[int | None]", "tuple[int, str]", "tuple[int, ...]", "Pair",
    "list[Pet | int]",
]  # fmt: skip
TYPES = [
    *LISTS, "dict[int, str]", "dict[UUID, int]", "dict[Colour, int]", "dict[str, dict[int, set[int]]]", "Decimal",
    "Annotated[Decimal, Field(max_digits=5, decimal_places=2)]", "datetime", "date", "time", "timedelta", "UUID",
    "Colour", "Size", "(int | None) | None", "Tree", "Pet", "Pet | Tree", "IPv4Address", "Json[list[int]]", "SecretStr",
    "AnyUrl", "JsonValue", "Anything", 'Literal["a", 1, None, True]', "Annotated[str, Field(pattern='^(a+)+$')]",
    "Annotated[int, Field(multiple_of=3)]", "Annotated[float, Field(gt=0)]", "bool | int | float | str",
    "Annotated[bytes, Field(max_length=3)]",
]  # fmt: skip
BODY = "async def POST(request, body: {}): return shown(body)\n"
HELD = "@dataclass\nclass Held:\n    v: {}\n"
QUERY = HELD + "async def GET(request, query: Held): return shown(query.v)\n"
PARAMS = HELD + "async def GET(request, params: Held): return shown(params.v)\n"

ODD: list[Any] = [
    None, True, 0, -1, 1.5, -0.0, 2**63, 2**64, 10**400, 1e308, 253402300800, "", "1", "01", " 1", "1_0", "NaN", "-inf",
    "1e999", "1" * 5000, "2026-11-26", "2026-11-26T08:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59",
    "P999999999999D", "08:00:00", "red", "12345678-1234-5678-1234-567812345678", "127.0.0.1", "[1,2]", "http://[", "\0",
    "a" * 40 + "!", "é\u2028😀", [], [1, 1], [1, 1.0, True], ["1", "01"], [[]], {}, {"1": "a", "01": "b", " 1": "c"},
    {"nan": 1}, {"red": 1}, {"kind": "cat"}, {"kind": "cow"}, {"kind": {}}, {"kind": "dog", "friend": {"kind": "dog"}},
    {"value": 1, "children": [{"value": "x"}], "left": {}}, {"a": 1, "b": "c"}, {"a": {"1": [1, 1]}}, {"__class__": 1},
]  # fmt: skip
LEAVES: st.SearchStrategy[Any] = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=20)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["1", "01", "kind", "v"]), inner)


SENT = LEAVES | st.recursive(LEAVES, nested, max_leaves=8)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, Path]:
    files: dict[str, str] = {}
    for number, kind in enumerate(TYPES):
        files[f"body/{number}/route.py"] = IMPORTS + BODY.format(kind)
        files[f"query/{number}/route.py"] = IMPORTS + QUERY.format(kind)
        if kind not in LISTS:
            files[f"params/{number}/[v]/route.py"] = IMPORTS + PARAMS.format(kind)
    folder = tmp_path_factory.mktemp("fuzz")
    return client_of(folder, files), folder / "routes"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(TYPES)), ids=TYPES)
def test_whatever_is_sent_is_answered(tree: tuple[TestClient, Path], number: int):
    client, _ = tree
    headers = {"content-type": "application/json"}

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(SENT)
    def send(value: Any) -> None:
        answer = client.post(f"/body/{number}", content=json.dumps(value), headers=headers)
        assert answer.status_code in (200, 400), (value, answer.text)
        text = value if isinstance(value, str) else json.dumps(value)
        text = text.encode("utf-8", "replace").decode()
        for query in (f"v={quote(text)}", f"v={quote(text)}&v=1"):
            answer = client.get(f"/query/{number}?{query}")
            assert answer.status_code in (200, 400), (value, answer.text)
        if text and TYPES[number] not in LISTS:
            answer = client.get(f"/params/{number}/{quote(text, safe='')}")
            assert answer.status_code in (200, 404), (value, answer.text)

    send()


@pytest.mark.slow
def test_the_document_of_all_these_types_is_valid(tree: tuple[TestClient, Path]):
    found = document(load_routes(tree[1]), title="fuzz", version="1")
    OpenAPIV31SpecValidator(found).validate()
    assert json.loads(json.dumps(found, allow_nan=False))["paths"].keys() >= {f"/body/{n}" for n in range(len(TYPES))}


def opcodes_of(body: Body, data: bytes) -> int:
    """How many steps of Python it takes to check a body; what pydantic does in them, bench.typed times."""
    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]})
    count = 0

    def step(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        with suppress(BadRequest):
            body.check(request, data)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("kind", ["New", "Any"])
@pytest.mark.parametrize("name", HOSTILE)
def test_the_steps_to_check_a_hostile_body_grow_no_faster_than_it(name: str, kind: str):
    found: dict[str, Any] = {"Any": Any}
    exec(MODEL, found)  # noqa: S102 - the text of the bench
    body = Body(Taken("body", found[kind], EMPTY, False))
    opcodes_of(body, HOSTILE[name](1_000))  # what is done once
    small, large = (opcodes_of(body, HOSTILE[name](size)) for size in (2_000, 16_000))
    assert large <= 8 * small * 1.2 + 1_000
