"""python -m app: what each command says, and what it says to a word that it does not know."""

import os
import pty
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.commands import COMMANDS, main
from config import HERE
from loader import load_routes
from tests.conftest import TOKEN, Serve
from tests.processes import PYTHON, Project, run
from tests.servers import write_tree

GET = "from starlette.responses import PlainTextResponse\n\n\ndef GET(): return PlainTextResponse('ok')\n"


def test_the_help_names_every_command_and_fits_on_a_screen(project: Project):
    done = run(project, PYTHON, "-m", "app", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(re.findall(r"^    (\w+) +\w", done.stdout, re.MULTILINE)) == set(COMMANDS)
    assert "make check" in done.stdout  # lint and types: another thing than the command of that name
    assert len(done.stdout.splitlines()) <= 24
    nothing = run(project, PYTHON, "-m", "app")
    assert (nothing.returncode, nothing.stdout) == (2, done.stdout)


def test_the_version_is_that_of_pyproject_toml(project: Project):
    text = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(re.sub(r'^version = ".*"', 'version = "9.8.7"', text, flags=re.MULTILINE))
    assert run(project, PYTHON, "-m", "app", "--version").stdout == "route-py 9.8.7\n"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("rotues", "There is no command 'rotues'; did you mean routes?"),
        ("strat", "There is no command 'strat'; did you mean start?"),
        ("job", "There is no command 'job'; did you mean jobs?"),
        ("serve", "There is no command 'serve'; see: python -m app --help"),
        ("--verison", "There is no option '--verison'; did you mean --version?"),
        ("routes --hlep", "There is no option '--hlep'; did you mean --help?"),
        (
            "dev --port 4000",
            "There is no option '--port'; PORT is a setting: write PORT=... before the command or in .env",
        ),
        ("start --log-level=debug", "There is no option '--log-level'; LOG_LEVEL is a setting: write LOG_LEVEL=... "),
        ("dev now", "'now' is one word too many; see: python -m app --help"),
        ("jobs replya 7", "There is no command 'jobs replya'; did you mean replay?"),
        ("jobs replay", "jobs replay ID "),
        ("jobs replay --failed", "jobs replay --all [NAME] "),
        ("jobs run", "jobs run NAME [PAYLOAD] "),
        ("jobs cancel 1 2", "jobs cancel ID "),
        ("jobs delete --all", "jobs delete --failed [NAME] "),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest(words: str, answer: str, capsys: pytest.CaptureFixture[str]):
    assert main(words.split()) == 2
    assert answer in capsys.readouterr().err


def test_colours_are_for_a_terminal_alone(project: Project):
    def on_a_terminal(*command: str, **environ: str) -> str:
        ours, theirs = pty.openpty()
        env = {"PATH": os.environ["PATH"], "TERM": "xterm", **environ}
        with open(ours, "rb", buffering=0) as terminal:
            process = subprocess.Popen(command, cwd=project, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
            os.close(theirs)
            told = b""
            with suppress(OSError):  # Linux's way to say that nobody holds the other end any more
                while piece := terminal.read(65536):
                    told += piece
            process.wait(60)
        return told.decode()

    write_tree(project, {f"routes/{'a' * 40}/{n}/route.py": GET for n in range(100)})
    routes = (PYTHON, "-m", "app", "routes")
    coloured, plain = on_a_terminal(*routes), run(project, *routes).stdout
    assert f"\033[1m/{'a' * 40}/0" in coloured
    assert re.sub("\033\\[\\d*m", "", coloured).split() == plain.split()
    assert "\033" not in plain
    assert "\033" not in on_a_terminal(*routes, NO_COLOR="1")
    assert "\033" not in on_a_terminal(*routes, TERM="dumb")
    assert "\033[31mPORT: 'x' cannot be used" in on_a_terminal(*routes, PORT="x")


# check


def test_check_says_in_one_line_that_nothing_stops_the_start_and_opens_nothing(project: Project):
    write_tree(project, {"routes/a/route.py": GET, "jobs/tidy.py": "def run(job): ...\n"})
    done = run(project, PYTHON, "-m", "app", "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"Nothing stops the start: \d+ settings, 1 route, 1 job, 0 channels are in order\n", done.stdout
    )
    assert not (project / "data").exists()


def test_check_lists_everything_that_would_stop_the_start_at_once(project: Project):
    write_tree(
        project,
        {
            ".env": "PORT=http\n",
            ".env.local": "LOG_LEVEL=loud\n",
            "routes/a/route.py": "default = 1\n",
            "routes/b/[[x]]/route.py": GET,
            "routes/c/route.py": "def f(:\n",
            "jobs/bad.py": "schedule = '* * *'\nasync def run(job): ...\n",
            "channels/bad.py": "def verify(request, body): ...\nasync def key(request, event): ...\n",
        },
    )
    done = run(project, PYTHON, "-m", "app", "check")
    assert (done.returncode, done.stdout) == (1, "")
    for words in (
        "7 problems:",
        "PORT: 'http' cannot be used: a whole number from 1 to 65535 is required. Fix it in .env.",
        "LOG_LEVEL: 'loud' cannot be used: one of debug, info, warning, error is required. Fix it in .env.local.",
        "Detected default export in 'routes/a/route.py'",
        "routes/b/[[x]]: '[[x]]': Optional route parameters are not yet supported.",
        'routes/c/route.py", line 1',
        "SyntaxError",
        "jobs/bad.py: schedule '* * *' cannot be used",
        "channels/bad.py: key must be a plain function.",
    ):
        assert words in done.stderr
    assert "loader.py" not in done.stderr
    assert not (project / "data").exists()


def test_check_and_the_start_refuse_the_same(project: Project):
    write_tree(project, {"routes/a/route.py": "default = 1\n", "jobs/bad.py": "", "channels/bad.py": ""})
    checked, started = (run(project, PYTHON, "-m", "app", command) for command in ("check", "start"))
    assert checked.returncode == 1
    assert started.returncode != 0
    assert checked.stderr.startswith("3 problems:")
    assert checked.stderr in started.stderr


def test_check_lets_a_route_find_the_settings_of_its_own(project: Project):
    write_tree(project, {".env": "MINE=1\n", "routes/a/route.py": "import os\nos.environ['MINE']\n" + GET})
    assert run(project, PYTHON, "-m", "app", "check").returncode == 0


def test_check_names_what_is_nearly_a_setting_and_leaves_names_of_ones_own_alone(project: Project):
    near = {
        "WEBCHAT_TOKN": "WEBCHAT_TOKEN",
        "DATABSE_URL": "DATABASE_URL",
        "PROT": "PORT",
        "OPENAI_APIKEY": "OPENAI_API_KEY",
        "webchat_token": "WEBCHAT_TOKEN",
        "LOGLEVEL": "LOG_LEVEL",
        "MODELS_SMRT": "MODEL_SMART",
    }
    own = ["STRIPE_SECRET", "MY_MODEL", "SECRET", "TOKEN", "POST_URL", "POOL", "SENTRY_DSN", "NODE_ENV", "S3_BUCKET"]
    text = "".join(f"{name}=x\n" for name in [*near, *own])
    write_tree(project, {".env": text, ".env.local": "PORTT=1\n"})
    done = run(project, PYTHON, "-m", "app", "check")
    assert (done.returncode, done.stdout.startswith("Nothing stops the start")) == (0, True)
    assert done.stderr.splitlines() == [
        "PORTT in .env.local is not a setting. Did you mean PORT?",
        *(f"{name} in .env is not a setting. Did you mean {meant}?" for name, meant in near.items()),
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://x@localhost:1/db", "DATABASE_URL: postgresql://...@localhost:1/db cannot be used: "),
        ("postgresql://bob:pa/ssS@localhost:1/db", "DATABASE_URL: its user or password holds a character"),
        ("sqlite:////proc/none/app.db", "DATABASE_URL: /proc/none/app.db cannot be opened for writing: "),
        ("sqlite:///data/text.db", "text.db is no SQLite database, or it is damaged: "),
        ("sqlite:///public/app.db", "DATABASE_URL: what is below public/ is served to everybody"),
    ],
)
def test_check_and_the_start_refuse_a_database_that_cannot_be_used(project: Project, url: str, said: str):
    write_tree(project, {"data/text.db": "This is text."})
    for command in ("check", "start"):
        done = run(project, PYTHON, "-m", "app", command, DATABASE_URL=url)
        assert done.returncode != 0
        assert said in done.stderr
        assert "ssS" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_database_in_the_served_folder_stops_the_start_wherever_that_is_and_whatever_it_is_called(project: Project):
    write_tree(project, {"site/routes/a/route.py": GET, "site/public/note.txt": "note"})
    (project / "here").symlink_to("site/public")
    for path in ("site/public/store.dat", "site/public/deep/er/app", "here/chat.txt", "site/routes/../public/.x"):
        for command in ("check", "start"):
            done = run(
                project, PYTHON, "-m", "app", command, DATABASE_URL=f"sqlite:///{path}", ROUTES_DIR="site/routes"
            )
            assert done.returncode != 0
            assert "DATABASE_URL: what is below public/ is served to everybody" in done.stderr
        assert [file.name for file in (project / "site/public").rglob("*")] == ["note.txt"]
    elsewhere = {"DATABASE_URL": "sqlite:///public/app.db", "ROUTES_DIR": "site/routes"}  # where nothing is served
    assert run(project, PYTHON, "-m", "app", "check", **elsewhere).returncode == 0


# migrate


def test_migrate_runs_the_files_without_a_server_and_a_second_time_nothing(project: Project):
    write_tree(project, {"migrations/001_mine.sql": "CREATE TABLE mine (id TEXT);", "routes/a/route.py": GET})
    waiting = run(project, PYTHON, "-m", "app", "check")
    assert "The start will run migrations/001_mine.sql\n" in waiting.stdout
    first, second = (run(project, PYTHON, "-m", "app", "migrate") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout.startswith("db/tables/001_conversations.sql ran\n")
    assert first.stdout.endswith("migrations/001_mine.sql ran\n")
    assert second.stdout == "Nothing to do: every migration ran before\n"
    write_tree(project, {"migrations/001_mine.sql": "CREATE TABLE other (id TEXT);"})
    for command in ("check", "migrate", "start"):
        done = run(project, PYTHON, "-m", "app", command)
        assert done.returncode != 0
        assert "migrations/001_mine.sql was changed after it ran" in done.stderr


@pytest.mark.slow
def test_of_four_processes_that_start_together_one_runs_each_file(project: Project, database_url: str):
    write_tree(project, {f"migrations/{n:03}_t{n}.sql": f"CREATE TABLE t{n} (id TEXT);" for n in range(1, 6)})
    command = [PYTHON, "-m", "app", "migrate"]
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url}
    several = [
        subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate(timeout=120) for process in several]
    assert [process.returncode for process in several] == [0] * 4, told
    ran = [line for out, _ in told for line in out.splitlines() if line.startswith("migrations/")]
    assert sorted(ran) == [f"migrations/{n:03}_t{n}.sql ran" for n in range(1, 6)]


def test_check_names_a_database_whose_driver_is_not_installed(project: Project):
    script = "import sys; sys.modules['asyncpg'] = None; from cli.commands import main; sys.exit(main(['check']))"
    done = run(project, PYTHON, "-c", script, DATABASE_URL="postgresql://nobody@localhost/none")
    assert done.returncode == 1
    assert "its driver is not installed. Install it: .venv/bin/python -m pip install" in done.stderr


# new


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty routes folder, which the commands of this process write to."""
    for name in ("PORT", "HOST", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROUTES_DIR", str(tmp_path / "routes"))
    monkeypatch.setenv("WEBCHAT_TOKEN", TOKEN)
    (tmp_path / "routes").mkdir()
    return tmp_path / "routes"


PATHS = [
    ("/users/[id]", "users/[id]/route.py", "/users/42", {"id": "42"}),
    ("users/[id]", "users/[id]/route.py", "/users/42", {"id": "42"}),
    ("routes/users/[id]", "users/[id]/route.py", "/users/42", {"id": "42"}),
    ("routes/users/[id]/route.py", "users/[id]/route.py", "/users/42", {"id": "42"}),
    ("/routes/users/", "routes/users/route.py", "/routes/users", {"hello": "world"}),
    ("/", "route.py", "/", {"hello": "world"}),
    ("/docs/[...slug]", "docs/[...slug]/route.py", "/docs/a/b", {"slug": ["a", "b"]}),
    ("/shop/[[...slug]]", "shop/[[...slug]]/route.py", "/shop/a/b", {"slug": ["a", "b"]}),
    ("/(site)/about", "(site)/about/route.py", "/about", {"hello": "world"}),
    ("/@slot/sp ace's", "@slot/sp ace's/route.py", "/sp%20ace%27s", {"hello": "world"}),
    ("/[my-team]/[naïve]", "[my-team]/[naïve]/route.py", "/42/42", {"my-team": "42", "naïve": "42"}),
    ('/%5Flib/"""\\', '%5Flib/"""\\/route.py', "/_lib/%22%22%22%5C", {"hello": "world"}),
    (
        f"/[{'a' * 30}]/[{'b' * 30}]",
        f"[{'a' * 30}]/[{'b' * 30}]/route.py",
        "/42/42",
        {"a" * 30: "42", "b" * 30: "42"},
    ),
]


@pytest.mark.parametrize(("typed", "file", "url", "answer"), PATHS, ids=[typed for typed, *_ in PATHS])
def test_a_new_route_answers_at_the_url_that_is_printed(
    tree: Path, serve: Serve, capsys: pytest.CaptureFixture[str], typed: str, file: str, url: str, answer: Any
):
    assert main(["new", typed]) == 0
    printed = capsys.readouterr().out
    assert (tree / file).is_file()
    assert f"Wrote routes/{file}, which answers at " in printed
    curl = shlex.split(next(line for line in printed.splitlines() if "curl" in line))
    assert curl == ["curl", f"http://localhost:3000{url}", "-H", f"Authorization: Bearer {TOKEN}"]
    base = serve(routes_dir=tree)
    name, _, value = curl[3].partition(": ")
    response = httpx.get(base + url, headers={name: value}, trust_env=False)
    assert (response.status_code, response.json()) == (200, answer)
    assert httpx.get(base + url, trust_env=False).status_code == 401


def test_a_new_catch_all_that_may_be_absent_answers_without_it_too(tree: Path, serve: Serve, bearer: dict[str, str]):
    assert main(["new", "/shop/[[...slug]]"]) == 0
    url = serve(routes_dir=tree)
    assert httpx.get(f"{url}/shop", headers=bearer, trust_env=False).json() == {}


def test_a_new_route_without_a_token_in_the_settings_says_where_one_comes_from(project: Project):
    done = run(project, PYTHON, "-m", "app", "new", "/users/[id]", PORT="3210")
    assert 'curl http://localhost:3210/users/42 -H "Authorization: Bearer $WEBCHAT_TOKEN"' in done.stdout
    assert "WEBCHAT_TOKEN is not set: make dev makes one for each run, and prints it." in done.stdout


@pytest.mark.skipif(not find_spec("pyright"), reason="pyright and ruff come with make check")
def test_new_routes_pass_the_projects_own_lint_and_types(project: Project):
    typed = [typed for typed, *_ in PATHS if typed.startswith("/")]
    for number, path in enumerate(typed):
        assert run(project, PYTHON, "-m", "app", "new", f"/{number}{path}").returncode == 0
    # on the routes alone: the rest is looked at by make check
    settings = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(re.sub(r"(?m)^include = .*", 'include = ["routes"]', settings))
    for command in (("ruff", "check", "routes"), ("ruff", "format", "--check", "routes"), ("pyright",)):
        done = run(project, PYTHON, "-m", *command)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("/there", "routes/there/route.py is there already. Edit it, or choose another path."),
        (
            "/(group)/there",
            "Conflicting routes at /there: only one file can answer there: routes/(group)",
        ),
        ("/users/[name]/posts", "You cannot use different slug names for the same dynamic path ('id' !== 'name')"),
        ("/users/[id]/[id]", 'You cannot have the same slug name "id" repeat within a single dynamic path'),
        ("/docs/[...a]/b", "routes/docs/[...a]/b/route.py: Catch-all must be the last part of the URL."),
        ("/there/[[...a]]", "You cannot define a route with the same specificity as an optional catch-all route"),
        ("/x/[[a]]", "Optional route parameters are not yet supported. Write [a]"),
        ("/x/[a", "'[a' is not a parameter. Write [a], [...a] or [[...a]]."),
        ("/x/[..a]", "it takes three plain dots. Write [...a] or [a]."),
        ("../x", "'..' can never be reached"),
        ("/users/:id", "':id' is how other frameworks write a parameter. Write /users/[id] here."),
        ("/users/{id}", "'{id}' is how other frameworks write a parameter. Write /users/[id] here."),
        ("/users/{id:int}/posts", "Write /users/[id]/posts here."),
        ("/users/<int:id>", "Write /users/[id] here."),
        ("/users/<id>", "Write /users/[id] here."),
        ("/files/{path:path}", "Write /files/[...path] here."),
        ("/files/*", "Write /files/[...path] here."),
        ("/files/*rest", "Write /files/[...rest] here."),
        ("/files/:rest*", "Write /files/[[...rest]] here."),
        ("/files/:rest+", "Write /files/[...rest] here."),
        ("/files/:rest?", "Write /files/[[...rest]] here."),
        ("/:a/{b}/[c]", "Write /[a]/[b]/[c] here."),
        ("/_lib/x", "'_lib': a folder whose name begins with _ is not routed. Write %5Flib for it."),
        ("/x/a\nb", "'a\\nb' holds a character that cannot be seen."),
        ("/logo.png", "public/logo.png answers at /logo.png already. Rename or remove it."),
        ("/notes/x", "routes/notes/x/route.py cannot be written: Not a directory. Choose another path."),
    ],
)
def test_new_refuses_what_the_start_would_and_writes_nothing(
    tree: Path, capsys: pytest.CaptureFixture[str], typed: str, words: str
):
    write_tree(
        tree, {"there/route.py": GET, "users/[id]/route.py": GET, "notes": "a file", "../public/logo.png": "png"}
    )
    before = sorted(tree.rglob("*"))
    assert main(["new", typed]) == 1
    assert words in capsys.readouterr().err
    assert sorted(tree.rglob("*")) == before
    assert len(load_routes(tree)) == 2


def test_a_tree_that_is_broken_elsewhere_does_not_keep_a_new_route_out(tree: Path):
    write_tree(tree, {"a/route.py": GET, "(g)/a/route.py": GET, "[[x]]/route.py": GET})
    assert main(["new", "/b"]) == 0


def test_the_commands_say_so_where_the_packages_are_not_installed():
    done = subprocess.run([sys.executable, "-S", "-m", "app", "dev"], cwd=HERE, text=True, capture_output=True)
    assert done.returncode == 1
    assert "has none of the project's packages. Run make dev once" in done.stderr
    assert "Traceback" not in done.stderr
