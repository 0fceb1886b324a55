"""The schema of docs/porting.md and its port say the same of each input: zod itself is asked where there is Node."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import create_app
from config import Config
from tests.servers import write_tree
from tests.test_docs import PORTING, blocks_of, files_of
from tests.test_typescript import SOURCES, needs_node

FILE = "routes/api/asks/route.py"
TEXT = {"type": "text", "text": "Hi"}
IMAGE = {"type": "image", "media": "image/png", "url": "https://example.com/a.png"}
GOOD: Mapping[str, Any] = {"id": "abcdefgh", "message": {"role": "user", "parts": [TEXT]}}


def ask(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}


def parts(*found: Any) -> dict[str, Any]:
    return ask(message={"role": "user", "parts": list(found)})


# Each input, and the fields that are refused: none of a good one, and "" where the whole is.
VERDICTS: list[tuple[Any, list[str]]] = [
    (ask(), []),
    (parts(TEXT, IMAGE), []),
    (ask(model="fast", temperature=0.5, limit=3, tags=["a", " b "], until="2026-11-26", unknown=1), []),
    (ask(temperature=2, limit="none", tags=[], until=None), []),
    (ask(**{"from": "2026-11-25"}, until="2026-11-25"), []),
    (ask(**{"from": "2026-11-26"}, until="2026-11-25"), [""]),
    (ask(id=...), ["id"]),
    (ask(id="short"), ["id"]),
    (ask(id="abcdefgh\n"), ["id"]),
    (ask(id=12345678), ["id"]),
    (ask(message=...), ["message"]),
    (ask(message="Hi"), ["message"]),
    (ask(message={"role": "system", "parts": [TEXT]}), ["message.role"]),
    (ask(message={"parts": []}), ["message.parts", "message.role"]),
    (parts(), ["message.parts"]),
    (parts(*[TEXT] * 10), []),
    (parts(*[TEXT] * 11), ["message.parts"]),
    (parts({"type": "text", "text": ""}), ["message.parts.0.text"]),
    (parts({"type": "text", "text": "a" * 2000}), []),
    (parts(TEXT, {"type": "text", "text": "a" * 2001}), ["message.parts.1.text"]),
    (parts({"type": "video"}), ["message.parts.0.type"]),
    (parts({"text": "Hi"}), ["message.parts.0.type"]),
    (parts("Hi"), ["message.parts.0"]),
    (parts({**IMAGE, "media": "image/gif"}), ["message.parts.0.media"]),
    (parts({**IMAGE, "url": "http://example.com"}), ["message.parts.0.url"]),
    (ask(model="best"), ["model"]),
    (ask(model=None), ["model"]),
    (ask(temperature=-0.1), ["temperature"]),
    (ask(temperature=2.1), ["temperature"]),
    (ask(temperature="1"), ["temperature"]),
    (ask(temperature=True), ["temperature"]),
    (ask(limit=0), ["limit"]),
    (ask(limit=1.5), ["limit"]),
    (ask(limit="all"), ["limit"]),
    (ask(limit="3"), ["limit"]),
    (ask(tags="a"), ["tags"]),
    (ask(tags=["a", "  "]), ["tags.1"]),
    (ask(tags=["a" * 21, 7]), ["tags.0", "tags.1"]),
    (ask(tags=[" " * 30 + "a" * 20]), []),
    (ask(until="2026-02-30"), ["until"]),
    (ask(until="26.11.2026"), ["until"]),
    (ask(until="2026-11-26T10:00:00Z"), ["until"]),
    (ask(until=20261126), ["until"]),
    ([], [""]),
    (None, [""]),
    ("ask", [""]),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    folder = tmp_path_factory.mktemp("asks")
    write_tree(folder, {FILE: files_of(PORTING)[FILE].replace("@requires(service)\n", "")})
    return TestClient(create_app(Config(routes_dir=folder / "routes")))


@pytest.mark.parametrize(("sent", "fields"), VERDICTS, ids=lambda value: json.dumps(value)[:60])
def test_the_port_gives_the_recorded_verdict(client: TestClient, sent: Any, fields: list[str]):
    answer = client.post("/api/asks", content=json.dumps(sent), headers={"content-type": "application/json"})
    assert answer.status_code == (400 if fields else 200)
    found = [entry["field"] for entry in answer.json()["details"]] if fields else []
    assert sorted(found) == sorted(field or "body" for field in fields)


SCRIPT = """
import { readFileSync } from 'node:fs'
import { Ask } from './ask.mjs'
const verdicts = JSON.parse(readFileSync('inputs.json', 'utf8')).map((input) => {
  const found = Ask.safeParse(input)
  return found.success ? [] : [...new Set(found.error.issues.map((issue) => issue.path.join('.')))].sort()
})
console.log(JSON.stringify(verdicts))
"""


@pytest.mark.slow
def test_zod_gives_the_recorded_verdicts(tmp_path: Path):
    needs_node()
    [schema] = [block for block in blocks_of(PORTING, "ts") if "from 'zod'" in block]
    (tmp_path / "node_modules").symlink_to(SOURCES / "node_modules")
    (tmp_path / "ask.mjs").write_text(schema)
    (tmp_path / "inputs.json").write_text(json.dumps([sent for sent, _ in VERDICTS]))
    (tmp_path / "verdicts.mjs").write_text(SCRIPT)
    done = subprocess.run(["node", "verdicts.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [sorted(fields) for _, fields in VERDICTS]
