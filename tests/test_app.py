"""The commands: what a stranger types, started as processes of their own in a copy of the project."""

import os
import re
import signal
import socket
from contextlib import ExitStack

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


@pytest.mark.parametrize("command", ["dev", "start"])
def test_an_ipv6_address_is_printed_as_a_url_that_answers(project: Project, command: str):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = free_port()
    write_tree(project, {"routes/a/route.py": STREAM, "public/a.txt": "a file"})
    with running(project, "make", command, PORT=str(port), HOST="::1") as server:
        server.wait_for(f"http://[::1]:{port}")
        wait_until(lambda: "startup complete" in server.output or command == "dev")
        [url] = set(re.findall(r"http://\S+:\d+", server.output))
        assert httpx.get(f"{url}/a.txt", trust_env=False).text == "a file"


def test_what_editors_leave_beside_a_file_does_not_restart_make_dev(project: Project):
    port = free_port()
    text = "from starlette.responses import PlainTextResponse\n\nasync def GET(): return PlainTextResponse('{}')\n"
    folder = project / "routes/edited"
    write_tree(folder, {"route.py": text.format("one")})

    def answer() -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/edited", trust_env=False).text
        except httpx.TransportError:
            return "restarting"

    left = ["#route.py#", ".route.py.swp", ".route.py.swo", ".route.py.swx", ".DS_Store", "4913", "route.py~", "a.pyc"]
    with running(project, PYTHON, "-m", "app", "dev", PORT=str(port)) as dev:
        dev.wait_for("Serving")
        (folder / ".#route.py").symlink_to("somebody@a-machine.1234")  # as emacs locks a file: it leads nowhere
        for name in left:
            (folder / name).write_text("x")
        for name in left:
            (folder / name).unlink()
        (folder / ".#route.py").unlink()
        (folder / "route.py").write_text(text.format("another"))  # seen after all of these
        wait_until(lambda: answer() == "another")
        told = [line for line in dev.output.splitlines() if "Reloading" in line]
    assert len(told) == 1
    assert "routes/edited/route.py'" in told[0]
    assert not [name for name in [*left, ".#route.py"] if f"/{name}'" in told[0]]


SETTINGS_SEEN = """import os
from starlette.responses import PlainTextResponse
from auth import requires, service


@requires(service)
async def GET(): return PlainTextResponse(f"{os.getpid()} {os.environ.get('MINE', 'gone')}")
"""


@pytest.mark.parametrize("command", ["start", "dev"])
def test_saved_and_removed_lines_of_env_local_count_after_a_reload(project: Project, command: str):
    port = free_port()
    write_tree(project, {"routes/seen/route.py": SETTINGS_SEEN, ".env.local": "WEBCHAT_TOKEN=old\nMINE=one\n"})

    def ask(token: str) -> tuple[int, str]:
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{port}/seen", headers={"Authorization": f"Bearer {token}"}, trust_env=False
            )
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.text.partition(" ")[2]

    processes = {"start": 2, "dev": 1}[command]
    with running(project, PYTHON, "-m", "app", command, PORT=str(port), WEB_CONCURRENCY=str(processes)) as server:
        wait_until(lambda: ask("old") == (200, "one"))
        wait_until(lambda: command == "dev" or server.output.count("Application startup complete") == processes)
        write_tree(project, {".env.local": "WEBCHAT_TOKEN=new\n"})
        if command == "start":
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: server.output.count("Finished server process") == processes, 200)  # the old ones
        wait_until(lambda: ask("new") == (200, "gone"))
        for _ in range(20):  # of several processes any may answer
            assert ask("old")[0] == 401
            assert ask("new") == (200, "gone")


SEES_LIMITS = """import resource
from starlette.responses import PlainTextResponse


async def GET():
    return PlainTextResponse(str(resource.getrlimit(resource.RLIMIT_NOFILE)))
"""


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_the_limit_on_descriptors_is_raised_and_told_where_it_does_not_suffice(project: Project):
    port = free_port()
    write_tree(project, {"routes/limits/route.py": SEES_LIMITS})
    limited = ("bash", "-c", f"ulimit -Sn 200; ulimit -Hn 400; exec {PYTHON} -m app start")
    with running(project, *limited, PORT=str(port), CHAT_MAX_STREAMS="1000") as server:
        wait_until(lambda: is_open(port))
        assert "CHAT_MAX_STREAMS is 1000, but 400 file descriptors are enough for 150 answers at once" in server.output
        assert "set CHAT_MAX_STREAMS=150" in server.output
        assert httpx.get(f"http://127.0.0.1:{port}/limits", trust_env=False).text == "(400, 400)"
    with running(project, *limited, PORT=str(port), CHAT_MAX_STREAMS="150") as server:
        wait_until(lambda: is_open(port))
        assert "file descriptors" not in server.output
    few = ("bash", "-c", f"ulimit -n 120; exec {PYTHON} -m app start")
    with running(project, *few, PORT=str(port), CHAT_MAX_STREAMS="10") as server, ExitStack() as held:
        wait_until(lambda: is_open(port))
        for _ in range(10):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/limits", trust_env=False).status_code == 503)
        held.close()
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/limits", trust_env=False).status_code == 200)


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
@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [("LOG_LEVEL", "loud", "one of debug, info, warning, error"), ("LOG_FORMAT", "xml", "one of text, json")],
)
def test_a_bad_setting_stops_the_start_without_a_traceback(
    project: Project, command: tuple[str, ...], setting: str, value: str, words: str
):
    done = run(project, *command, **{setting: value})
    assert done.returncode != 0
    assert f"{setting}: '{value}' cannot be used: {words} is required" in done.stderr
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
    limits = "max_body_bytes = 50_000_000\ntimeout = 2.5\n"
    write_tree(project, {"routes/large/route.py": f"{limits}async def POST(): ...\n"})
    done = run(project, "make", "routes")
    assert done.returncode == 0
    assert re.search(r"GET +/stream/\[id\] +routes/stream/\[id\]/route\.py\n", done.stdout)
    assert re.search(r"POST +/large +routes/large/route\.py +max_body_bytes=50000000, timeout=2\.5\n", done.stdout)


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
