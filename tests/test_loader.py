"""Which file answers: trees on disk, what they become, and what stops the start-up."""

import re
import sys
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from loader import RouteError, load_files, load_routes, parse_folder
from modules import component, escape
from router import Route, Segment
from tests.servers import write_tree

GET = """
from starlette.responses import PlainTextResponse

async def GET(request):
    return PlainTextResponse("ok")
"""
IMPORTS = "from starlette.middleware import Middleware\nfrom starlette.responses import PlainTextResponse\n"


def load(tmp_path: Path, files: dict[str, str]) -> list[Route]:
    return load_routes(write_tree(tmp_path / "routes", files))


def paths(tmp_path: Path, *files: str) -> list[str]:
    return [route.path for route in load(tmp_path, dict.fromkeys(files, GET))]


def refusal(tmp_path: Path, files: dict[str, str]) -> str:
    """The message of the one problem in a tree."""
    with pytest.raises(RouteError) as raised:
        load(tmp_path, files)
    return str(raised.value)


def get(routes: list[Route], path: str) -> str:
    return TestClient(Starlette(routes=routes)).get(path).text


# Folders to paths


@pytest.mark.parametrize(
    ("folder", "segment"),
    [
        ("users", Segment(0, "users")),
        ("v1.0", Segment(0, "v1.0")),
        (".well-known", Segment(0, ".well-known")),
        ("robots.txt", Segment(0, "robots.txt")),
        ("café", Segment(0, "café")),
        ("sp ace", Segment(0, "sp ace")),
        ("index", Segment(0, "index")),
        ("route", Segment(0, "route")),
        ("route.py", Segment(0, "route.py")),
        ("__init__", Segment(0, "__init__")),
        ("[id]", Segment(1, "id")),
        ("[my-slug]", Segment(1, "my-slug")),
        ("[user_id]", Segment(1, "user_id")),
        ("[1]", Segment(1, "1")),
        ("[a b]", Segment(1, "a b")),
        ("[a.b]", Segment(1, "a.b")),
        ("[naïve]", Segment(1, "naïve")),
        ("[_p]", Segment(1, "_p")),
        ("[...slug]", Segment(2, "slug")),
        ("[...my-slug]", Segment(2, "my-slug")),
        ("[[...slug]]", Segment(3, "slug")),
        ("%5Fname", Segment(0, "_name")),
        ("%5fname", Segment(0, "_name")),
        ("caf%C3%A9", Segment(0, "café")),
        ("a%2Fb", Segment(0, "a/b")),
        ("%5Bid%5D", Segment(0, "[id]")),
        ("100%", Segment(0, "100%")),
        ("pre-[x]", Segment(0, "pre-[x]")),
        ("[x].json", Segment(0, "[x].json")),
        ("[a]-[b]", Segment(0, "[a]-[b]")),
        ("paren(mid)seg", Segment(0, "paren(mid)seg")),
        ("at@mid", Segment(0, "at@mid")),
        ("(.)x", Segment(0, "(.)x")),
        ("(..)x", Segment(0, "(..)x")),
        ("(...)x", Segment(0, "(...)x")),
        ("...", Segment(0, "...")),
        ("mid_dle", Segment(0, "mid_dle")),
    ],
)
def test_a_folder_name_becomes_a_segment(folder: str, segment: Segment):
    assert parse_folder(folder) == segment


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("route.py", "/"),
        ("users/route.py", "/users"),
        ("users/[id]/route.py", "/users/[id]"),
        ("docs/[...slug]/route.py", "/docs/[...slug]"),
        ("shop/[[...slug]]/route.py", "/shop/[[...slug]]"),
        ("(site)/about/route.py", "/about"),
        ("(site)/route.py", "/"),
        ("(a)/(b)/c/route.py", "/c"),
        ("shop/(only)/route.py", "/shop"),
        ("[...all]/(deep)/route.py", "/[...all]"),
        ("par/@slot/thing/route.py", "/par/thing"),
        ("par/@slot/route.py", "/par"),
        ("()/x/route.py", "/x"),
        ("route/route.py", "/route"),
        ("middleware.py/route.py", "/middleware.py"),
        ("route.py/route.py", "/route.py"),
        ("a/%5Fname/route.py", "/a/_name"),
    ],
)
def test_a_route_file_answers_at_the_path_of_its_folder(tmp_path: Path, file: str, path: str):
    assert paths(tmp_path, file) == [path]


@pytest.mark.parametrize(
    "file",
    [
        "_private/route.py",
        "_private/child/route.py",
        "a/_private/b/route.py",
        "(group)/_private/route.py",
        "__pycache__/route.py",
        "_[id]/route.py",
        "_[[broken/route.py",
        "a/_p/[...rest]/x/route.py",
    ],
)
def test_a_private_folder_is_not_routed_and_neither_is_what_is_below_it(tmp_path: Path, file: str):
    assert paths(tmp_path, "route.py", file) == ["/"]


