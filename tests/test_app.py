"""The commands: what a stranger types, started as processes of their own in a copy of the project."""

import os
import re
import shlex
import shutil

import httpx
import pytest

from tests.processes import PYTHON, Project, run, running
from tests.servers import free_port, wait_until, write_tree


def test_make_dev_prints_a_curl_line_that_streams_the_offline_model(project: Project):
    port = free_port()
    with running(project, "make", "dev", PORT=str(port)) as dev:
        dev.wait_for("curl -N")
        assert re.search(r"POST +/api/chat +routes/api/chat/route\.py", dev.output)
        assert re.search(r"GET, HEAD +/api/cron +routes/api/cron/route\.py", dev.output)
        assert f"http://localhost:{port}" in dev.output
        assert "the offline one" in dev.output
        line = next(line for line in dev.output.splitlines() if "curl -N" in line)
        words = shlex.split(line)
        url = next(word for word in words if word.startswith("http"))
        headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
        with httpx.stream(
            "POST", url, headers=headers, content=words[words.index("-d") + 1], trust_env=False
        ) as response:
            lines = [line for line in response.iter_lines() if line]
        assert response.status_code == 200
        assert len(lines) > 10
        assert lines[-1] == "data: [DONE]"
        assert '"offline "' in "".join(lines)
        assert httpx.post(url, json={"message": "Hi"}, trust_env=False).status_code == 401
        link = f"http://localhost:{port}/#token={headers['Authorization'].removeprefix('Bearer ')}"
        assert link in dev.output
        assert "<title>Chat</title>" in httpx.get(link, trust_env=False).text
        if shutil.which("curl"):
            pasted = run(project, "sh", "-c", line)
            assert pasted.stdout.endswith("data: [DONE]\n\n")


def test_make_dev_serves_a_new_a_changed_and_a_broken_file_and_the_mended_one(project: Project):
    port = free_port()
    route = project / "routes/new/route.py"
    text = "from starlette.responses import PlainTextResponse\n\nasync def GET(): return PlainTextResponse('{}')\n"

    def answer() -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/new", trust_env=False).text
        except httpx.TransportError:
            return "restarting"

    with running(project, "make", "dev", PORT=str(port)) as dev:
        dev.wait_for("curl -N")
        token = re.search(r"Bearer ([\w-]+)", dev.output)
        assert token
        headers = {"Authorization": f"Bearer {token[1]}"}
        write_tree(project, {"routes/new/route.py": text.format("one")})
        wait_until(lambda: answer() == "one", 20)
        seen = route.stat()
        route.write_text(text.format("two"))
        os.utime(route, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as long, and saved within the same second
        wait_until(lambda: answer() == "two", 20)
        route.write_text("async def get(): ...\n")
        wait_until(lambda: "Detected lowercase method 'get' in 'routes/new/route.py'" in answer(), 20)
        assert "Detected lowercase method 'get'" in dev.output
        route.write_text(text.format("three"))
        wait_until(lambda: answer() == "three", 20)
        route.parent.rename(project / "routes/moved")
        wait_until(lambda: "Not Found" in answer(), 20)
        # an open stream (a browser's tab) does not hold the reload up, and the token is still good
        with httpx.stream(
            "POST",
            f"http://127.0.0.1:{port}/api/chat",
            headers=headers,
            json={"message": "word " * 5000},
            trust_env=False,
        ) as stream:
            assert stream.status_code == 200
            write_tree(project, {"routes/new/route.py": text.format("four")})
            wait_until(lambda: answer() == "four", 20)


def test_make_start_stays_closed_without_a_token_and_says_which_to_set(project: Project):
    port = free_port()
    with running(project, "make", "start", PORT=str(port), HOST="127.0.0.1", WEB_CONCURRENCY="2") as server:
        server.wait_for("Application startup complete")
        server.wait_for("WEBCHAT_TOKEN is not set")
        response = httpx.post(f"http://127.0.0.1:{port}/api/chat", json={"message": "Hi"}, trust_env=False)
        assert response.status_code == 401


def test_uvicorn_serves_the_app_by_its_name_with_settings_from_env_local(project: Project):
    port = free_port()
    write_tree(project, {".env.local": "WEBCHAT_TOKEN=from-a-file\nMINE=a setting of the route's own\n"})
    write_tree(
        project,
        {
            "routes/mine/route.py": "import os\n"
            "from starlette.responses import PlainTextResponse\n"
            "async def GET(request): return PlainTextResponse(os.environ['MINE'])\n"
        },
    )
    with running(project, ".venv/bin/uvicorn", "app:app", "--port", str(port)) as server:
        server.wait_for("Uvicorn running")
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer from-a-file"}, trust_env=False
        ) as client:
            assert client.post("/api/chat", json={"message": "Hi"}).status_code == 200
            assert client.get("/mine").text == "a setting of the route's own"


@pytest.mark.parametrize("command", [(PYTHON, "-m", "app", "start"), (".venv/bin/uvicorn", "app:app")])
def test_a_bad_setting_stops_the_start_without_a_traceback(project: Project, command: tuple[str, ...]):
    done = run(project, *command, LOG_LEVEL="loud")
    assert done.returncode != 0
    assert "LOG_LEVEL: 'loud' cannot be used: one of debug, info, warning, error is wanted" in done.stderr
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
    done = run(project, "make", "routes")
    assert done.returncode == 0
    assert re.search(r"POST +/api/chat +routes/api/chat/route\.py", done.stdout)


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
    done = run(project, "make", "jobs")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"next     \d{4}-\d\d-\d\dT04:00:00\.000Z  forget_conversations\n", done.stdout)
    done = run(project, PYTHON, "-m", "app", "jobs", "replay", "nothing")
    assert (done.returncode, done.stderr) == (1, "No failed job is called nothing; see: python -m app jobs\n")
    assert run(project, PYTHON, "-m", "app", "jobs", "replay").returncode == 2
