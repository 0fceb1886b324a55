"""What the settings open, close and leave weak, as `check`, the start and `token` say it: names, never values."""

import re
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import jwt
import pytest

from config import Config, load_config
from startup import DOORS, what_is_closed, what_is_open, what_is_weak
from tests.processes import PYTHON, Project, run
from tests.tokens import AUDIENCE, ISSUER, JWT_SECRET

A, B = "a" * 16, "b" * 16
JWKS = "https://id.example/jwks.json"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"webchat_token": A, "cron_secret": B}, []),
        ({"webchat_token": f"{A},{'c' * 16}", "cron_secret": B, "auth_jwt_secret": JWT_SECRET}, []),
        ({"webchat_token": "x"}, ["WEBCHAT_TOKEN"]),
        ({"cron_secret": A[1:]}, ["CRON_SECRET"]),
        ({"webchat_token": f"{A},old"}, ["WEBCHAT_TOKEN"]),
        ({"webchat_token": A, "cron_secret": A}, ["WEBCHAT_TOKEN and CRON_SECRET"]),
        ({"webchat_token": f"{A},{B}", "cron_secret": f"{'c' * 16},{B}"}, ["WEBCHAT_TOKEN and CRON_SECRET"]),
        ({"cron_secret": A, "telegram_webhook_secret": A}, ["CRON_SECRET and TELEGRAM_WEBHOOK_SECRET"]),
        ({"cron_secret": "x", "whatsapp_verify_token": "x"}, ["CRON", "WHATSAPP_VERIFY", "CRON_SECRET and WHATSAPP"]),
        ({"stripe_webhook_secret": "x"}, ["STRIPE_WEBHOOK_SECRET"]),
        ({"auth_jwks_url": JWKS}, ["AUTH_AUDIENCE"]),
        ({"auth_jwks_url": JWKS, "auth_audience": "chat"}, []),
    ],
)
def test_a_weak_door_is_named_and_its_secret_is_not_told(settings: dict[str, Any], named: list[str]):
    found = what_is_weak(Config(**settings))
    assert len(found) == len(named)
    for words, name in zip(found, named, strict=True):
        assert words.startswith(name)
        assert not [value for value in settings.values() if len(value) > 1 and value in words]


def test_every_setting_that_lets_somebody_in_is_looked_at():
    named = {field.name for field in fields(Config) if re.search("secret|token", field.name)}
    ours_elsewhere = {"slack_bot_token", "telegram_bot_token", "whatsapp_access_token"}
    assert set(DOORS) == named - ours_elsewhere


def test_what_is_unset_is_closed_and_what_is_set_says_that_it_opens():
    assert [words.split()[0] for words in what_is_closed(Config())] == ["WEBCHAT_TOKEN", "CRON_SECRET", "no"]
    assert what_is_open(Config()) == []
    by_secret, by_keys = Config(auth_jwt_secret=JWT_SECRET), Config(auth_jwks_url=JWKS)
    assert [words.split()[0] for words in what_is_closed(by_secret)] == ["CRON_SECRET", "no"]
    assert "HS256" in what_is_open(by_secret)[0]
    assert "RS256" in what_is_open(by_keys)[0]


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"AUTH_JWT_SECRET": "s" * 31}, "AUTH_JWT_SECRET", "32 bytes"),
        ({"AUTH_JWT_SECRET": "s" * 40 + "," + "t" * 31}, "AUTH_JWT_SECRET", "32 bytes"),
        ({"AUTH_JWT_SECRET": "ssh-ed25519 " + "A" * 60}, "AUTH_JWT_SECRET", "not a shared secret"),
        ({"AUTH_JWT_SECRET": '{"kty": "oct                      "}'}, "AUTH_JWT_SECRET", "not a shared secret"),
        *(
            ({"AUTH_JWKS_URL": url}, "AUTH_JWKS_URL", "https://id.example/.well-known/jwks.json")
            for url in (
                *("id.test/jwks", "file:///etc/passwd", "http:///x", "https://id.test", "ftp://id.test/j"),
                *("https://user:pass@id.example/jwks", "https://id.example/a b", "https://id.example/#jwks", "jwks"),
            )
        ),
        ({"AUTH_JWT_SECRET": JWT_SECRET, "AUTH_JWKS_URL": JWKS}, "AUTH_JWT_SECRET", "Unset one"),
        ({"AUTH_AUDIENCE": "chat-of-ours"}, "AUTH_AUDIENCE", "Set one of them too"),
        ({"AUTH_ISSUER": "https://id.example/"}, "AUTH_ISSUER", "Set one of them too"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name_alone(settings: dict[str, str], name: str, words: str):
    with pytest.raises(Exception, match=name) as error:
        load_config(settings, Path("/nowhere"))
    assert words in str(error.value)
    assert not [value for value in settings.values() if len(value) > 5 and value in str(error.value)]


@pytest.mark.parametrize("url", [JWKS, "http://[::1]:8080/jwks?x=1", "http://keycloak:8080/realms/a/certs"])
def test_a_url_of_keys_is_taken_as_it_is(url: str):
    assert load_config({"AUTH_JWKS_URL": url}, Path("/nowhere")).auth_jwks_url == url


def test_check_warns_of_a_weak_door_and_does_not_tell_the_secret(project: Project):
    done = run(project, PYTHON, "-m", "app", "check", WEBCHAT_TOKEN="tiny", CRON_SECRET="tiny")
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["WEBCHAT_TOKEN", "CRON_SECRET", "WEBCHAT_TOKEN"]
    assert "tiny" not in done.stderr + done.stdout
    assert done.stdout.startswith("Nothing stops the start")


def test_token_writes_one_that_is_good_for_so_many_days(project: Project):
    settings = {"AUTH_JWT_SECRET": f"{JWT_SECRET},{'o' * 32}", "AUTH_AUDIENCE": AUDIENCE, "AUTH_ISSUER": ISSUER}
    done = run(project, PYTHON, "-m", "app", "token", "alice", "--days", "2", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    claims = jwt.decode(done.stdout.strip(), JWT_SECRET, ["HS256"], audience=AUDIENCE, issuer=ISSUER)
    assert claims["sub"] == "alice"
    assert claims["exp"] - time.time() == pytest.approx(2 * 86_400, abs=60)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (["alice"], {}, "AUTH_JWT_SECRET is not set"),
        (["alice"], {"AUTH_JWKS_URL": JWKS}, "AUTH_JWT_SECRET is not set"),
        ([""], {"AUTH_JWT_SECRET": JWT_SECRET}, "No token can be written"),
        (["alice", "--days", "nan"], {"AUTH_JWT_SECRET": JWT_SECRET}, "No token can be written"),
        (["alice", "--days", "-1"], {"AUTH_JWT_SECRET": JWT_SECRET}, "No token can be written"),
    ],
)
def test_a_token_that_cannot_be_written_says_why(
    project: Project, words: list[str], settings: dict[str, str], said: str
):
    done = run(project, PYTHON, "-m", "app", "token", *words, **settings)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
