"""The settings: read once, from the environment, then `.env.local`, then `.env`, as Next.js does.

The first of the three that names a variable wins; an empty value means unset. Each field of `Config` is one
variable, its name in capitals. docs/settings.md and .env.example list them all; a test keeps the three equal.
"""

import base64
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from dotenv import dotenv_values
from dotenv.parser import parse_stream

from nearest import nearest

HERE = Path(__file__).resolve().parent
ROUTES = HERE / "routes"


class ConfigError(Exception):
    """A setting that cannot be used; the message names the variable and the fix."""


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value) or not low <= int(value) <= high:
            raise ValueError(f"a whole number from {low} to {high} is required")
        return int(value)

    return parse


def seconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value):
        raise ValueError("a number of seconds is required, such as 5 or 0.5")
    return float(value)


def url(value: str) -> str:
    if not re.fullmatch(r"https?://([^/?#\s\[\]]+|\[[0-9a-fA-F:.]+\](:[0-9]+)?)(/[^?#\s]*)?", value):
        raise ValueError("a URL is required, such as http://localhost:11434/v1")
    host = value.split("/")[2].rpartition("@")[2]
    port = re.search(r":([^:\]]*)$", host)
    if port and not (re.fullmatch("[0-9]{1,5}", port[1], re.A) and 0 < int(port[1]) < 65_536):
        raise ValueError("the port must be a number from 1 to 65535, as in http://localhost:11434/v1")
    return value.rstrip("/")


def host(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z.:_%-]+", value):
        raise ValueError("an address to listen on is required, without http:// and port, such as 0.0.0.0 or ::1")
    return value


def folder(value: str) -> Path:
    path = HERE / value
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; create it, or name another (relative to {HERE})")
    return path


def word(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)} is required")
        return value.lower()

    return parse


def secret(value: str) -> str:
    if not value.isprintable() or any(part != part.strip() or not part for part in value.split(",")):
        raise ValueError(
            "a secret is required (or two, as new,old while one replaces the other) without blanks around it"
        )
    return value


def database_url(value: str) -> str:
    if not re.fullmatch(r"sqlite:///[^?#]+|postgres(ql)?://\S+", value):
        raise ValueError(
            "sqlite:///data/app.db (below the project), sqlite:////var/lib/app.db or "
            "postgresql://user:password@host:5432/name is required"
        )
    return value


def token(value: str) -> str:
    if not re.fullmatch("[!-~]+", value):
        raise ValueError("a token of visible ASCII characters is required, without blanks and line ends")
    return value


def origins(value: str) -> tuple[str, ...]:
    found = tuple(origin.strip() for origin in value.split(","))
    if found == ("*",):
        return found
    for origin in found:
        match = re.fullmatch(r"([a-z][a-z0-9+.-]*)://([^/?#\s@*A-Z:\[\]]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", origin)
        if not match or (match[1], match[3]) in (("https", ":443"), ("http", ":80")):
            raise ValueError(
                "origins are required as browsers send them, such as https://app.example,http://localhost:5173: in "
                "small letters, without a path, without the port that the scheme has anyway; or * alone for all"
            )
    return found


class Limit(NamedTuple):
    """So many questions in so many seconds, whenever they begin."""

    most: int
    seconds: float


SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


def limits(value: str) -> tuple[Limit, ...]:
    found = [re.fullmatch(r" *([1-9][0-9]{0,8})/(second|minute|hour|day) *", part) for part in value.split(",")]
    if None in found:
        raise ValueError("numbers of questions are required, such as 20/minute or 20/minute,200/day")
    return tuple(Limit(int(limit[1]), SECONDS[limit[2]]) for limit in found if limit)


def jwt_secret(value: str) -> str:
    for one in secret(value).split(","):
        if len(one.encode()) < 32:
            raise ValueError("at least 32 bytes are required, such as those of: openssl rand -hex 32")
        try:
            jwt.get_algorithm_by_name("HS256").prepare_key(one)
        except jwt.InvalidKeyError:
            raise ValueError("it is a public key or a JWK, not a shared secret: openssl rand -hex 32") from None
    return value


def jwks_url(value: str) -> str:
    if not re.fullmatch(r"https?://([^/?#\s\[\]@]+|\[[0-9a-fA-F:.]+\](:[0-9]+)?)/[^#\s]*", value):
        raise ValueError("a URL is required, such as https://id.example/.well-known/jwks.json")
    if not find_spec("cryptography"):
        raise ValueError('its keys need the extra auth: .venv/bin/python -m pip install -c constraints.txt ".[auth]"')
    return value


def signing_secret(value: str) -> str:
    for one in secret(value).split(","):
        try:
            text = one.removeprefix("whsec_")
            is_short = len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True)) < 16
        except ValueError:
            is_short = True
        if is_short:
            raise ValueError("whsec_ and base64 of 16 bytes or more is required, as the sender shows it")
    return value


def text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("UTF-8 is required: the model is sent it as JSON") from None
    return value


def names_in(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(","))


def model_names(value: str) -> str:
    if not value.isprintable() or not all(names_in(value)):
        raise ValueError("the name of a model is required, or several with commas between them: first,second")
    return value


