"""JSONResponse writes what a Next.js user expects of `Response.json`, and what JSON does not have is refused."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette import responses
from starlette.background import BackgroundTask

from jsonresponse import JSONResponse

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner))
HEADERS = st.none() | st.sampled_from([{}, {"X-A": "b"}, {"Content-Type": "text/x"}, {"content-length": "7"}])


@given(VALUES)
def test_what_json_has_is_read_again_as_it_was(content: Any):
    assert json.loads(bytes(JSONResponse(content).body)) == json.loads(bytes(responses.JSONResponse(content).body))


@given(st.sampled_from([100, 200, 201, 204, 304, 404, 500]), HEADERS, st.sampled_from([None, "a/b", "text/b"]))
def test_status_headers_and_background_are_starlettes(
    status: int, headers: dict[str, str] | None, media_type: str | None
):
    task = BackgroundTask(print)
    wanted = responses.JSONResponse({"a": [1]}, status, headers, media_type, task)
    found = JSONResponse({"a": [1]}, status, headers, media_type, task)
    assert (found.status_code, found.body, found.raw_headers) == (status, wanted.body, wanted.raw_headers)
    assert (found.media_type, found.background) == (wanted.media_type, task)


@dataclass
class Point:
    x: int
    at: date


class Post(BaseModel):
    title: str
    price: Decimal


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (float("nan"), "null"),
        (float("-inf"), "null"),
        (date(2026, 1, 2), '"2026-01-02"'),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05Z"'),
        (time(3, 4), '"03:04:00"'),
        (UUID(int=7), '"00000000-0000-0000-0000-000000000007"'),
        (Decimal("1.10"), '"1.10"'),
        (Point(1, date(2026, 1, 2)), '{"x":1,"at":"2026-01-02"}'),
        (Post(title="a", price=Decimal("1.10")), '{"title":"a","price":"1.10"}'),
        (Colour.RED, '"red"'),
        (Pair(1, 2), "[1,2]"),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        ({1: 2}, '{"1":2}'),
        (12345678901234567890123, "12345678901234567890123"),
        ([2**70, date(2026, 1, 2), Point(1, date(2026, 1, 2))], f'[{2**70},"2026-01-02",{{"x":1,"at":"2026-01-02"}}]'),
        ("ü\u2028", '"ü\u2028"'),
    ],
    ids=repr,
)
def test_other_values_are_written_as_a_next_js_user_expects(value: Any, written: str):
    assert bytes(JSONResponse({"a": value}).body).decode() == f'{{"a":{written}}}'


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("content", [{1, 2}, {(1, 2): 3}, b"bytes", "\ud800", CIRCLE, object()], ids=repr)
def test_what_json_does_not_have_is_refused(content: Any):
    with pytest.raises(TypeError):
        JSONResponse(content)


def test_a_subclass_keeps_its_media_type_and_its_way_of_writing():
    class Problem(JSONResponse):
        media_type = "application/problem+json"

    class Indented(JSONResponse):
        def render(self, content: Any) -> bytes:
            return b"[ ]"

    assert Problem({}).headers["content-type"] == "application/problem+json"
    assert Indented([]).body == b"[ ]"


def test_two_answers_do_not_share_their_headers():
    first, second = JSONResponse(1), JSONResponse(1)
    first.headers["x-a"] = "b"
    assert "x-a" not in second.headers