@pytest.mark.parametrize(
    "file",
    [
        "x/route.pyi",
        "x/route.py.bak",
        "x/__init__.py",
        "__init__.py",
        "x/t.py",
        "_lib/middlewares.py",
        "_lib/routes.py",
        "x/helpers.py",
        "x/test_route.py",
        "x/models.py",
        "x/paging.py",
        "x/conftest.py",
        "x/outer.py",
        "x/quote.py",
        "x/.#route.py",
        "x/route_helpers.py",
    ],
)
def test_any_other_file_is_neither_routed_nor_executed(tmp_path: Path, file: str):
    assert [r.path for r in load(tmp_path, {"route.py": GET, file: "raise SystemExit('executed')"})] == ["/"]


@pytest.mark.parametrize(
    ("file", "meant"),
    [
        ("admin/_middleware.py", "middleware.py"),
        ("admin/middlewares.py", "middleware.py"),
        ("admin/Middleware.py", "middleware.py"),
        ("admin/middlware.py", "middleware.py"),
        ("admin/proxy.py", "middleware.py"),
        ("admin/middleware/__init__.py", "middleware.py"),
        ("(g)/@s/_middleware.py", "middleware.py"),
        ("x/Route.py", "route.py"),
        ("x/route.PY", "route.py"),
        ("x/routes.py", "route.py"),
        ("x/rotue.py", "route.py"),
        ("x/_route.py", "route.py"),
        ("x/page.py", "route.py"),
        ("x/+server.py", "route.py"),
    ],
)
def test_a_file_that_is_almost_called_so_is_refused(tmp_path: Path, file: str, meant: str):
    message = refusal(tmp_path, {"route.py": GET, file: "raise SystemExit('executed')"})
    named = file.removesuffix("/__init__.py")
    assert message.startswith(f"routes/{named}: only {meant} of that very name is read")
    assert "_lib/" in message


def test_a_link_to_nothing_guards_nothing_and_is_refused(tmp_path: Path):
    write_tree(tmp_path / "routes", {"admin/route.py": GET})
    (tmp_path / "routes/admin/middleware.py").symlink_to(tmp_path / "gone.py")
    with pytest.raises(RouteError, match=r"routes/admin/middleware\.py"):
        load_routes(tmp_path / "routes")


def test_a_broken_folder_name_without_a_route_below_it_is_left_alone(tmp_path: Path):
    assert [r.path for r in load(tmp_path, {"route.py": GET, "[[broken/notes.txt": ""})] == ["/"]


def test_an_empty_folder_has_no_routes(tmp_path: Path):
    assert load(tmp_path, {"notes.txt": ""}) == []


def test_a_missing_folder_is_named_with_the_setting_that_names_it(tmp_path: Path):
    with pytest.raises(RouteError, match=r"nowhere: there is no such folder.*ROUTES_DIR"):
        load_routes(tmp_path / "nowhere")


# The order in which they are tried


ORDER = [
    "(a)/route.py",
    "a/route.py",
    "a/b/route.py",
    "a/b/[x]/route.py",
    "a/[id]/route.py",
    "a/[id]/z/route.py",
    "a/[...rest]/route.py",
    "b/(g)/c/route.py",
    "b/[[...all]]/route.py",
    "[x]/exact/route.py",
    "[x]/[y]/route.py",
    "[...all]/route.py",
]


def test_the_order_is_depth_first_own_static_parameter_catch_all(tmp_path: Path):
    assert [route.file for route in load(tmp_path, dict.fromkeys(ORDER, GET))] == [f"routes/{file}" for file in ORDER]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(ORDER))
def test_the_order_does_not_depend_on_that_of_the_file_system(
    tmp_path_factory: pytest.TempPathFactory, order: list[str]
):
    root = tmp_path_factory.mktemp("tree") / "routes"  # folders list their entries in the order of creation, or of none
    assert [r.file for r in load_routes(write_tree(root, dict.fromkeys(order, GET)))] == [f"routes/{f}" for f in ORDER]


