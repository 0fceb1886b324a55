"""Tokens that npm's jose signs, as most sign-ins in TypeScript do, and the code of docs/access.md that signs them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from config import HERE
from tests.servers import serving, wait_until
from tests.test_typescript import SOURCES, needs_node, run
from tests.tokens import AUDIENCE, ISSUER, JWT_SECRET

ServeTree = Callable[..., str]

TREE = {
    "me/route.py": """
from auth import requires, visitor, who_asks
from jsonresponse import JSONResponse

@requires(visitor)
async def GET(request):
    return JSONResponse(who_asks(request).owner)
"""
}

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A folder with the packages, for files of a test's own."""
    needs_node()
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "node_modules").symlink_to(SOURCES / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def who(url: str, token: str) -> httpx.Response:
    return httpx.get(f"{url}/me", headers={"Authorization": f"Bearer {token}"}, trust_env=False)


def test_a_token_of_jose_is_let_in_by_its_secret_or_its_key_alone(serve_tree: ServeTree, node: Path):
    shutil.copy(SOURCES / "signs.mjs", node)
    claims = json.dumps({"sub": "auth0|żółw", "aud": [AUDIENCE], "iss": ISSUER})
    done = run(node, "node", "signs.mjs", JWT_SECRET, claims)
    assert done.returncode == 0, done.stderr
    signed: dict[str, Any] = json.loads(done.stdout)
    asked: list[str] = []

    async def keys(request: Request) -> JSONResponse:
        asked.append(request.url.path)
        return JSONResponse({"keys": signed["keys"]})

    expected: dict[str, Any] = {"auth_audience": AUDIENCE, "auth_issuer": ISSUER}
    with serving(Starlette(routes=[Route("/jwks.json", keys)]), lifespan="off") as provider:
        by_keys = serve_tree(TREE, auth_jwks_url=f"{provider}/jwks.json", **expected)
        wait_until(lambda: asked)
        by_secret = serve_tree(TREE, auth_jwt_secret=JWT_SECRET, **expected)
        for alg, token in signed["tokens"].items():
            right, wrong = (by_secret, by_keys) if alg == "HS256" else (by_keys, by_secret)
            assert (alg, who(right, token).json()) == (alg, "auth0|żółw")
            assert (alg, who(wrong, token).status_code) == (alg, 401)
            broken = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
            assert (alg, who(right, broken).status_code) == (alg, 401)
    assert set(signed["tokens"]) == {"HS256", "RS256", "ES256", "EdDSA"}


AUTH = "export const auth = async () => (globalThis.session ?? null)\n"
TYPES = "export function auth(): Promise<{ user?: { id?: string, name?: string | null } } | null>\n"
NODE = "declare const process: { env: Record<string, string | undefined> }\n"
CALL = """
import { GET } from './route.js'
const stranger = (await GET()).status
globalThis.session = { user: { id: 'alice' } }
console.log(JSON.stringify([stranger, (await (await GET()).json()).token]))
"""


def test_the_route_of_the_docs_compiles_and_what_it_signs_is_let_in(serve_tree: ServeTree, node: Path):
    text = (HERE / "docs" / "access.md").read_text()
    [source] = re.findall(r"```ts\n// app/api/chat-token/route\.ts\n(.+?)```", text, re.DOTALL)
    (node / "built").mkdir()
    for name, words in {
        "route.ts": source.replace("'@/auth'", "'./auth.js'"),
        "built/auth.js": AUTH,
        "auth.d.ts": TYPES,
        "node.d.ts": NODE,
        "built/call.js": CALL,
        "tsconfig.json": (SOURCES / "tsconfig.json").read_text(),
    }.items():
        (node / name).write_text(words)
    built = run(node, "tsc")
    assert built.returncode == 0, built.stdout
    done = run(node, "node", "built/call.js", env={"AUTH_JWT_SECRET": JWT_SECRET})
    assert done.returncode == 0, done.stderr
    stranger, token = json.loads(done.stdout)
    assert stranger == 401
    url = serve_tree(TREE, auth_jwt_secret=JWT_SECRET, auth_audience="chat")  # as the docs set it
    assert who(url, token).json() == "alice"
