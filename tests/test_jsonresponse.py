"""JSONResponse answers what Starlette's does, to the byte."""

import json.encoder
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette import responses
from starlette.background import BackgroundTask

import jsonresponse
from jsonresponse import JSONResponse

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner))
HEADERS = st.none() | st.sampled_from([{}, {"X-A": "b"}, {"Content-Type": "text/x"}, {"content-length": "7"}])


def shown(response: responses.Response) -> tuple[Any, ...]:
    return response.status_code, response.body, response.raw_headers, response.media_type, response.background


@given(VALUES, st.sampled_from([100, 200, 201, 204, 304, 404, 500]), HEADERS, st.sampled_from([None, "a/b", "text/b"]))
def test_every_answer_is_starlettes_own(
    content: Any, status: int, headers: dict[str, str] | None, media_type: str | None
):
    task = BackgroundTask(print)
    wanted = responses.JSONResponse(content, status, headers, media_type, task)
    assert shown(JSONResponse(content, status, headers, media_type, task)) == shown(wanted)


@given(VALUES)
def test_what_stays_in_ascii_is_written_as_json_dumps_writes_it(content: Any):
    assert jsonresponse.encode_with(json.JSONEncoder())(content) == json.dumps(content)


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("content", [float("nan"), float("inf"), {1, 2}, {(1, 2): 3}, b"bytes", "\ud800", CIRCLE])
def test_what_json_does_not_have_is_refused_as_starlette_refuses_it(content: Any):
    with pytest.raises((TypeError, ValueError)) as wanted:
        responses.JSONResponse(content)
    with pytest.raises(wanted.type) as found:
        JSONResponse(content)
    assert str(found.value) == str(wanted.value)


@pytest.mark.parametrize("maker", [None, lambda: None], ids=["PyPy has none", "it wants other arguments"])
def test_a_python_without_that_encoder_in_c_writes_the_same(monkeypatch: pytest.MonkeyPatch, maker: Any):
    with monkeypatch.context() as patch:
        patch.setattr(json.encoder, "c_make_encoder", maker)
        encode = jsonresponse.encode_with(jsonresponse.ENCODER)
    assert encode == jsonresponse.ENCODER.encode != jsonresponse.encode
    for value in ({"a": [1, 2.5, None, True, "ü\n"]}, "text", 10**30, 1e16):
        assert encode(value) == jsonresponse.encode(value)


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