# What stops the start-up


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "async def default(request): ...",
            "Detected default export in 'routes/x/route.py'. Export a named export for each HTTP method instead.",
        ),
        ("", "No HTTP methods exported in 'routes/x/route.py'. Export a named export for each HTTP method."),
        ("def helper(): ...", "No HTTP methods exported in 'routes/x/route.py'."),
        ("async def TRACE(request): ...", "No HTTP methods exported in 'routes/x/route.py'."),
        (
            "async def get(request): ...",
            "Detected lowercase method 'get' in 'routes/x/route.py'. "
            "Export the uppercase 'GET' method name to fix this error.",
        ),
        ("async def GET(request): ...\nasync def post(request): ...", "Detected lowercase method 'post'"),
        ("async def Get(request): ...", "Detected method 'Get' in 'routes/x/route.py'. Export the uppercase 'GET'"),
        ("def default(request): ...\ndef delete(request): ...", "Detected lowercase method 'delete'"),
        ("async def GTE(request): ...", "routes/x/route.py: GTE is not an HTTP method. Did you mean GET?"),
        ("def GET(r): ...\ndef PSOT(r): ...", "PSOT is not an HTTP method. Did you mean POST? Give a helper another"),
        ("GET = 'hello'", "routes/x/route.py: GET is a str, not a function. Write: async def GET(request):"),
        ("GET = None", "GET is a NoneType, not a function"),
        ("class GET: ...", "GET is a class, not a function. Write: async def GET(request):"),
        ("async def GET(request):\n    yield b''", "GET is an async generator, but a handler returns one response"),
        ("def POST(request):\n    yield b''", "POST is a generator, but a handler returns one response (to stream,"),
        ("async def GET(a, b, c): ...", "GET takes 'b', which nothing hands in: parameters are found by name. Write"),
        ("async def GET(request, *, q): ...", "GET takes 'q', which nothing hands in: parameters are found by name."),
        ("GET = min", "GET is a built-in function whose parameters nobody can tell. Write: async def GET(request)"),
    ],
)
def test_a_file_without_a_handler_to_call_is_refused(tmp_path: Path, source: str, words: str):
    assert words in refusal(tmp_path, {"route.py": GET, "x/route.py": source})


@pytest.mark.parametrize(
    "source",
    [
        GET + "\nasync def default(request): ...",
        GET + "\nfrom httpx import delete, get, post",  # a client's functions, beside a verb
        GET + "\nDEBUG = True\nclass Form: ...\ndef render(): ...\nOPTION = {}\n",
        GET + "\nclass Patch: ...",
    ],
)
def test_what_stands_beside_a_verb_is_left_alone(tmp_path: Path, source: str):
    assert [sorted(route.handlers) for route in load(tmp_path, {"route.py": source})] == [["GET"]]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("(a)/x/route.py", "(b)/x/route.py", "Conflicting routes at /x:"),
        ("x/(a)/route.py", "x/route.py", "Conflicting routes at /x:"),
        ("x/@s/route.py", "x/@t/route.py", "Conflicting routes at /x:"),
        ("(a)/route.py", "route.py", "Conflicting routes at /:"),
        ("(a)/[id]/route.py", "(b)/[id]/route.py", "Conflicting routes at /[id]:"),
        ("(a)/[...all]/route.py", "[...all]/route.py", "Conflicting routes at /[...all]:"),
        ("caf%C3%A9/route.py", "café/route.py", "Conflicting routes at /café:"),
        ("x%2Dy/route.py", "x-y/route.py", "Conflicting routes at /x-y:"),
        (
            "[a]/route.py",
            "[b]/route.py",
            "You cannot use different slug names for the same dynamic path ('a' !== 'b')",
        ),
        ("[a]/x/route.py", "[b]/y/route.py", "for the same dynamic path ('a' !== 'b')"),
        ("(g)/[a]/route.py", "[b]/deep/er/route.py", "for the same dynamic path ('a' !== 'b')"),
        ("u/[i]/a/[x]/route.py", "u/[i]/a/[y]/route.py", "for the same dynamic path ('x' !== 'y')"),
        ("[...a]/route.py", "[...b]/route.py", "for the same dynamic path ('a' !== 'b')"),
        ("[[...a]]/route.py", "[[...b]]/route.py", "for the same dynamic path ('a' !== 'b')"),
        (
            "[...a]/route.py",
            "[[...a]]/route.py",
            "You cannot use both a required and optional catch-all route at the same level",
        ),
        ("s/[...a]/route.py", "s/[[...b]]/route.py", "both a required and optional catch-all"),
        (
            "s/route.py",
            "s/[[...a]]/route.py",
            "You cannot define a route with the same specificity as an optional catch-all route",
        ),
        ("route.py", "[[...a]]/route.py", "the same specificity as an optional catch-all route"),
        ("(x)/s/route.py", "(y)/s/[[...a]]/route.py", "the same specificity as an optional catch-all route"),
    ],
)
def test_two_files_that_cannot_stand_together_are_both_named(tmp_path: Path, first: str, second: str, words: str):
    message = refusal(tmp_path, {first: GET, second: GET})
    assert words in message
    assert f"routes/{first} and routes/{second}" in message
    assert "Rename or remove one of them." in message


