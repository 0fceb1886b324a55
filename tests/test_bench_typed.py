"""The bench of typed bodies measures what it says: each way refuses the same bodies, hostile ones above all."""

import json

import pytest
from starlette.testclient import TestClient

from bench.typed import HOSTILE, SENT, TREE, bare, ours

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    return TestClient(ours(tmp_path_factory.mktemp("bench")))


@pytest.mark.parametrize("name", TREE)
def test_every_way_takes_the_body_that_is_sent(client: TestClient, name: str):
    assert client.post(f"/{name}", json=SENT).text == "A title"


def test_the_bare_callable_answers_as_they_do():
    with TestClient(bare) as client:
        assert client.post("/typed", json=SENT).text == "A title"


@pytest.mark.parametrize("name", [name for name in TREE if name != "json"])
@pytest.mark.parametrize(
    "change", [{"title": ""}, {"title": None}, {"text": 7}, {"tags": [7]}, {"stars": 6}, {"stars": True}, {"draft": 1}]
)
def test_every_way_but_the_bare_one_refuses_the_same(client: TestClient, name: str, change: dict[str, object]):
    answer = client.post(f"/{name}", content=json.dumps(SENT | change), headers=JSON)
    assert answer.status_code == 400
    assert [entry["field"].partition(".")[0] for entry in answer.json()["details"]] == list(change)


@pytest.mark.parametrize("name", [name for name in TREE if name != "json"])
def test_every_way_but_the_bare_one_refuses_another_content_type(client: TestClient, name: str):
    assert client.post(f"/{name}", content=json.dumps(SENT), headers={"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("size", [1_000, 300_000])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_and_its_answer_is_short(client: TestClient, name: str, size: int):
    answer = client.post("/typed", content=HOSTILE[name](size), headers=JSON)
    assert answer.status_code == 400
    assert len(answer.content) < 10_000
