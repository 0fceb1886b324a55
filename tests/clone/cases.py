"""A clone that a team has changed: the suite stays green, and a later version comes by `git merge`.

`make clone` runs this file; `make test` does not, since it runs the suite itself. What bounds its time: the suite of
the clone is run once, without the benches, which know nothing of a clone, and without this file.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from config import HERE
from tests.clone.team import ANY_VERSION, SETTINGS, TEAM
from tests.conftest import copy_of_the_project
from tests.processes import PYTHON, Project, running
from tests.servers import free_port, write_tree
from tests.test_docs import DOCUMENTS, files_of

BEFORE = "ec0e590"  # the version of 26 November, before anything here was a team's by name
LIMIT = 3600  # seconds: a bound, which no quiet machine comes near

BENCHES = ("bench", "bench_chat", "bench_webhooks")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder outside of pytest's own, which it closes to the user that PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(prefix="clone", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def told(project: Project, *command: str, **environ: str) -> str:
    """What a command prints. It must end with 0."""
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environ}
    env |= {name: f"a {role}" for role in ("AUTHOR", "COMMITTER") for name in (f"GIT_{role}_NAME", f"GIT_{role}_EMAIL")}
    done = subprocess.run(command, cwd=project, env=env, text=True, capture_output=True, timeout=LIMIT)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def examples() -> dict[str, str]:
    """Every file that the README and the docs show."""
    found: dict[str, str] = {}
    for document in DOCUMENTS:
        for name, text in files_of(document).items():
            assert found.setdefault(name, text) == text, f"{name} of {document.name} is another on another page"
    return found


def up_to_date(project: Project) -> None:
    """What is installed is what pyproject.toml asks for: make need not install it again."""
    for stamp in ("python", "app", "test", "check"):
        if (project / ".venv" / stamp).exists():
            (project / ".venv" / stamp).touch()


def test_every_example_and_a_teams_own_files_leave_the_suite_green(folder: Path):
    clone = copy_of_the_project(folder / "clone")
    write_tree(clone, {**TEAM, **examples()})
    write_tree(clone, {".env": SETTINGS})
    up_to_date(clone)
    told(clone, "make", "check")
    ignored = " ".join(f"--ignore=tests/test_{name}.py" for name in BENCHES)
    told(clone, "make", "test", f"ARGS={ignored}")
    assert not (clone / "called").exists(), "a test called a handler of the team's"


def test_what_the_team_added_works(folder: Path):
    clone = copy_of_the_project(folder / "clone")
    write_tree(clone, {**TEAM, ".env": SETTINGS})
    works(clone, f"sqlite:///{folder}/app.db")


def works(clone: Project, database_url: str) -> None:
    port = str(free_port())
    said = told(clone, PYTHON, "-m", "app", "check", DATABASE_URL=database_url)
    assert said.startswith("Nothing stops the start: ")
    with running(clone, PYTHON, "-m", "app", "start", PORT=port, DATABASE_URL=database_url) as server:
        server.wait_for("Application startup complete")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            answer = client.get("/team/customers/1").json()
            assert answer["rows"] == [{"name": "Ada; the first", "cents": 1200}]
            assert answer["greeting"] == "hello"
            for path, status in {"/team/open/p07": 200, "/team.txt": 200, "/nowhere": 404, "/team/open/": 308}.items():
                found = client.get(path)
                assert (path, found.status_code, found.headers.get("x-team")) == (path, status, "yes")
            assert client.post("/api/webhooks/team_till", json={"id": 1}).status_code == 401
    assert "team_count" in told(clone, PYTHON, "-m", "app", "jobs", DATABASE_URL=database_url)


def git(project: Project, *words: str) -> str:
    return told(project, "git", *words)


@pytest.fixture
def old(folder: Path) -> Project:
    """A clone of an earlier version, to which a team committed what is its own."""
    if subprocess.run(["git", "cat-file", "-e", f"{BEFORE}^{{commit}}"], cwd=HERE, capture_output=True).returncode:
        pytest.skip(f"the history of this clone does not reach back to {BEFORE}: git fetch --unshallow")
    clone = folder / "team"
    git(HERE, "clone", "--quiet", "--no-checkout", str(HERE), str(clone))
    git(clone, "checkout", "--quiet", "-b", "team", BEFORE)
    write_tree(clone, {**TEAM, ".env": SETTINGS})
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "What is ours")
    shutil.copytree(HERE / ".venv", clone / ".venv", symlinks=True, copy_function=os.link)
    return clone


def test_a_clone_of_an_earlier_version_takes_this_one_by_a_merge(folder: Path, old: Project):
    database_url = f"sqlite:///{folder}/app.db"
    headers = {"Authorization": "Bearer a-token-of-the-team"}
    port = str(free_port())
    with running(old, PYTHON, "-m", "app", "start", PORT=port, DATABASE_URL=database_url) as server:
        server.wait_for("Application startup complete")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as client:
            asked = {"message": "What was said before", "conversationId": "kept"}
            assert client.post("/api/chat", json=asked, timeout=60).text.endswith("data: [DONE]\n\n")

    git(old, "fetch", "--quiet", str(HERE), "HEAD")
    git(old, "merge", "--quiet", "--no-edit", "FETCH_HEAD")
    assert git(old, "status", "--porcelain") == ""
    up_to_date(old)
    works(old, database_url)
    with running(old, PYTHON, "-m", "app", "start", PORT=port, DATABASE_URL=database_url) as server:
        server.wait_for("Application startup complete")
        kept = httpx.get(f"http://127.0.0.1:{port}/api/conversations/kept", headers=headers, trust_env=False).json()
        assert kept["data"]["messages"][0]["content"] == "What was said before"
    told(old, PYTHON, "-m", "pytest", "tests/test_team.py")
    told(old, "make", "check")


def test_a_release_that_touches_every_file_of_the_machine_comes_by_a_merge_too(old: Project):
    git(old, "fetch", "--quiet", str(HERE), "HEAD")
    git(old, "merge", "--quiet", "--no-edit", "FETCH_HEAD")
    project = old / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = [\n", 'dependencies = [\n    "stripe>=12",\n', 1))
    git(old, "commit", "--quiet", "--all", "--message", "A package of ours")

    git(old, "checkout", "--quiet", "-b", "release", "FETCH_HEAD")
    for name in git(old, "ls-files", "-z", "*.py", "*.md", "*.css", "Makefile").split("\0"):
        if name and (old / name).is_file():
            comment = {".md": "\n<!-- later -->\n", ".css": "\n/* later */\n"}.get(Path(name).suffix, "\n# later\n")
            (old / name).write_text((old / name).read_text() + comment)
    project.write_text(project.read_text().replace('version = "0.1.0"', 'version = "0.2.0"'))
    git(old, "commit", "--quiet", "--all", "--message", "A later release")

    git(old, "checkout", "--quiet", "team")
    git(old, "merge", "--quiet", "--no-edit", "release")
    assert git(old, "status", "--porcelain") == ""
    assert '"stripe>=12"' in project.read_text()
    assert 'version = "0.2.0"' in project.read_text()
    assert not [name for name in ANY_VERSION if (old / name).read_text() != ANY_VERSION[name]]
    assert told(old, PYTHON, "-m", "app", "check").startswith("Nothing stops the start: ")