def test_the_same_file_twice_on_disk_is_a_conflict(tmp_path: Path):
    write_tree(tmp_path / "routes", {"(a)/x/route.py": GET})
    (tmp_path / "routes/(b)").symlink_to(tmp_path / "routes/(a)")
    with pytest.raises(RouteError, match=r"Conflicting routes at /x.*\(a\)/x/route.py and routes/\(b\)/x/route.py"):
        load_routes(tmp_path / "routes")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("[id]/x/[id]/route.py", 'You cannot have the same slug name "id" repeat within a single dynamic path'),
        ("[id]/[...id]/route.py", 'the same slug name "id" repeat within a single dynamic path'),
        ("[...rest]/x/route.py", "Catch-all must be the last part of the URL. Move the file out of '[...rest]'"),
        ("[[...rest]]/x/route.py", "Catch-all must be the last part of the URL. Move the file out of '[[...rest]]'"),
        ("[...rest]/[id]/route.py", "Catch-all must be the last part of the URL"),
        ("[...rest]/(g)/x/route.py", "Catch-all must be the last part of the URL"),
        ("a/[[b]]/route.py", "routes/a/[[b]]: '[[b]]': Optional route parameters are not yet supported. Write [b], or"),
        ("a/[]/route.py", "routes/a/[]: '[]' is not a parameter. Write [name], [...name] or [[...name]]."),
        ("[...]/route.py", "'[...]' has no parameter name. Write [...name]."),
        ("[[...]]/route.py", "'[[...]]' is not a parameter. Write [name], [...name] or [[...name]]."),
        ("{id}/route.py", "routes/{id}: '{id}' is that very text here. Write [id]; for the text itself, %7Bid%7D."),
        ("a/<id>/route.py", "'<id>' is that very text here. Write [id]; for the text itself, %3Cid%3E."),
        (":id/route.py", "':id' is that very text here. Write [id]; for the text itself, %3Aid."),
        ("[…a]/route.py", "'[…a]' is not a parameter: it takes three plain dots. Write [...a] or [a]."),
        ("[.a]/route.py", "'[.a]' is not a parameter: it takes three plain dots. Write [...a] or [a]."),
        ("[..a]/route.py", "Write [...a] or [a]."),
        ("[....a]/route.py", "Write [...a] or [a]."),
        ("[...…a]/route.py", "Write [...a] or [a]."),
        ("[.]/route.py", "'[.]' has no parameter name. Write [...name]."),
        ("[[…a]]/route.py", "'[[…a]]' is not a parameter. Write [a], [...a] or [[...a]]."),
        ("[[..a]]/route.py", "'[[..a]]' is not a parameter. Write [a], [...a] or [[...a]]."),
        ("[[[a]]]/route.py", "'[[[a]]]' is not a parameter. Write [a], [...a] or [[...a]]."),
        ("[[]]/route.py", "Write [name], [...name] or [[...name]]."),
        ("[a/route.py", "'[a' is not a parameter. Write [a], [...a] or [[...a]]."),
        ("a]/route.py", "'a]' is not a parameter. Write [a], [...a] or [[...a]]."),
        ("]a[/route.py", "Write [a], [...a] or [[...a]]."),
        ("[[a]/route.py", "Write [a], [...a] or [[...a]]."),
        ("[[...a]/route.py", "Write [a], [...a] or [[...a]]."),
        ("[...a]]/deep/er/route.py", "routes/[...a]]: '[...a]]' is not a parameter."),
        ("caf%E9/route.py", "'caf%E9' has escapes that are not UTF-8. Write the name itself."),
        ("%2e%2E/route.py", "'%2e%2E' can never be reached: clients resolve '..'. Rename the folder."),
    ],
)
def test_a_folder_that_cannot_be_a_path_is_named_with_the_mend(tmp_path: Path, file: str, words: str):
    message = refusal(tmp_path, {"route.py": GET, file: GET})
    assert words in message
    assert "routes/" in message


def test_a_link_to_a_folder_above_it_is_named(tmp_path: Path):
    write_tree(tmp_path / "routes", {"a/route.py": GET})
    (tmp_path / "routes/a/again").symlink_to(tmp_path / "routes")
    with pytest.raises(RouteError, match="routes/a/again: this link leads to a folder above it"):
        load_routes(tmp_path / "routes")


def test_a_link_to_another_folder_is_followed(tmp_path: Path):
    write_tree(tmp_path / "routes", {"v1/x/route.py": GET})
    (tmp_path / "routes/v2").symlink_to(tmp_path / "routes/v1")
    assert [route.path for route in load_routes(tmp_path / "routes")] == ["/v1/x", "/v2/x"]


def test_all_problems_are_reported_at_once(tmp_path: Path):
    files = {
        "ok/route.py": GET,
        "a/route.py": "",
        "b/[[x]]/route.py": GET,
        "c/[x]/route.py": GET,
        "c/[y]/route.py": GET,
        "d/route.py": "import nowhere_at_all",
        "e/route.py": GET,
        "e/middleware.py": "",
        "e/f/route.py": GET,
    }
    with pytest.raises(ExceptionGroup, match=r"5 problems in routes/") as raised:
        load(tmp_path, files)
    messages = [str(problem) for problem in raised.value.exceptions]
    for words in ("No HTTP methods", "[[x]]", "('x' !== 'y')", "nowhere_at_all", "routes/e/middleware.py does not"):
        assert len([message for message in messages if words in message]) == 1


