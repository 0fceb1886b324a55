"""What goes wrong in the first hour says what, where and how to fix it, and shows no traceback of ours.

A port that is taken is in test_app.py; a model's name and key that the server does not know are in
tests/routes/test_api_chat.py.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.processes import PYTHON, Project, run, running
from tests.servers import free_port, write_tree

MAKE = str(shutil.which("make"))

OLD = """#!/bin/sh
exec {python} -c 'import sys; sys.version_info = (3, 10, 12, "final", 0); exec(sys.argv[2])' "$@"
"""
WITHOUT_VENV = """#!/bin/sh
[ "$1" = -m ] && echo "The virtual environment was not created: ensurepip is not available." && exit 1
exec {python} "$@"
"""


def machine(folder: Path, python: str) -> str:
    """A PATH with the few tools that the Makefile calls, and one Python of each name, which is a script."""
    folder.mkdir()
    for tool in ("touch", "rm"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    for name in ("python", "python3", *(f"python3.{minor}" for minor in range(9, 16))):
        (folder / name).write_text(python.format(python=sys.executable))
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("target", ["dev", "test", "routes"])
def test_a_python_that_is_too_old_is_named_with_the_version_that_is_needed(
    project: Project, tmp_path: Path, target: str
):
    shutil.rmtree(project / ".venv")
    done = run(project, MAKE, target, PATH=machine(tmp_path / "bin", OLD))
    assert done.returncode != 0
    assert "Python 3.11 or later is needed and was not found." in done.stderr
    assert "make PYTHON=/path/to/python3.11" in done.stderr
    assert not (project / ".venv").exists()


def test_a_python_that_is_named_is_taken_before_those_of_the_path(project: Project, tmp_path: Path):
    shutil.rmtree(project / ".venv")
    named = tmp_path / "named"
    named.write_text(WITHOUT_VENV.format(python=sys.executable))
    named.chmod(0o755)
    done = run(project, MAKE, "dev", f"PYTHON={named}", PATH=machine(tmp_path / "bin", OLD))
    assert f"{named} cannot create a virtual environment." in done.stderr


def test_a_python_without_venv_and_pip_is_told_which_package_has_them(project: Project, tmp_path: Path):
    shutil.rmtree(project / ".venv")
    done = run(project, MAKE, "dev", PATH=machine(tmp_path / "bin", WITHOUT_VENV))
    assert done.returncode != 0
    assert "python3 cannot create a virtual environment. On Debian and Ubuntu: apt install python3-venv" in done.stderr
    assert not (project / ".venv").exists()  # half of one would be taken for a whole one the next time


def not_writable(project: Project) -> str:
    """A data folder in which nothing can be written, and what the system says to it."""
    if os.geteuid() == 0:  # whom no permission keeps out
        (project / "data").write_text("a file of that name")
        return "File exists"
    (project / "data").mkdir(mode=0o500)
    return "unable to open database file"


@pytest.mark.parametrize(
    "command",
    [
        (PYTHON, "-m", "app", "start"),
        (PYTHON, "-m", "app", "jobs"),
        (".venv/bin/uvicorn", "app:app", "--port", "{port}"),
        (".venv/bin/uvicorn", "app:app", "--port", "{port}", "--workers", "2"),
    ],
    ids=["start", "jobs", "uvicorn", "workers"],
)
def test_a_data_folder_that_cannot_be_written_stops_the_start_with_its_path(project: Project, command: tuple[str, ...]):
    why = not_writable(project)
    port = str(free_port())
    done = run(project, *(word.replace("{port}", port) for word in command), PORT=port)
    assert done.returncode in (1, 3) or "--workers" in command
    said = done.stdout + done.stderr
    assert f"DATABASE_URL: {project}/data/app.db cannot be opened for writing: " in said
    assert why in said
    assert "Give this user write permission for its folder, or name another file." in said
    assert "Traceback" not in said


def test_make_dev_waits_where_the_data_folder_cannot_be_written_and_serves_once_it_can(project: Project):
    not_writable(project)
    with running(project, "make", "dev", PORT=str(free_port())) as dev:
        dev.wait_for("Save a file to try again")
        assert f"DATABASE_URL: {project}/data/app.db cannot be opened for writing: " in dev.output
        assert "Traceback" not in dev.output
        if (project / "data").is_dir():
            (project / "data").rmdir()
        else:
            (project / "data").unlink()
        write_tree(project, {".env.local": "MINE=1\n"})
        dev.wait_for("Serving")


def test_a_server_that_is_not_there_is_named_without_its_password(project: Project):
    port = free_port()
    url = f"postgresql://me:a-password@127.0.0.1:{port}/mine"
    done = run(project, PYTHON, "-m", "app", "start", PORT=str(free_port()), DATABASE_URL=url)
    assert done.returncode == 3
    assert f"DATABASE_URL: postgresql://...@127.0.0.1:{port}/mine cannot be used: " in done.stderr
    assert "a-password" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["dev", "start", "routes", "jobs", "check"])
def test_a_line_of_env_that_is_not_name_value_stops_every_command_with_its_number(project: Project, command: str):
    write_tree(project, {".env": "# mine\nOPENAI_API_KEY sk-1\n"})
    done = run(project, PYTHON, "-m", "app", command)
    assert done.returncode == 1
    assert done.stderr.startswith(".env line 2: this is not NAME=value. Write NAME=value or ")
    assert "sk-1" not in done.stderr


def test_a_misspelt_verb_is_told_the_right_one(project: Project):
    handler = "from starlette.responses import Response\n\n\nasync def {}(request): return Response()\n"
    names = {"get": "GET", "Post": "POST", "GETT": "GET", "DELET": "DELETE", "PTACH": "PATCH"}
    write_tree(project, {f"routes/{name}/route.py": handler.format(name) for name in names})
    done = run(project, PYTHON, "-m", "app", "check")
    assert done.returncode == 1
    said = {name: line for name in names for line in done.stderr.splitlines() if f"routes/{name}/route.py" in line}
    for name, verb in names.items():
        assert f"'{verb}' method name to fix this error" in said[name] or f"Did you mean {verb}?" in said[name]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("file", ["routes/x/route.py", "jobs/x.py", "channels/x.py", "routes/x/middleware.py"])
def test_a_package_that_is_not_installed_is_named_with_the_file_and_the_mend(project: Project, file: str):
    route = {"routes/x/route.py": "from starlette.responses import Response\ndef GET(): return Response()\n"}
    write_tree(project, {**route, file: "import json\nimport no_such_package.part\n"})
    done = run(project, PYTHON, "-m", "app", "check")
    assert done.returncode == 1
    assert f'{file}", line 2, in <module>' in done.stderr
    assert f"while loading {file}" in done.stderr
    assert (
        "No package that is installed has 'no_such_package'. Add the one that does to the dependencies in"
        in done.stderr
    )
    assert "pyproject.toml and run make dev, which installs what is missing." in done.stderr
    assert len(done.stderr.splitlines()) <= 7  # of the traceback, what the reader wrote


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("from lib.money import euros", "There is no 'lib' beside app.py. Did you mean 'libs', which is there?"),
        ("import libs.mony", "There is no 'mony' in libs/. Did you mean 'money', which is there?"),
        ("import warehose", "There is no 'warehose' beside app.py. Did you mean 'warehouse', which is there?"),
    ],
)
def test_a_module_of_ones_own_that_is_misnamed_is_told_the_right_one(project: Project, line: str, words: str):
    write_tree(project, {"libs/money.py": "def euros(): ...\n", "warehouse.py": "", "routes/x/route.py": f"{line}\n"})
    done = run(project, PYTHON, "-m", "app", "check")
    assert done.returncode == 1
    assert words in done.stderr
    assert "pyproject.toml" not in done.stderr  # a stranger's package of that name must not be installed


def test_what_is_read_under_another_name_only_is_told(project: Project):
    files = {
        "migration/001_customers.sql": "SELECT 1;",
        "chanels/shop.py": "",
        "job/digest.py": "",
        "instrumentations.py": "",
        "app/api/users/route.py": "",
        "src/app/api/users/[id]/route.py": "",
        "jobz/__init__.py": "",  # a package of one's own
        "lib/route.py": "",
    }
    write_tree(project, files)
    done = run(project, PYTHON, "-m", "app", "check")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "is not read" in line] == [
        "app/api/users/route.py is not read. Did you mean routes/api/users/route.py?",
        "chanels/ is not read. Did you mean channels/?",
        "instrumentations.py is not read. Did you mean instrumentation.py?",
        "job/ is not read. Did you mean jobs/?",
        "migration/ is not read. Did you mean migrations/?",
        "src/app/api/users/[id]/route.py is not read. Did you mean routes/api/users/[id]/route.py?",
    ]


def test_the_folder_of_the_routes_may_have_another_name(project: Project):
    handler = "from starlette.responses import Response\n\n\nasync def GET(request): return Response()\n"
    for name in ("route", "app"):
        write_tree(project, {f"{name}/x/route.py": handler, ".env": f"ROUTES_DIR={name}\n"})
        done = run(project, PYTHON, "-m", "app", "check")
        assert done.returncode == 0, done.stderr
        assert f"{name}/" not in done.stderr
        shutil.rmtree(project / name)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("routes/x/middleware.py", "def middleware(app): ...\n"),
        ("middleware.py", "async def middleware(request): ...\n"),
        ("jobs/x.py", "def attempts(): ...\nasync def run(job): ...\n"),
        ("instrumentation.py", "def register(): ...\n"),
    ],
)
def test_no_message_shows_an_address_of_a_function(project: Project, file: str, text: str):
    write_tree(
        project, {"routes/x/route.py": "from starlette.responses import Response\ndef GET(): return Response()\n"}
    )
    write_tree(project, {file: text})
    done = run(project, PYTHON, "-m", "app", "check")
    assert done.returncode == 1
    assert file in done.stderr
    assert "0x" not in done.stderr


def test_a_helper_that_is_not_there_is_no_package_that_is_missing(project: Project):
    write_tree(project, {"routes/x/route.py": "from .helper import shape\n"})
    done = run(project, PYTHON, "-m", "app", "check")
    assert "ModuleNotFoundError" in done.stderr
    assert "pyproject.toml" not in done.stderr
