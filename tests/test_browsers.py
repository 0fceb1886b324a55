"""Browsers: what pages of other origins may read, what no cache keeps, and what no page frames."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from config import ConfigError, load_config
from tests.browser import browser as browser  # a fixture
from tests.conftest import HEADERS, SECRET
from tests.servers import serving

ORIGINS = ("https://app.example", "http://localhost:5173")
OURS = ORIGINS[0]
ServeTree = Callable[..., str]

TREE = {
    "x/route.py": (
        "from starlette.responses import PlainTextResponse, RedirectResponse\n\n"
        "def GET(): return PlainTextResponse('x', headers={'Vary': 'Accept'})\n\n"
        "async def POST(request): return PlainTextResponse(await request.body())\n\n"
        "def PUT(): return RedirectResponse('/y', 302)\n\n"
        "def DELETE(): raise RuntimeError('on purpose')\n"
    ),
    "stream/route.py": (
        "from sse import EventStream\n\nasync def GET():\n    async def write(emit): await emit({'a': 1})\n"
        "    return EventStream(write)\n"
    ),
    "private/[id]/route.py": (
        "from starlette.exceptions import HTTPException\nfrom starlette.responses import PlainTextResponse\n"
        "from auth import operator, requires\nfrom errors import BadRequest\n\n"
        "@requires(operator)\ndef GET(request):\n"
        "    id = request.path_params['id']\n"
        "    if id == 'none': raise HTTPException(404)\n"
        "    if id == 'bad': raise BadRequest(('id', 'is bad'))\n"
        "    headers = {'Cache-Control': 'max-age=5'} if id == 'kept' else None\n"
        "    return PlainTextResponse(id, headers=headers)\n"
    ),
    "cookie/route.py": (
        "from starlette.responses import PlainTextResponse\nfrom auth import from_own_pages\n\n"
        "@from_own_pages\ndef POST(): return PlainTextResponse('done')\n\n"
        "@from_own_pages\ndef GET(): return PlainTextResponse('read')\n"
    ),
    "../public/a.txt": "a",
    "../public/index.html": "<p>page</p>",
    "../public/other.html": "<p>other</p>",
}

ASKED: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "GET", "/x", {}),
    (200, "HEAD", "/x", {}),
    (302, "PUT", "/x", {}),
    (308, "GET", "/x/", {}),
    (400, "GET", "/%zz", {}),
    (401, "GET", "/private/a", {}),
    (404, "GET", "/nowhere", {}),
    (405, "PATCH", "/x", {}),
    (413, "POST", "/x", {"content": b"x" * 2000}),
    (413, "POST", "/x", {"content": iter([b"x" * 1500, b"x" * 1500])}),
    (500, "DELETE", "/x", {}),
    (204, "OPTIONS", "/x", {}),
    (200, "GET", "/a.txt", {}),
    (200, "GET", "/", {}),
    (200, "GET", "/stream", {}),
]


def call(url: str, method: str, path: str, headers: dict[str, str], **options: Any) -> httpx.Response:
    return httpx.request(method, f"{url}{path}", headers=headers, trust_env=False, timeout=20, **options)


def origins_in(response: httpx.Response) -> list[str]:
    return response.headers.get_list("access-control-allow-origin")


# CORS.


@pytest.mark.parametrize("case", range(len(ASKED)), ids=[f"{case[0]} {case[1]} {case[2]}" for case in ASKED])
def test_a_page_of_a_listed_origin_can_read_whatever_is_answered(serve_tree: ServeTree, case: int):
    status, method, path, options = ASKED[case]
    url = serve_tree(TREE, cors_origins=ORIGINS, max_body_bytes=1000)
    response = call(url, method, path, {"Origin": OURS}, **options)
    assert response.status_code == status
    assert origins_in(response) == [OURS]
    exposed = response.headers["access-control-expose-headers"]
    assert {name.strip() for name in exposed.split(",")} == {"X-Conversation-Id", "X-Request-Id", "Retry-After"}
    assert "Origin" in response.headers["vary"]
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers.get_list("x-request-id") != []


def test_a_304_can_be_read_too(serve_tree: ServeTree):
    url = serve_tree(TREE, cors_origins=ORIGINS)
    etag = call(url, "GET", "/a.txt", {}).headers["etag"]
    response = call(url, "GET", "/a.txt", {"Origin": ORIGINS[1], "If-None-Match": etag})
    assert (response.status_code, origins_in(response)) == (304, [ORIGINS[1]])


@pytest.mark.parametrize("path", ["/x", "/x/", "/nowhere", "/a.txt", "/private/a", "/%zz"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_a_preflight_allows_every_method_and_header(serve_tree: ServeTree, path: str, method: str):
    url = serve_tree(TREE, cors_origins=ORIGINS)
    names = "authorization,content-type,last-event-id,x-one-of-your-own"
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": names}
    response = call(url, "OPTIONS", path, {"Origin": OURS, **asked})
    assert response.is_success
    assert origins_in(response) == [OURS]
    assert method in re.split(", *", response.headers["access-control-allow-methods"])
    assert set(names.split(",")) <= set(re.split(", *", response.headers["access-control-allow-headers"].lower()))
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize(
    "origin",
    [
        *("https://app.example.evil.test", "http://app.example", "https://app.example:444", "https://APP.example"),
        *(
            "null",
            "",
            "https://app.example/",
            "https://xapp.example",
            "*",
            "https://app.example, http://localhost:5173",
        ),
    ],
)
def test_a_near_miss_is_no_origin(serve_tree: ServeTree, origin: str):
    url = serve_tree(TREE, cors_origins=ORIGINS)
    answers = [call(url, "GET", path, {"Origin": origin}) for path in ("/x", "/nowhere", "/private/a")]
    answers.append(call(url, "OPTIONS", "/x", {"Origin": origin, "Access-Control-Request-Method": "POST"}))
    for response in answers:
        assert origins_in(response) == []
        assert "Origin" in response.headers["vary"]
    assert not [name for name in answers[0].headers if name.startswith("access-control-")]
    assert answers[0].headers["vary"] == "Accept, Origin"


def test_a_star_is_every_origin_and_never_with_credentials(serve_tree: ServeTree):
    url = serve_tree(TREE, cors_origins=("*",))
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for response in (
        call(url, "GET", "/x", {"Origin": "https://any.example"}),
        call(url, "OPTIONS", "/x", {"Origin": "https://any.example", **asked}),
    ):
        assert response.is_success
        assert origins_in(response) == ["*"]
        assert "access-control-allow-credentials" not in response.headers


def test_unset_there_is_no_header_at_all(serve_tree: ServeTree):
    url = serve_tree(TREE)
    for method in ("GET", "OPTIONS"):
        response = call(url, method, "/x", {"Origin": OURS, "Access-Control-Request-Method": "GET"})
        assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "value",
    [
        *("app.example", "https://app.example/", "https://app.example/chat", "https://app.example:443", "http://x:80"),
        *(
            "https://*.example",
            "https://App.example",
            "*,https://app.example",
            "null",
            "https://a.example,,",
            "https://",
        ),
    ],
)
def test_an_origin_that_no_browser_sends_is_named(value: str, tmp_path: Any):
    with pytest.raises(ConfigError, match=r"^CORS_ORIGINS: .*https://app\.example,http://localhost:5173"):
        load_config({"CORS_ORIGINS": value}, tmp_path)


@pytest.mark.parametrize("value", ["*", "https://app.example, http://localhost:5173", "http://[::1]:3000", "app://x"])
def test_origins_are_read(value: str, tmp_path: Any):
    assert load_config({"CORS_ORIGINS": value}, tmp_path).cors_origins == tuple(value.split(", "))


# What is not kept.


@pytest.mark.parametrize(("id", "status"), [("a", 200), ("mine.css", 200), ("none", 404), ("bad", 400)])
def test_what_needs_a_credential_is_not_stored(serve_tree: ServeTree, id: str, status: int):
    url = serve_tree(TREE)
    for method in ("GET", "HEAD"):
        response = call(url, method, f"/private/{id}", {"X-Cron-Secret": SECRET})
        assert (response.status_code, response.headers["cache-control"]) == (status, "no-store")
        response = call(url, method, f"/private/{id}", {})
        assert (response.status_code, response.headers["cache-control"]) == (401, "no-store")


def test_a_route_that_says_how_long_it_is_kept_is_left_alone_and_what_is_open_too(serve_tree: ServeTree):
    url = serve_tree(TREE)
    assert call(url, "GET", "/private/kept", {"X-Cron-Secret": SECRET}).headers["cache-control"] == "max-age=5"
    assert "cache-control" not in call(url, "GET", "/x", HEADERS).headers
    assert "cache-control" not in call(url, "GET", "/nowhere", HEADERS).headers


# Pages.


def test_pages_are_not_framed_by_other_sites_and_no_file_is_taken_for_another_kind(serve_tree: ServeTree):
    url = serve_tree(TREE)
    for path in ("/", "/index.html", "/other.html", "/a.txt"):
        response = call(url, "GET", path, {})
        assert response.headers["x-content-type-options"] == "nosniff"
        assert ("frame-ancestors 'self'" in response.headers.get("content-security-policy", "")) is (path != "/a.txt")


# Cookies.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://HOST"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://HOST"}, 200),  # an older browser
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": OURS}, 200),  # one of CORS_ORIGINS
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example.evil.test"}, 403),
    ],
)
def test_what_a_page_of_another_site_sends_is_403_where_a_cookie_lets_in(
    serve_tree: ServeTree, headers: dict[str, str], status: int
):
    url = serve_tree(TREE, cors_origins=ORIGINS)
    host = url.removeprefix("http://")
    sent = {name: value.replace("HOST", host) for name, value in headers.items()}
    assert call(url, "POST", "/cookie", sent).status_code == status
    assert call(url, "GET", "/cookie", sent).status_code == 200


FETCHES = """async ([url, secret]) => {
  const ask = async (path, options = {}) => {
    try {
      const headers = { 'X-Cron-Secret': secret, 'X-Own': '1' }
      const answer = await fetch(url + path, { ...options, headers })
      const body = (await answer.text()).slice(0, 20)
      return [answer.status, body, Boolean(answer.headers.get('X-Request-Id'))]
    } catch (error) {
      return String(error)
    }
  }
  return [
    await ask('/private/a'), await ask('/private/none'), await ask('/nowhere'), await ask('/x/'),
    await ask('/x', { method: 'PATCH' }), await ask('/x', { method: 'DELETE' }),
    await ask('/x', { method: 'POST', body: 'y'.repeat(2000) }), await ask('/a.txt'), await ask('/stream'),
  ]
}"""
READ = [
    [200, "a", True],
    [404, '{"error":"Not Found"', True],
    [404, '{"error":"Not Found"', True],
    [200, "x", True],
    [405, '{"error":"Method Not', True],
    [500, '{"error":"Internal s', True],
    [413, '{"error":"Content To', True],
    [200, "a", True],
    [200, 'data: {"a": 1}\n\ndata', True],
]


@pytest.mark.slow
def test_a_real_browser_reads_answers_from_a_listed_origin_alone(serve_tree: ServeTree, browser: Browser):
    def page(request: object) -> HTMLResponse:
        return HTMLResponse("<p>a page of another origin</p>")

    other = Starlette(routes=[Route("/", page)])
    with serving(other) as listed, serving(other) as stranger, browser.new_context() as context:
        url = serve_tree(TREE, cors_origins=(listed,), cron_secret=SECRET, max_body_bytes=1000)
        tab = context.new_page()
        tab.goto(listed)
        assert tab.evaluate(FETCHES, [url, SECRET]) == READ
        tab.goto(stranger)
        assert set(tab.evaluate(FETCHES, [url, SECRET])) == {"TypeError: Failed to fetch"}
        tab.set_content(f"<iframe src='{url}/'></iframe>")
        tab.wait_for_load_state("networkidle")
        [_, frame] = tab.frames
        assert "page" not in (frame.locator("body").text_content() or "")  # a frame of another origin stays empty