# A module that raises


def test_a_module_that_raises_keeps_its_own_traceback_and_names_the_file(tmp_path: Path):
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError) as raised:
        load(tmp_path, {"a/[id]/route.py": "def broken():\n    return 1 / 0\n\nbroken()\n"})
    last = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (str(tmp_path / "routes/a/[id]/route.py"), 2)
    assert raised.value.__notes__ == ["while loading routes/a/[id]/route.py"]
    assert not [name for name in set(sys.modules) - before if name.endswith(".route")]


def test_a_syntax_error_shows_its_line(tmp_path: Path):
    with pytest.raises(SyntaxError) as raised:
        load(tmp_path, {"x/route.py": "async def GET(request)\n    ...\n"})
    assert raised.value.filename == str(tmp_path / "routes/x/route.py")
    assert raised.value.lineno == 1
    assert raised.value.__notes__ == ["while loading routes/x/route.py"]


def test_a_module_that_is_mended_loads_the_next_time(tmp_path: Path):
    with pytest.raises(NameError):
        load(tmp_path, {"x/route.py": "oops"})
    assert [route.path for route in load(tmp_path, {"x/route.py": GET})] == ["/x"]


def test_a_helper_is_read_again_with_the_routes(tmp_path: Path):
    files = {"x/route.py": "from .text import TEXT\n" + IMPORTS + "def GET(): return PlainTextResponse(TEXT)\n"}
    assert get(load(tmp_path, files | {"x/text.py": "TEXT = 'before'"}), "/x") == "before"
    assert get(load(tmp_path, files | {"x/text.py": "TEXT = 'and after'"}), "/x") == "and after"


# Handlers


@pytest.mark.parametrize(
    "handler",
    [
        "async def GET(): return PlainTextResponse('7')",
        "async def GET(request): return PlainTextResponse(request.path_params['id'])",
        "async def GET(request, params): return PlainTextResponse(params['id'])",
        "async def GET(_, params): return PlainTextResponse(params['id'])",
        "async def GET(request, /, params): return PlainTextResponse(params['id'])",
        "async def GET(request, params=None): return PlainTextResponse(params['id'])",
        "async def GET(request, limit=7): return PlainTextResponse(str(limit))",
        "async def GET(request, *, limit=7): return PlainTextResponse(str(limit))",
        "async def GET(request, **rest): return PlainTextResponse(request.path_params['id'])",
        "async def GET(*args): return PlainTextResponse(args[0].path_params['id'])",
        "def GET(): return PlainTextResponse('7')",
        "def GET(request): return PlainTextResponse(request.path_params['id'])",
        "def GET(request, params): return PlainTextResponse(params['id'])",
        "GET = lambda request, params: PlainTextResponse(params['id'])",
        "import functools\nasync def _g(id, request): return PlainTextResponse(id)\nGET = functools.partial(_g, '7')",
        "import functools\ndef _g(id, request): return PlainTextResponse(id)\nGET = functools.partial(_g, '7')",
        "class Say:\n  async def __call__(self, request, params): return PlainTextResponse(params['id'])\nGET = Say()",
        "class Say:\n  def __call__(self, request): return PlainTextResponse(request.path_params['id'])\nGET = Say()",
        "class Say:\n  async def get(self, request, params): return PlainTextResponse(params['id'])\nGET = Say().get",
        "from .elsewhere import GET",
        "from .elsewhere import POST as GET",
        "from .elsewhere import *",
        "from .elsewhere import wrapped as d\n@d\nasync def GET(request, params): return Text(params['id'])",
        "from .elsewhere import wrapped as d\n@d\nasync def GET(): return PlainTextResponse('7')",
        "from .elsewhere import bare as d\n@d\nasync def GET(request): return Text(request.path_params['id'])",
        "from .elsewhere import plain as d\n@d\nasync def GET(request): return Text(request.path_params['id'])",
        "from .elsewhere import first as d\n@d\nasync def GET(request, params): return Text(params['id'])",
    ],
)
def test_a_handler_takes_the_request_the_parameters_or_nothing(tmp_path: Path, handler: str):
    elsewhere = """
import functools
from starlette.responses import PlainTextResponse

async def GET(request): return PlainTextResponse(request.path_params["id"])
POST = GET

def wrapped(handler):
    @functools.wraps(handler)
    async def inner(*args, **kwargs): return await handler(*args, **kwargs)
    return inner

def bare(handler):
    async def inner(*args, **kwargs): return await handler(*args, **kwargs)
    return inner

def plain(handler):
    def inner(request): return handler(request)
    return inner

def first(handler):
    @functools.wraps(handler)
    async def inner(request, *rest): return await handler(request, *rest)
    return inner
"""
    routes = load(
        tmp_path, {"[id]/route.py": IMPORTS + "Text = PlainTextResponse\n" + handler, "[id]/elsewhere.py": elsewhere}
    )
    assert get(routes, "/7") == "7"


