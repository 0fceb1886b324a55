"""The bench measures what it says it does: every app of it that is installed here answers rightly."""

from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from bench import layers, rows
from bench.machine import Unfit
from bench.routing import APPS, check, questions
from tests.servers import serving

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size", [2, 200])
@pytest.mark.parametrize("name", ["bare", "starlette", "ours", "ours/starlette-json"])
def test_every_app_answers_what_it_is_asked(name: str, size: int, tmp_path: Path):
    with serving(APPS[name](size, tmp_path), lifespan="auto") as url:
        check(port_of(url), size)


@pytest.mark.parametrize("name", ["bare", "starlette", "ours"])
def test_every_app_gives_the_rows(name: str, tmp_path: Path):
    with serving(rows.APPS[name](tmp_path), lifespan="auto") as url:
        rows.check(port_of(url))


def test_each_layer_more_gives_the_same_answer(tmp_path: Path):
    stacks = layers.stacks(tmp_path)
    assert list(stacks)[-2:] == ["+ Prefix", "the whole app"]
    for app in stacks.values():
        with serving(app, lifespan="off", interface="asgi3") as url:
            check(port_of(url), 2)


def test_an_app_that_answers_wrongly_is_not_measured():
    with (
        serving(JSONResponse({"id": "always the same"}), lifespan="off") as url,
        pytest.raises(Unfit, match=r"/api/group0/item0 is answered 200 application/json"),
    ):
        check(port_of(url), 2)


def test_half_of_the_routes_are_static_and_half_have_a_parameter():
    asked = {kind: [question.path for question in questions(200, kind)] for kind in ("static", "dynamic")}
    assert (asked["static"][-1], asked["dynamic"][-1]) == ("/api/group1/item49", "/api/group1/thing49/99")
    assert len({*asked["static"], *asked["dynamic"]}) == 200


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
