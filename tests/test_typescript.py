"""The TypeScript client that is generated from openapi.json: the compiler knows the types, and the app answers it."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from config import HERE
from loader import load_routes
from openapi import document
from tests.servers import write_tree

SOURCES = HERE / "tests" / "typescript"
POSTS = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from jsonresponse import JSONResponse
from sse import EventStream

class Author(BaseModel):
    name: str

class NewPost(BaseModel):
    title: Annotated[str, Field(min_length=1)]
    author: Author
    kind: Literal["draft", "public"] = "draft"

class Post(NewPost):
    id: int

@dataclass
class Page:
    limit: int = 20
    tag: list[str] = field(default_factory=list)

@dataclass
class Params:
    id: int

@dataclass
class Tick:
    n: int

POSTS = [Post(id=1, title="First", author=Author(name="Ada"))]

def sent(post: Post) -> Any:
    return post.model_dump(mode="json")
"""
TREE = {
    "posts/route.py": POSTS
    + """
async def GET(request, query: Page) -> Annotated[JSONResponse[list[Post]], 200]:
    return JSONResponse([sent(post) for post in POSTS[: query.limit]])

async def POST(request, body: NewPost) -> Annotated[JSONResponse[Post], 201]:
    return JSONResponse(sent(Post(id=2, **body.model_dump())), 201)
""",
    "posts/[id]/route.py": POSTS
    + """
async def GET(request, params: Params) -> JSONResponse[Post]:
    for post in POSTS:
        if post.id == params.id or params.id == 2:
            return JSONResponse(sent(post))
    raise HTTPException(404)
""",
    "ticks/route.py": POSTS
    + """
async def GET(request) -> EventStream[Tick]:
    async def write(emit):
        await emit({"n": 1})
    return EventStream(write)
""",
}

pytestmark = pytest.mark.slow


def needs_node() -> None:
    """Skip where there is no Node with the packages of package.json; where CI is set, that is a failure."""
    packages = json.loads((SOURCES / "package.json").read_text())["devDependencies"]
    if not shutil.which("node") or not all((SOURCES / "node_modules" / name).is_dir() for name in packages):
        reason = "needs Node, and: npm install --no-package-lock --prefix tests/typescript"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)


@pytest.fixture
def typescript(tmp_path: Path) -> Path:
    """A folder with the client of the tree, as docs/typed.md generates it, and what uses it."""
    needs_node()
    folder = tmp_path / "client"
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(SOURCES / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    found = document(load_routes(write_tree(tmp_path / "tree", TREE)), title="tests", version="1")
    (folder / "openapi.json").write_text(json.dumps(found))
    done = run(folder, "openapi-typescript", "openapi.json", "--default-non-nullable=false", "-o", "api.ts")
    assert done.returncode == 0, done.stderr
    return folder


def run(
    folder: Path, command: str, *arguments: str, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    program = [str(folder / "node_modules" / ".bin" / command)] if command != "node" else ["node"]
    environ = {**os.environ, **(env or {})}
    return subprocess.run([*program, *arguments], cwd=folder, env=environ, capture_output=True, text=True, timeout=120)


def test_the_compiler_refuses_each_wrong_call_and_no_other(typescript: Path):
    checked = run(typescript, "tsc", "--noEmit")
    refused = {int(line) for line in re.findall(r"^wrong\.ts\((\d+),", checked.stdout, re.MULTILINE)}
    lines = (typescript / "wrong.ts").read_text().splitlines()
    assert refused == {number for number, line in enumerate(lines, 1) if " // " in line}
    assert "right.ts" not in checked.stdout, checked.stdout


def test_the_generated_client_drives_the_running_app(typescript: Path, serve_tree: Callable[..., str]):
    (typescript / "wrong.ts").unlink()
    built = run(typescript, "tsc")
    assert built.returncode == 0, built.stdout
    done = run(typescript, "node", "built/right.js", serve_tree(TREE))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "id": 2,
        "titles": ["First"],
        "kind": "draft",
        "lost": [404, {"error": "Not Found"}],
        "fields": ["title must be a non-empty string"],
        "ticks": 'data: {"n": 1}\n\ndata: [DONE]\n\n',
    }