def test_a_plain_function_runs_in_a_thread_and_an_async_one_in_the_loop(tmp_path: Path):
    name = "return PlainTextResponse(threading.current_thread().name)\n"
    verbs = f"import threading\n{IMPORTS}def GET(): {name}async def POST(): {name}"
    with TestClient(Starlette(routes=load(tmp_path, {"route.py": verbs}))) as client:
        assert "AnyIO worker thread" in client.get("/").text
        assert "AnyIO worker thread" not in client.post("/").text


def test_every_verb_is_found(tmp_path: Path):
    verbs = "GET = HEAD = POST = PUT = PATCH = DELETE = OPTIONS = lambda: PlainTextResponse('')"
    [route] = load(tmp_path, {"route.py": IMPORTS + verbs})
    assert set(route.handlers) == {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


# Modules


WHO = IMPORTS + "NAME = __name__\nasync def GET(): return PlainTextResponse(f'{__name__} {__file__}')\n"


def test_modules_are_named_as_their_files_and_no_two_alike(tmp_path: Path):
    names = {
        "route.py": "routes.route",
        "user-profile/route.py": "routes.user-profile.route",
        "user_profile/route.py": "routes.user_profile.route",
        "(a)/users/one/route.py": "routes.(a).users.one.route",
        "(b)/users/two/route.py": "routes.(b).users.two.route",
        "[id]/route.py": "routes.{id}.route",
        "[id]/[...slug]/route.py": "routes.{id}.{...slug}.route",
        "json/route.py": "routes.json.route",
        "v1.0/route.py": "routes.v1_2e_0.route",
        "v1_2e_0/route.py": "routes.v1_5f_2e_5f_0.route",
        "v1/0/route.py": "routes.v1.0.route",
        "café/route.py": "routes.café.route",
        "route/route.py": "routes.route/.route",
        "class/route.py": "routes.class.route",
    }
    files = dict.fromkeys(names, WHO)
    for _ in range(2):  # the same each time
        routes = load(tmp_path, files)
        assert {route.file.removeprefix("routes/"): route.handlers["GET"].__module__ for route in routes} == names
        assert all(sys.modules[name].__file__ == str(tmp_path / "routes" / file) for file, name in names.items())


def test_the_folder_of_an_installed_package_s_name_hides_nothing(tmp_path: Path):
    import httpx

    root = write_tree(tmp_path / "httpx", {"x/route.py": WHO})
    [route] = load_routes(root)
    assert route.handlers["GET"].__module__ == "httpx_.x.route"
    assert sys.modules["httpx"] is httpx


@given(a=st.text("ab_-.0[]{é", min_size=1, max_size=6), b=st.text("ab_-.0[]{é", min_size=1, max_size=6))
def test_no_two_folders_share_a_name(a: str, b: str):
    assert (component(a) == component(b)) == (a == b)
    assert (escape(a) == escape(b)) == (a == b)
    assert re.fullmatch(r"\w+", escape(a))


def test_two_trees_of_one_shape_stand_in_one_process(tmp_path: Path):
    files = {"x/route.py": WHO, "x/helper.py": ""}
    one, two = load(tmp_path / "one", files), load(tmp_path / "two", files)
    assert get(one, "/x").endswith("one/routes/x/route.py")
    assert get(two, "/x").endswith("two/routes/x/route.py")


@pytest.mark.parametrize("folder", ["b", "[id]", "[...slug]", "(g)", "v1.0"])
@pytest.mark.parametrize("first", ["a", "z"])
def test_a_file_is_executed_once_whoever_imports_it_first(tmp_path: Path, folder: str, first: str):
    """`import_module` reads the names of folders that Python's own statement cannot."""
    owner = IMPORTS + "ITEMS = []\nITEMS.append('executed')\nasync def GET(): return PlainTextResponse(str(ITEMS))\n"
    other = (
        "from importlib import import_module\n"
        f"ITEMS = import_module('..{component(folder)}.route', __package__).ITEMS\n"
        f"{IMPORTS}async def GET(): ITEMS.append('seen'); return PlainTextResponse(str(ITEMS))\n"
    )
    routes = load(tmp_path, {f"{folder}/route.py": owner, f"{first}/route.py": other})
    [borrower] = [route for route in routes if route.file == f"routes/{first}/route.py"]
    [lender] = [route for route in routes if route is not borrower]
    get([borrower], f"/{first}")
    path = lender.path.replace("[id]", "7").replace("[...slug]", "7")
    assert get([lender], path) == "['executed', 'seen']"


@pytest.mark.parametrize("folder", ["jobs", "channels"])
@pytest.mark.parametrize("first", ["aa", "zz"])
def test_a_job_or_a_channel_is_executed_once_whoever_imports_it_first(tmp_path: Path, folder: str, first: str):
    files = {"mm.py": "ITEMS = ['executed']\n", f"{first}.py": "from .mm import ITEMS\nITEMS.append('seen')\n"}
    write_tree(tmp_path / folder, files)
    found = load_files(tmp_path / folder, lambda name, shown, found: found)
    assert found["mm"]["ITEMS"] is found[first]["ITEMS"]
    assert found["mm"]["ITEMS"] == ["executed", "seen"]


def test_a_file_that_ends_the_process_is_a_problem_like_any_other(tmp_path: Path):
    files = {
        "a/route.py": "import sys; sys.exit()",
        "b/route.py": "\nraise SystemExit('no key today')",
        "c/route.py": "from ._end import x",
        "c/_end.py": "quit()",
        "d/middleware.py": "exit(3)",
        "d/route.py": GET,
    }
    with pytest.raises(ExceptionGroup) as raised:
        load(tmp_path, files)
    told = "\n".join(map(str, raised.value.exceptions))
    assert "routes/a/route.py: it ends the process with SystemExit when it is imported (route.py line 1)" in told
    assert "routes/b/route.py: " in told
    assert "saying 'no key today' (route.py line 2)" in told
    assert "routes/c/route.py: " in told
    assert "routes/d/middleware.py: " in told


@pytest.mark.parametrize("line", ["from app import app", "from app import app as mine; print(mine.routes)"])
def test_a_file_that_imports_the_app_is_told_of_request_app(tmp_path: Path, line: str):
    message = refusal(tmp_path, {"x/route.py": f"{line}\n{GET}"})
    assert message.startswith("routes/x/route.py imports the app")
    assert "request.app" in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_body_bytes = '50mb'", "max_body_bytes is '50mb', and it must be a whole number of bytes above 0"),
        ("max_body_bytes = -1", "max_body_bytes is -1"),
        ("max_body_bytes = True", "max_body_bytes is True"),
        ("max_body_bytes = 1.5", "max_body_bytes is 1.5"),
        ("timeout = '5'", "timeout is '5', and it must be a number of seconds above 0"),
        ("timeout = 0", "timeout is 0"),
        ("timeout = float('nan')", "timeout is nan"),
    ],
)
def test_a_limit_of_a_wrong_kind_is_refused(tmp_path: Path, line: str, words: str):
    message = refusal(tmp_path, {"x/route.py": f"{line}\n{GET}"})
    assert message.startswith(f"routes/x/route.py: {words}")


