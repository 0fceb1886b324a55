"""`check --deploy`: quiet where all is sound, else it names what to change, and not the values."""

from pathlib import Path

import pytest

from tests.processes import PYTHON, Project, run
from tests.tokens import JWT_SECRET

A, B = "a" * 32, "b" * 32
SOUND = {"WEBCHAT_TOKEN": A, "CRON_SECRET": B}


def deploy(project: Project, **settings: str) -> tuple[int, str]:
    done = run(project, PYTHON, "-m", "app", "check", "--deploy", **settings)
    assert A not in done.stdout + done.stderr
    return done.returncode, done.stderr


def test_what_is_sound_is_passed_in_silence(project: Project):
    assert deploy(project, **SOUND) == (0, "")
    folder = project / "data"
    folder.mkdir(mode=0o700)
    run(project, PYTHON, "-m", "app", "migrate", **SOUND)
    assert (folder / "app.db").exists()
    assert deploy(project, **SOUND) == (0, "")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"WEBCHAT_TOKEN": ""}, "WEBCHAT_TOKEN is not set"),
        ({"CRON_SECRET": ""}, "CRON_SECRET is not set"),
        ({"CRON_SECRET": "short"}, "CRON_SECRET is shorter"),
        ({"CRON_SECRET": A}, "WEBCHAT_TOKEN and CRON_SECRET are equal"),
        ({"HOST": "0.0.0.0"}, "HOST"),  # noqa: S104 - what it warns of
        ({"HOST": "::"}, "HOST"),
        ({"LOG_LEVEL": "debug"}, "LOG_LEVEL"),
        ({"FORWARDED_ALLOW_IPS": "*"}, "FORWARDED_ALLOW_IPS"),
        ({"AUTH_JWKS_URL": "http://id.example/jwks", "AUTH_AUDIENCE": "chat"}, "AUTH_JWKS_URL is http"),
        ({"AUTH_JWKS_URL": "https://id.example/jwks"}, "AUTH_AUDIENCE is not set"),
    ],
)
def test_what_should_not_face_the_internet_is_named(project: Project, settings: dict[str, str], named: str):
    code, said = deploy(project, **SOUND | settings)
    assert code == 0
    [line] = said.splitlines()
    assert line.startswith(f"Warning: {named}")


def test_visitors_alone_are_enough(project: Project):
    assert deploy(project, CRON_SECRET=B, AUTH_JWT_SECRET=JWT_SECRET) == (0, "")


def test_files_that_others_can_read_are_named(project: Project):
    (project / ".env").write_text(f"WEBCHAT_TOKEN={A}\nCRON_SECRET={B}\n")
    (project / ".env").chmod(0o644)
    run(project, PYTHON, "-m", "app", "migrate")
    file = project / "data/app.db"
    file.chmod(0o644)
    code, said = deploy(project)
    assert code == 0
    assert [Path(line.split()[1]).name for line in said.splitlines()] == [".env", "app.db"]
    for name in (project / ".env", file):
        name.chmod(0o600)
    assert deploy(project) == (0, "")


def test_a_database_that_is_away_is_an_error(project: Project):
    url = "postgresql://user:secretpw@127.0.0.1:1/name"
    code, said = deploy(project, **SOUND, DATABASE_URL=url)
    assert code == 1
    assert "DATABASE_URL" in said
    assert "secretpw" not in said