def json_object(value: str, example: str) -> dict[str, Any]:
    def refuse(constant: str) -> Any:
        raise ValueError

    try:
        found = json.loads(value, parse_constant=refuse)
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()  # 1e999, and half of a surrogate pair, fail
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"a JSON object is required, such as {example}")
    return found  # pyright: ignore[reportUnknownVariableType] - JSON


def model_options(value: str) -> dict[str, Any]:
    found = json_object(value, '{"temperature": 0.2}')
    if taken := found.keys() & {"messages", "model", "stream"}:
        raise ValueError(f"{', '.join(sorted(taken))} cannot be set here: the app sets it")
    return found


def headers(value: str) -> dict[str, str]:
    found = json_object(value, '{"X-Team": "blue"}')
    for name, text in found.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError("the name of a header has letters, digits and - only")
        if name.lower() in ("content-length", "content-type", "transfer-encoding", "connection", "host"):
            raise ValueError(f"{name} cannot be set here: the app sets it")
        if not isinstance(text, str) or not re.fullmatch("[!-~]([ -~]*[!-~])?", text):
            raise ValueError(f"the value of {name} must be a string of visible ASCII characters")
    return found


def setting(default: object, parse: Callable[[str], object] = str, *, hidden: bool = False) -> Any:
    return field(default=default, metadata={"parse": parse, "hidden": hidden})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting, with its default. ``None`` means unset: a secret that is unset keeps its routes closed."""

    webchat_token: str | None = setting(None, secret, hidden=True)
    cron_secret: str | None = setting(None, secret, hidden=True)
    auth_jwt_secret: str | None = setting(None, jwt_secret, hidden=True)
    auth_jwks_url: str | None = setting(None, jwks_url, hidden=True)
    auth_audience: str | None = setting(None)
    auth_issuer: str | None = setting(None)
    cors_origins: tuple[str, ...] | None = setting(None, origins)
    openai_api_key: str | None = setting(None, token, hidden=True)
    openai_base_url: str | None = setting(None, url)
    openai_headers: Mapping[str, str] | None = setting(None, headers, hidden=True)
    model_smart: str = setting("gpt-5.5", model_names)
    model_fast: str = setting("gpt-5.4-mini", model_names)
    model_smart_options: Mapping[str, Any] | None = setting(None, model_options)
    model_fast_options: Mapping[str, Any] | None = setting(None, model_options)
    routes_dir: Path = setting(ROUTES, folder)
    log_level: str = setting("info", word("debug", "info", "warning", "error"))
    log_format: str = setting("text", word("text", "json"))
    host: str = setting("127.0.0.1", host)
    port: int = setting(3000, integer(1, 65535))
    web_concurrency: int = setting(1, integer(1, 1024))
    max_body_bytes: int = setting(1_048_576, integer(1, 2**40))
    handler_threads: int = setting(40, integer(1, 10_000))
    shutdown_grace: float = setting(5.0, seconds)
    database_url: str = setting("sqlite:///data/app.db", database_url, hidden=True)
    database_pool: int = setting(10, integer(1, 1000))
    system_prompt: str | None = setting(None, text)
    chat_history_chars: int = setting(32_000, integer(0, 10**9))
    chat_max_streams: int = setting(1000, integer(1, 10**6))
    openapi: str = setting("closed", word("closed", "open"))
    chat_quota: tuple[Limit, ...] | None = setting(None, limits)
    chat_leave_seconds: float = setting(30.0, seconds)
    conversation_days: int | None = setting(None, integer(1, 36_500))
    cron_interval: float | None = setting(None, seconds)
    jobs_at_once: int = setting(50, integer(1, 1000))
    jobs_grace: float = setting(5.0, seconds)
    standard_webhooks_secret: str | None = setting(None, signing_secret, hidden=True)
    stripe_webhook_secret: str | None = setting(None, secret, hidden=True)
    slack_signing_secret: str | None = setting(None, secret, hidden=True)
    slack_bot_token: str | None = setting(None, token, hidden=True)
    slack_api_url: str = setting("https://slack.com/api", url)
    telegram_webhook_secret: str | None = setting(None, secret, hidden=True)
    telegram_bot_token: str | None = setting(None, token, hidden=True)
    telegram_api_url: str = setting("https://api.telegram.org", url)
    whatsapp_app_secret: str | None = setting(None, secret, hidden=True)
    whatsapp_verify_token: str | None = setting(None, secret, hidden=True)
    whatsapp_access_token: str | None = setting(None, token, hidden=True)
    whatsapp_api_url: str = setting("https://graph.facebook.com/v24.0", url)

    @property
    def models(self) -> Mapping[str, tuple[str, ...]]:
        """The models' names at the provider, by the alias that clients send: the first, and those that step in."""
        return {"smart": names_in(self.model_smart), "fast": names_in(self.model_fast)}

    @property
    def model_options(self) -> Mapping[str, Mapping[str, Any]]:
        """What a request to the model has besides its messages, by alias."""
        return {"smart": self.model_smart_options or {}, "fast": self.model_fast_options or {}}

    @property
    def lets_visitors_in(self) -> bool:
        """Whether somebody's JWT is a credential."""
        return self.auth_jwt_secret is not None or self.auth_jwks_url is not None

    @property
    def is_offline(self) -> bool:
        """Whether no model is configured, so that the embedded one answers."""
        return self.openai_api_key is None and self.openai_base_url is None