def test_a_folder_shadows_no_library(tmp_path: Path):
    source = IMPORTS + "import json\nasync def GET(): return PlainTextResponse(json.dumps([1]))\n"
    assert get(load(tmp_path, {"json/route.py": source, "starlette/route.py": source}), "/json") == "[1]"


def test_a_dataclass_with_postponed_annotations_loads(tmp_path: Path):
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        + IMPORTS
        + "@dataclass\nclass Form:\n    kind: ClassVar[str] = 'a'\n    name: str = 'b'\n"
        "async def GET(): return PlainTextResponse(Form().name)\n"
    )
    assert get(load(tmp_path, {"[...slug]/route.py": source}), "/x") == "b"


@pytest.mark.parametrize(
    ("route", "helper", "statement"),
    [
        ("x/route.py", "x/helper.py", "from .helper import TEXT"),
        ("x/route.py", "helper.py", "from ..helper import TEXT"),
        ("route.py", "helper.py", "from .helper import TEXT"),
        ("x/[id]/route.py", "x/helper.py", "from ..helper import TEXT"),
        ("[...slug]/route.py", "[...slug]/helper.py", "from .helper import TEXT"),
        ("(g)/y/route.py", "(g)/helper.py", "from ..helper import TEXT"),
        ("x/route.py", "x/_lib/helper.py", "from ._lib.helper import TEXT"),
        ("x/route.py", "_lib/helper.py", "from .._lib.helper import TEXT"),
        ("x/route.py", "x/helper.py", "from . import helper\nTEXT = helper.TEXT"),
        ("x/route.py", "x/lib/__init__.py", "from .lib import TEXT"),
        # a folder of the helper's name, or of the route file's own, stands in nobody's way
        ("x/route.py", "x/other.py", "from .other import TEXT"),
        ("x/other/route.py", "x/other.py", "from ..other import TEXT"),
        ("x/other/route.py", "x/other/helper.py", "from .helper import TEXT"),
        ("x/route/route.py", "x/route/helper.py", "from .helper import TEXT"),
        ("x/route/deep/route.py", "x/route/helper.py", "from ..helper import TEXT"),
    ],
)
def test_a_route_imports_what_stands_beside_it(tmp_path: Path, route: str, helper: str, statement: str):
    source = f"{IMPORTS}{statement}\nasync def GET(): return PlainTextResponse(TEXT)\n"
    tree = {"route.py": GET, "x/route.py": GET, "x/other/route.py": GET, "x/route/route.py": GET}
    routes = load(tmp_path, tree | {helper: "TEXT = 'from the helper'", route: source})
    [loaded] = [r for r in routes if r.file == f"routes/{route}"]
    assert get([loaded], loaded.path.replace("[id]", "7").replace("[...slug]", "a")) == "from the helper"


