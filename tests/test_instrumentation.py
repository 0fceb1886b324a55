"""instrumentation.py: what it opens is in request.state and in a job's state, and is closed; what is wrong is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from app import create_app
from config import Config
from loader import RouteError
from tests.processes import PYTHON, Project, run, running
from tests.servers import free_port, wait_until, write_tree

READS = """from starlette.responses import PlainTextResponse
async def GET(request): return PlainTextResponse(str(request.state["shelf"]))
"""
OPENS = """import pathlib
from contextlib import asynccontextmanager

ended = pathlib.Path(__file__).with_name("ended")

@asynccontextmanager
async def register(state):
    [row] = await state["db"].read("SELECT 42 AS shelf")
    try:
        yield {"shelf": row["shelf"]}
    finally:
        ended.touch()
"""
FORMS = {
    "a context manager": OPENS,
    "without the decorator": OPENS.replace("@asynccontextmanager\n", ""),
    "put into the state": OPENS.replace('yield {"shelf": row["shelf"]}', 'state["shelf"] = 42\n        yield'),
    "as in Next.js": "async def register(state):\n    state['shelf'] = 42\n",
    "returned": "async def register(state): return {'shelf': 42}\n",
}


def app_of(folder: Path, files: dict[str, str]) -> TestClient:
    write_tree(folder, {"routes/shelf/route.py": READS, **files})
    return TestClient(create_app(Config(routes_dir=folder / "routes", database_url=f"sqlite:///{folder}/a.db")))


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_what_it_opens_is_in_the_state_and_is_closed_at_the_end(tmp_path: Path, text: str):
    with app_of(tmp_path, {"instrumentation.py": text}) as client:
        assert client.get("/shelf").text == "42"
        assert not (tmp_path / "ended").exists()
    assert (tmp_path / "ended").exists() is ("ended" in text)


def test_a_job_finds_it_too(tmp_path: Path, serve_tree: Callable[..., str]):
    ran = tmp_path / "ran"
    job = f"import pathlib\ndef run(job, state): pathlib.Path({str(ran)!r}).write_text(str(state['shelf']))\n"
    route = (
        "from starlette.responses import Response\n"
        "async def POST(request):\n    await request.state['worker'].put('note')\n    return Response()\n"
    )
    url = serve_tree({"x/route.py": route, "../jobs/note.py": job, "../instrumentation.py": OPENS})
    assert httpx.post(f"{url}/x", trust_env=False).status_code == 200
    wait_until(lambda: ran.exists() and ran.read_text() == "42")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "instrumentation.py: has no function 'register'. Write: @asynccontextmanager async def register(state)"),
        ("register = 1", "has no function 'register'"),
        ("async def register(): yield", r"register() is called with the state alone"),
        ("async def register(state, more): yield", r"register(state, more) is called with the state alone"),
    ],
)
def test_what_cannot_be_called_stops_the_start(tmp_path: Path, text: str, words: str):
    with pytest.raises(RouteError) as error:
        app_of(tmp_path, {"instrumentation.py": text})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def register(state): ...", "register returned NoneType, not an async context manager"),
        ("async def register(state): yield 42", "register yields int. Yield a dict"),
        ("async def register(state): yield {'db': 1}", "state['db'] is the app's own. Choose another name."),
        ("async def register(state):\n    state['http'] = 1\n    yield", "state['http'] is the app's own"),
        ("async def register(state):\n    del state['llm']\n    yield", "state['llm'] is the app's own"),
    ],
)
def test_what_it_may_not_yield_stops_the_start(tmp_path: Path, text: str, words: str):
    with pytest.raises(RouteError) as error, app_of(tmp_path, {"instrumentation.py": text}):
        pass
    assert words in str(error.value)


def test_what_was_opened_before_it_raised_is_closed(tmp_path: Path):
    raises = OPENS.replace("yield {", "raise LookupError('no shelf')\n        yield {")
    with pytest.raises(LookupError) as error, app_of(tmp_path, {"instrumentation.py": raises}):
        pass
    assert error.value.__notes__ == ["while running register of instrumentation.py"]
    assert (tmp_path / "ended").exists()


BROKEN: list[tuple[str, str, Any]] = [
    (
        "import no_such_package",
        "while loading instrumentation.py",
        "No package that is installed has 'no_such_package'",
    ),
    ("def f(:", "while loading instrumentation.py", "SyntaxError"),
    ("async def register(state):\n    raise LookupError('no shelf')\n    yield", "while running register", "line 2"),
]


@pytest.mark.parametrize(("text", "where", "what"), BROKEN, ids=["package", "syntax", "register"])
def test_one_that_raises_says_so_as_a_routes_module_does(project: Project, text: str, where: str, what: str):
    write_tree(project, {"instrumentation.py": text})
    done = run(project, PYTHON, "-m", "app", "start", PORT=str(free_port()))
    assert done.returncode == 3
    for words in (where, what, f'File "{project}/instrumentation.py", line '):
        assert words in done.stderr
    assert "state.py" not in done.stderr
    assert "starlette" not in done.stderr
    if "register" not in where:  # a module that cannot be loaded is told before the start, too
        checked = run(project, PYTHON, "-m", "app", "check")
        assert checked.returncode == 1
        assert where in checked.stderr


def test_make_dev_says_it_too_and_serves_the_fixed_one(project: Project):
    port = free_port()
    write_tree(project, {"routes/shelf/route.py": READS, "instrumentation.py": BROKEN[2][0]})
    with running(project, "make", "dev", PORT=str(port)) as dev:
        dev.wait_for("Save a file to try again")
        assert "LookupError: no shelf" in dev.output
        write_tree(project, {"instrumentation.py": "async def register(state): yield {'shelf': 7}\n"})
        dev.wait_for("Serving")
        assert httpx.get(f"http://127.0.0.1:{port}/shelf", trust_env=False).text == "7"
        write_tree(project, {"instrumentation.py": "async def register(state): yield {'shelf': 'eight'}\n"})
        wait_until(lambda: text_of(f"http://127.0.0.1:{port}/shelf") == "eight")


def text_of(url: str) -> str:
    try:
        return httpx.get(url, trust_env=False).text
    except httpx.TransportError:
        return "restarting"