# the channels that answer need a token to do it
ANSWERED_WITH = {
    "slack_signing_secret": "slack_bot_token",
    "telegram_webhook_secret": "telegram_bot_token",
    "whatsapp_app_secret": "whatsapp_access_token",
}


def load_config(environ: Mapping[str, str], project: Path = HERE) -> Config:
    """Read the settings from the environment and the .env files of a folder.

    One problem is raised as a `ConfigError`, several as an `ExceptionGroup` of them.
    """
    config, problems = read_config(environ, project)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ExceptionGroup(f"{len(problems)} problems in the settings", problems)
    return config


def read_config(environ: Mapping[str, str], project: Path = HERE) -> tuple[Config, list[ConfigError]]:
    """Read the same, with a default in the place of what cannot be used, and return what is wrong beside it."""
    problems: list[ConfigError] = []
    sources: list[tuple[str, Mapping[str, str]]] = [("the environment", environ)]
    for name in (".env.local", ".env"):
        try:
            sources.append((name, read_env(project / name)))
        except ConfigError as exc:
            problems.append(exc)
    values: dict[str, Any] = {}
    wrong: set[str] = set()
    for entry in fields(Config):
        name = entry.name.upper()
        source, value = next(((source, found[name]) for source, found in sources if name in found), ("", ""))
        if not value:
            continue
        try:
            values[entry.name] = entry.metadata["parse"](value)
        except ValueError as exc:
            shown = "the value" if entry.metadata["hidden"] else repr(value)
            wrong.add(entry.name)
            problems.append(ConfigError(f"{name}: {shown} cannot be used: {exc}. Fix it in {source}."))
    if "auth_jwt_secret" in values and "auth_jwks_url" in values:
        problems.append(
            ConfigError(
                "AUTH_JWT_SECRET and AUTH_JWKS_URL are both set, and which of the two fixes the algorithm of a "
                "visitor's token. Unset one."
            )
        )
    for name in ("auth_audience", "auth_issuer"):
        if name in values and not {"auth_jwt_secret", "auth_jwks_url"} & {*values, *wrong}:
            problems.append(
                ConfigError(
                    f"{name.upper()} is set, but neither AUTH_JWT_SECRET nor AUTH_JWKS_URL is: no visitor is let in. "
                    "Set one of them too."
                )
            )
    for opens, answers in ANSWERED_WITH.items():
        if opens in values and answers not in {*values, *wrong}:
            problems.append(
                ConfigError(
                    f"{opens.upper()} is set, but {answers.upper()} is not: messages would come in that nobody can "
                    "answer. Set it too."
                )
            )
    return Config(**values), problems


def near_misses(project: Path = HERE) -> list[tuple[str, str, str]]:
    """Return the names in the .env files that are one or two letters from a setting's: name, file, what was meant."""
    known = [entry.name.upper() for entry in fields(Config)]
    found: list[tuple[str, str, str]] = []
    for source in (".env.local", ".env"):
        for name in read_env(project / source):
            if name not in known and (meant := nearest(name.upper(), known)):
                found.append((name, source, meant))
    return found


def read_env(file: Path) -> dict[str, str]:
    """Read one .env file; {} where there is none. Raises `ConfigError` naming the line that is not NAME=value."""
    if not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{file.name} cannot be read: {exc}. Save it as UTF-8 text that this user may read."
        ) from None
    text, in_backticks = take_backticks(text)
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            before = binding.original.string
            line = binding.original.line + before[: len(before) - len(before.lstrip())].count("\n")
            raise ConfigError(
                f"{file.name} line {line}: this is not NAME=value. "
                'Write NAME=value or NAME="value with spaces", one a line; a comment starts with #.'
            )
    found = dotenv_values(stream=io.StringIO(text), interpolate=False)
    values = {name: in_backticks.get(value or "", value or "") for name, value in found.items()}
    return {name: value.replace("\\$", "$") for name, value in values.items()}  # Next.js requires it written so


BACKTICKS = re.compile(r"^(\s*(?:export\s+)?[\w.-]+[ \t]*=[ \t]*)`([^`]*)`", re.MULTILINE)


def take_backticks(text: str) -> tuple[str, dict[str, str]]:
    """Put a mark in the place of each value in backticks, which Next.js knows and python-dotenv does not."""
    values: dict[str, str] = {}

    def mark(found: re.Match[str]) -> str:
        name = f"in-backticks-{len(values)}"
        values[name] = found[2]
        return f'{found[1]}"{name}{chr(10) * found[2].count(chr(10))}"'  # as many lines: messages count them

    text = BACKTICKS.sub(mark, text)
    return text, {name + "\n" * value.count("\n"): value for name, value in values.items()}