def test_two_routes_share_one_copy_of_a_helper(tmp_path: Path):
    files = {
        "helper.py": "SEEN = []",
        "a/route.py": GET + "from ..helper import SEEN\nSEEN.append('a')",
        "b/c/route.py": GET + "from ...helper import SEEN\nSEEN.append('c')",
    }
    routes = load(tmp_path, files)
    package = routes[0].handlers["GET"].__module__.split(".")[0]
    assert sys.modules[f"{package}.helper"].SEEN == ["a", "c"]


def test_helpers_of_one_name_in_two_folders_are_two(tmp_path: Path):
    source = IMPORTS + "from .helper import TEXT\nasync def GET(): return PlainTextResponse(TEXT)\n"
    files = {f"{folder}/route.py": source for folder in ("a", "(g)/b")}
    routes = load(tmp_path, files | {"a/helper.py": "TEXT = 'one'", "(g)/b/helper.py": "TEXT = 'two'"})
    assert [get(routes, "/a"), get(routes, "/b")] == ["one", "two"]


def test_a_helper_that_raises_names_the_route_that_wanted_it(tmp_path: Path):
    with pytest.raises(ZeroDivisionError) as raised:
        load(tmp_path, {"x/route.py": "from .helper import TEXT", "x/helper.py": "1 / 0"})
    assert raised.value.__notes__ == ["while loading routes/x/route.py"]
    assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == str(tmp_path / "routes/x/helper.py")


# Middleware


TAG = """
from starlette.middleware import Middleware
from starlette.datastructures import MutableHeaders

class Tag:
    def __init__(self, app, name):
        self.app, self.name = app, name

    async def __call__(self, scope, receive, send):
        async def tagged(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("x-inside", self.name)
            await send(message)
        await self.app(scope, receive, tagged)

middleware = [{entries}]
"""


def tag(*names: str) -> str:
    return TAG.replace("{entries}", ", ".join(f"Middleware(Tag, name={name!r})" for name in names))


def test_middleware_is_collected_from_every_folder_the_outermost_first(tmp_path: Path):
    files = {
        "route.py": GET,
        "middleware.py": tag("root"),
        "a/middleware.py": tag("a1", "a2"),
        "a/(g)/middleware.py": tag("group"),
        "a/(g)/[id]/middleware.py": tag("id"),
        "a/(g)/[id]/route.py": GET,
        "a/b/c/route.py": GET,
        "_private/middleware.py": "raise SystemExit('executed')",
    }
    routes = load(tmp_path, files)
    around = {r.path: [kwargs["name"] for guard in r.guards for _, _, kwargs in guard.middleware] for r in routes}
    assert around == {"/": ["root"], "/a/b/c": ["root", "a1", "a2"], "/a/[id]": ["root", "a1", "a2", "group", "id"]}
    answer = TestClient(Starlette(routes=routes)).get("/a/7")
    assert answer.headers.get_list("x-inside") == ["id", "group", "a2", "a1", "root"]  # the inner one writes first


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "routes/x/middleware.py does not export 'middleware'. Write: middleware = [Middleware(MyMiddleware)]"),
        ("middleware = None", "routes/x/middleware.py does not export 'middleware'."),
        ("def middleware(request): ...", "exports a 'middleware' that is <function middleware"),
        ("middleware = ()", "exports a 'middleware' that is ()"),
        ("class Tag: ...\nmiddleware = [Tag]", "exports a 'middleware' that is [<class"),
    ],
)
def test_a_middleware_file_without_a_list_of_middleware_is_refused(tmp_path: Path, source: str, words: str):
    assert words in refusal(tmp_path, {"x/middleware.py": source, "x/a/route.py": GET, "x/b/route.py": GET})


def test_a_middleware_file_that_raises_is_reported_once(tmp_path: Path):
    with pytest.raises(ZeroDivisionError) as raised:
        load(tmp_path, {"x/middleware.py": "1 / 0", "x/a/route.py": GET, "x/b/route.py": GET})
    assert raised.value.__notes__ == ["while loading routes/x/middleware.py"]


def test_middleware_that_cannot_be_built_is_reported_once_with_its_file(tmp_path: Path):
    source = tag("a").replace("name='a'", "nmae='a'")
    with pytest.raises(TypeError, match="nmae") as raised:
        load(tmp_path, {"x/middleware.py": source, "x/a/route.py": GET, "x/b/route.py": GET})
    assert "routes/x/middleware.py" in raised.value.__notes__[0]


def test_an_empty_list_of_middleware_is_allowed(tmp_path: Path):
    assert [r.path for r in load(tmp_path, {"middleware.py": "middleware = []", "route.py": GET})] == ["/"]
