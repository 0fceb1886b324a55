"""The rows of docs/porting.md that a team would try first, each done."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conftest import HEADERS
from tests.test_docs import PORTING, files_of

ROUTE = """from starlette.responses import JSONResponse, RedirectResponse

async def GET(request):
    if "to" not in request.query_params:
        return RedirectResponse("/x?to=here")
    return JSONResponse({"host": request.client.host})

async def POST(request):
    answer = await request.state["http"].get(str(request.url_for("/x")))
    return JSONResponse(answer.json())

async def DELETE():
    response = JSONResponse({})
    response.delete_cookie("a")
    return response
"""


def test_fetch_follows_redirects_a_cookie_is_deleted_and_the_client_has_an_address(serve_tree: Callable[..., str]):
    url = serve_tree({"x/route.py": ROUTE})
    assert httpx.post(f"{url}/x", trust_env=False).json() == {"host": "127.0.0.1"}
    assert 'a=""; ' in httpx.delete(f"{url}/x", trust_env=False).headers["set-cookie"]


def test_an_upload_is_a_file_and_one_that_is_too_large_leaves_none(
    serve_tree: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("UPLOADS_DIR", str(tmp_path / "uploads"))
    text = files_of(PORTING)["routes/uploads/route.py"].replace("50_000_000", "3_000_000")
    url = f"{serve_tree({'uploads/route.py': text})}/uploads"
    body = b"0123456789" * 200_000  # more than MAX_BODY_BYTES
    with httpx.Client(headers=HEADERS, trust_env=False) as client:
        id = client.post(url, content=body).json()["data"]["id"]
        assert (tmp_path / "uploads" / id).read_bytes() == body
        assert client.post(url, content=iter([body, body])).status_code == 413
    assert httpx.post(url, content=b"", trust_env=False).status_code == 401
    assert len(list((tmp_path / "uploads").iterdir())) == 1
