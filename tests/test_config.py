"""Settings: where they are read, what stops the start, and the two lists that must name every one of them."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from config import HERE, Config, ConfigError, load_config, read_env

NAMES = [entry.name.upper() for entry in fields(Config)]


def test_the_environment_wins_over_env_local_and_that_over_env(tmp_path: Path):
    (tmp_path / ".env").write_text("PORT=1\nMODEL_FAST=env\nMODEL_SMART=env\n")
    (tmp_path / ".env.local").write_text("PORT=2\nMODEL_FAST=local\n")
    config = load_config({"PORT": "3"}, tmp_path)
    assert (config.port, config.model_fast, config.model_smart) == (3, "local", "env")


def test_nothing_set_gives_the_defaults(tmp_path: Path):
    assert load_config({}, tmp_path) == Config()


def test_an_empty_value_is_unset_and_hides_the_files(tmp_path: Path):
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-1\n")
    assert load_config({"OPENAI_API_KEY": ""}, tmp_path).openai_api_key is None


def test_quotes_comments_and_export_are_read_as_elsewhere(tmp_path: Path):
    (tmp_path / ".env").write_text("# a comment\nexport MODEL_FAST='a b' # more\nMODEL_SMART=\"$HOME ${HOME}\"\n")
    config = load_config({}, tmp_path)
    assert (config.model_fast, config.model_smart) == ("a b", "$HOME ${HOME}")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (r"MODEL_FAST=pa\$s", "pa$s"),
        (r'MODEL_FAST="pa\$s"', "pa$s"),
        (r"MODEL_FAST='pa\$s'", "pa$s"),
        ("MODEL_FAST=pa$s", "pa$s"),
        ("MODEL_FAST=`x`", "x"),
        ('export MODEL_FAST = `it\'s "x" # y` # a comment', 'it\'s "x" # y'),
        ("SYSTEM_PROMPT=`one\ntwo`\nMODEL_FAST=s", "one\ntwo"),
        ("MODEL_FAST=a`b", "a`b"),
    ],
)
def test_dollars_and_backticks_are_read_as_next_js_reads_them(tmp_path: Path, line: str, value: str):
    (tmp_path / ".env").write_text(line)
    config = load_config({}, tmp_path)
    assert value in (config.model_fast, config.system_prompt)


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("PORT", "http", "a whole number from 1 to 65535"),
        ("PORT", "0", "a whole number from 1 to 65535"),
        ("PORT", "٣", "a whole number from 1 to 65535"),
        ("PORT", "9" * 5000, "a whole number from 1 to 65535"),
        ("WEB_CONCURRENCY", "-1", "a whole number from 1"),
        ("MAX_BODY_BYTES", "1MB", "a whole number from 1"),
        ("SHUTDOWN_GRACE", "nan", "a number of seconds"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("OPENAI_BASE_URL", "localhost:11434", "http://localhost:11434/v1"),
        ("OPENAI_BASE_URL", "http://[", "http://localhost:11434/v1"),
        ("ROUTES_DIR", "no/such/folder", "is not a folder"),
    ],
)
def test_a_bad_value_names_the_variable_the_value_and_the_fix(tmp_path: Path, name: str, value: str, fix: str):
    with pytest.raises(ConfigError, match=f"^{name}: ") as error:
        load_config({name: value}, tmp_path)
    assert repr(value) in str(error.value)
    assert fix in str(error.value)
    assert "the environment" in str(error.value)


@pytest.mark.parametrize("value", ["s3c\nret", " s3cret", "s3cret, s3", "s3,,cret", "s3cret,"])
def test_a_bad_secret_is_named_but_not_shown(tmp_path: Path, value: str):
    with pytest.raises(ConfigError, match=r"^WEBCHAT_TOKEN: the value cannot be used") as error:
        load_config({"WEBCHAT_TOKEN": value}, tmp_path)
    assert "s3" not in str(error.value)


def test_a_bad_value_in_a_file_names_the_file(tmp_path: Path):
    (tmp_path / ".env.local").write_text("PORT=x\n")
    with pytest.raises(ConfigError, match=r"Fix it in \.env\.local"):
        load_config({}, tmp_path)


@pytest.mark.parametrize("line", ["PORT", "PORT 3000", "MODEL_FAST='open", "=3"])
def test_a_line_that_is_not_name_value_is_named(tmp_path: Path, line: str):
    (tmp_path / ".env").write_text(f"HOST=::1\n\n# next\n\n{line}\n")
    with pytest.raises(ConfigError, match=r"^\.env line 5: this is not NAME=value"):
        load_config({}, tmp_path)


def test_a_file_that_is_not_text_is_named(tmp_path: Path):
    (tmp_path / ".env").write_bytes(b"PORT=\xff\n")
    with pytest.raises(ConfigError, match=r"^\.env cannot be read"):
        load_config({}, tmp_path)


def test_routes_dir_is_relative_to_the_project_or_absolute(tmp_path: Path):
    assert load_config({"ROUTES_DIR": "tests"}, tmp_path).routes_dir == HERE / "tests"
    assert load_config({"ROUTES_DIR": str(tmp_path)}, tmp_path).routes_dir == tmp_path


def shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Path):
        return value.relative_to(HERE).as_posix()
    return str(int(value) if isinstance(value, float) else value)


DEFAULTS = {entry.name.upper(): shown(entry.default) for entry in fields(Config)}


def test_the_example_file_names_every_setting_with_its_default():
    assert read_env(HERE / ".env.example") == DEFAULTS


def test_the_page_of_the_settings_names_every_one_with_its_default():
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", (HERE / "docs/settings.md").read_text(), re.MULTILINE)
    assert {name: "" if default == "unset" else default.strip("`") for name, default in rows} == DEFAULTS


@pytest.mark.parametrize("name", ["SLACK_SIGNING_SECRET", "TELEGRAM_WEBHOOK_SECRET", "WHATSAPP_APP_SECRET"])
def test_a_channel_that_could_not_answer_stops_the_start(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match=f"{name} is set, but .*_TOKEN is not.* Set it too"):
        load_config({name: "s"}, tmp_path)


@pytest.mark.parametrize(
    "value", ["whsec_", "whsec_c2hvcnQ=", "no base64!", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw,x"]
)
def test_a_standard_webhooks_secret_is_whsec_and_base64(tmp_path: Path, value: str):
    with pytest.raises(ConfigError, match=r"whsec_ and base64 of 16 bytes or more is required"):
        load_config({"STANDARD_WEBHOOKS_SECRET": value}, tmp_path)
