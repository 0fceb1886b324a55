"""The commands: what a stranger types, started as processes of their own in a copy of the project."""

import os
import re

import httpx
import pytest

from tests.processes import PYTHON, Project, run, running
from tests.servers import free_port, wait_until, write_tree

STREAM = """import anyio
from sse import EventStream


async def GET():
    async def write(emit):
        await emit(1)
        await anyio.sleep_forever()

    return EventStream(write)
"""
ASKED = """from starlette.responses import PlainTextResponse
from auth import requires, service


@requires(service)
async def GET(): return PlainTextResponse("for those with the token")
"""


def test_make_dev_serves_a_new_a_changed_and_a_broken_file_and_the_fixed_one(project: Project):
    port = free_port()
    route = project / "routes/new/route.py"
    text = "from starlette.responses import PlainTextResponse\n\nasync def GET(): return PlainTextResponse('{}')\n"

    def answer() -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/new", trust_env=False).text
        except httpx.TransportError:
            return "restarting"

    with running(project, "make", "dev", PORT=str(port)) as dev:
        dev.wait_for("Serving")
        write_tree(project, {"routes/stream/route.py": STREAM, "routes/new/route.py": text.format("one")})
        wait_until(lambda: answer() == "one")
        seen = route.stat()
        route.write_text(text.format("two"))
        os.utime(route, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as long, and saved within the same second
        wait_until(lambda: answer() == "two")
        route.write_text("async def get(): ...\n")
        wait_until(lambda: "Detected lowercase method 'get' in 'routes/new/route.py'" in answer())
        dev.wait_for("Detected lowercase method 'get'")
        route.write_text(text.format("three"))
        wait_until(lambda: answer() == "three")
        route.parent.rename(project / "routes/moved")
        wait_until(lambda: "Not Found" in answer())
        # an open stream (a browser's tab) does not hold the reload up
        with httpx.stream("GET", f"http://127.0.0.1:{port}/stream", trust_env=False) as stream:
            assert stream.status_code == 200
            write_tree(project, {"routes/new/route.py": text.format("four")})
            wait_until(lambda: answer() == "four")


def test_make_start_stays_closed_without_a_token_and_says_which_to_set(project: Project):
    port = free_port()
    write_tree(project, {"routes/asked/route.py": ASKED})
    with running(project, "make", "start", PORT=str(port), HOST="127.0.0.1", WEB_CONCURRENCY="2") as server:
        server.wait_for("Application startup complete")
        server.wait_for("WEBCHAT_TOKEN is not set")
        assert httpx.get(f"http://127.0.0.1:{port}/asked", trust_env=False).status_code == 401


def test_uvicorn_serves_the_app_by_its_name_with_settings_from_env_local(project: Project):
    port = free_port()
    write_tree(project, {".env.local": "WEBCHAT_TOKEN=from-a-file\nMINE=a setting of the route's own\n"})
    write_tree(
        project,
        {
            "routes/asked/route.py": ASKED,
            "routes/mine/route.py": "import os\n"
            "from starlette.responses import PlainTextResponse\n"
            "async def GET(request): return PlainTextResponse(os.environ['MINE'])\n",
        },
    )
    with running(project, ".venv/bin/uvicorn", "app:app", "--port", str(port)) as server:
        server.wait_for("Uvicorn running")
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer from-a-file"}, trust_env=False
        ) as client:
            assert client.get("/asked").text == "for those with the token"
            assert client.get("/mine").text == "a setting of the route's own"


@pytest.mark.parametrize("command", [(PYTHON, "-m", "app", "start"), (".venv/bin/uvicorn", "app:app")])
def test_a_bad_setting_stops_the_start_without_a_traceback(project: Project, command: tuple[str, ...]):
    done = run(project, *command, LOG_LEVEL="loud")
    assert done.returncode != 0
    assert "LOG_LEVEL: 'loud' cannot be used: one of debug, info, warning, error is required" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_stops_the_start_with_the_mend(project: Project):
    port = free_port()
    with running(project, "make", "start", PORT=str(port)) as server:
        server.wait_for("Application startup complete")
        done = run(project, PYTHON, "-m", "app", "dev", PORT=str(port))
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert f"PORT={port + 1} make dev" in done.stderr


def test_make_routes_lists_the_routes(project: Project):
    write_tree(project, {"routes/stream/[id]/route.py": STREAM})
    done = run(project, "make", "routes")
    assert done.returncode == 0
    assert re.search(r"GET +/stream/\[id\] +routes/stream/\[id\]/route\.py", done.stdout)


def test_make_routes_lists_every_problem_at_once(project: Project):
    write_tree(
        project,
        {
            "routes/a/route.py": "default = 1\n",
            "routes/b/route.py": "import nothing_of_this_name\n",
            "routes/c/[x]/y/route.py": "async def GET(): ...\n",
            "routes/c/[z]/route.py": "async def GET(): ...\n",
        },
    )
    done = run(project, ".venv/bin/python", "-m", "app", "routes")
    assert done.returncode == 1
    assert "Detected default export in 'routes/a/route.py'" in done.stderr
    assert "No module named 'nothing_of_this_name'" in done.stderr
    assert "while loading routes/b/route.py" in done.stderr
    assert "different slug names for the same dynamic path ('x' !== 'z')" in done.stderr


def test_a_route_that_cannot_be_served_stops_the_start(project: Project):
    write_tree(project, {"routes/a/route.py": "default = 1\n"})
    done = run(project, ".venv/bin/uvicorn", "app:app")
    assert done.returncode == 3
    assert "Detected default export in 'routes/a/route.py'" in done.stderr
    assert "Traceback" not in done.stderr


def test_make_jobs_lists_the_schedules_and_replay_says_what_it_did(project: Project):
    write_tree(project, {"jobs/tidy.py": "schedule = '0 4 * * *'\ndef run(job): ...\n"})
    done = run(project, "make", "jobs")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"next     \d{4}-\d\d-\d\dT04:00:00\.000Z  tidy\n", done.stdout)
    done = run(project, PYTHON, "-m", "app", "jobs", "replay", "nothing")
    assert (done.returncode, done.stderr) == (1, "There is no job nothing; see: python -m app jobs\n")
    assert run(project, PYTHON, "-m", "app", "jobs", "replay").returncode == 2
