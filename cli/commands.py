"""The command line: `python -m app COMMAND`. Its help is the list of what there is."""

import argparse
import asyncio
import difflib
import json
import math
import os
import shlex
import socket
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import uvicorn

from cli.deploy import deploy_warnings
from cli.devserver import run_dev, table, url_of
from cli.jobs import USAGE, misused, run_jobs
from cli.protocol import Protocol
from cli.scaffold import example, write_route
from config import HERE, Config, ConfigError, load_config, near_misses, read_config
from db import Database, database
from loader import load_routes, raise_together
from logs import set_up_logging
from startup import (
    descriptors,
    each,
    load,
    most_connections,
    own_environ,
    read_settings,
    report,
    share_env,
    what_is_not_read,
    what_is_weak,
    with_descriptors,
)
from visitors import sign
from webhooks import load_channels
from worker import load_jobs

PROG = "python -m app"
COMMANDS = {
    "dev": "serve with reload, and print the routes, a link to the chat page and a curl line",
    "start": "serve as in production: no reload, WEB_CONCURRENCY workers",
    "routes": "list the routes, or everything that is wrong with them",
    "check": "say everything that would stop the start, without starting (lint and types: make check)",
    "new": "write a route.py for a path, in quotes: new '/users/[id]'",
    "openapi": "print the routes as an OpenAPI 3.1 document",
    "jobs": "list the jobs; jobs run, cancel, replay and delete change them",
    "migrate": "run the migrations that did not run yet, without a server",
    "token": "write a visitor's JWT, to try it: token alice --days 1",
}
MORE = """settings come from the environment, then .env.local, then .env; docs/settings.md lists them.
make dev, make start, make routes and make jobs install what is missing first."""


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = command_line()
    if not words:
        parser.print_help()
        return 2
    if words[0] not in (*COMMANDS, *OPTIONS):
        return refuse(unknown(words[0], COMMANDS))
    if words[0] == "jobs" and not {"-h", "--help"} & set(words):  # its options are words of its actions
        given, rest = argparse.Namespace(command="jobs", words=words[1:]), []
    else:
        given, rest = parser.parse_known_args(words)
    if rest:
        return refuse(unknown(rest[0], ()))
    if given.command == "jobs" and (words_of_use := misused(given.words)):
        return refuse(words_of_use)
    try:
        code = RUN[given.command](given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # what reads it, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as exc:
        report(exc)
        return 1


OPTIONS = ("-h", "--help", "--version")


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Serve the routes folder: a route.py in a folder answers at that folder's path.",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    found = {name: commands.add_parser(name, help=words, description=words) for name, words in COMMANDS.items()}
    found["new"].add_argument("path", metavar="PATH", help="'/docs/[...slug]', '/(site)/about' or 'routes/about'")
    found["check"].add_argument("--deploy", action="store_true", help="what should not face the internet as it is, too")
    found["token"].add_argument("name", metavar="NAME", help="whose it is, the token's sub")
    found["token"].add_argument("--days", type=float, default=1.0, help="how long it is good (default: 1)")
    found["jobs"].usage = f"{PROG} jobs [run|cancel|replay|delete ...]"
    found["jobs"].description = USAGE
    found["jobs"].formatter_class = argparse.RawDescriptionHelpFormatter
    found["jobs"].add_argument("words", nargs="*", metavar="...", help=argparse.SUPPRESS)
    return parser


def version() -> str:
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['name']} {project['version']}"


def refuse(words: str) -> int:
    print(words, file=sys.stderr)
    return 2


def unknown(word: str, known: Iterable[str]) -> str:
    """Say that there is no such word, and which one may have been meant."""
    if not word.startswith("-"):
        fix = nearest(word, known) or f"see: {PROG} --help"
        return f"There is no command {word!r}; {fix}" if known else f"{word!r} is one word too many; {fix}"
    option = word.partition("=")[0]
    setting = option.strip("-").replace("-", "_").upper()
    if setting in (entry.name.upper() for entry in fields(Config)):
        return (
            f"There is no option {option!r}; {setting} is a setting: write {setting}=... before the command or in .env"
        )
    return f"There is no option {option!r}; {nearest(option, OPTIONS) or f'see: {PROG} --help'}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else None


def dev(given: argparse.Namespace) -> int:
    config = load_config(os.environ)  # not shared: each reload reads the .env files itself
    check_port(config, "dev")
    return run_dev(config)


def start(given: argparse.Namespace) -> int:
    config = load_config(os.environ)  # not shared: each process that serves reads the .env files itself
    check_port(config, "start")
    set_up_logging(config.log_level, config.log_format)
    config, _ = with_descriptors(config)  # who serves says what it means
    uvicorn.run(
        "app:production",
        factory=True,
        http=Protocol,
        host=config.host,
        port=config.port,
        workers=config.web_concurrency,
        log_config=None,
        limit_concurrency=most_connections(config.chat_max_streams, descriptors()),
        timeout_graceful_shutdown=math.ceil(config.shutdown_grace) + 5,
        timeout_worker_healthcheck=30,  # 5 otherwise: a busy machine then keeps the old process, and its settings
    )
    return 0


def check_port(config: Config, command: str) -> None:
    """Raise `ConfigError` when the port cannot be listened on."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
    except OSError as exc:
        raise ConfigError(
            f"Cannot listen on {config.host} port {config.port}: {exc.strerror or exc}. "
            f"Stop what listens there, or choose another: PORT={config.port + 1} make {command}"
        ) from None


def routes(given: argparse.Namespace) -> int:
    print(table(load_routes(read_settings().routes_dir)))
    return 0


def openapi(given: argparse.Namespace) -> int:
    from openapi import document, project  # with pydantic, which the other commands need not import

    described = document(load_routes(read_settings().routes_dir), **project())
    print(json.dumps(described, indent=2, ensure_ascii=False))
    return 0


def check(given: argparse.Namespace) -> int:
    """Say everything that would stop the start. No port is opened, and nothing in the database is changed."""
    config, wrong = read_config(own_environ())
    problems: list[Exception] = [*wrong]
    waiting: list[str] = []
    if not wrong:
        share_env()
        try:
            waiting = asyncio.run(database_of(config).pending(migrations_of(config)))
        except Exception as exc:
            problems += each(exc)
    counts = ""
    if not any(str(exc).startswith("ROUTES_DIR:") for exc in wrong):
        try:
            loaded = load(config)
            counts = ", ".join(
                f"{len(found)} {word}{'' if len(found) == 1 else 's'}"
                for word, found in (("route", loaded.routes), ("job", loaded.jobs), ("channel", loaded.channels))
            )
        except Exception as exc:
            problems += each(exc)
    with suppress(ConfigError):  # a file that cannot be read is among the problems
        for name, source, meant in near_misses():
            print(f"{name} in {source} is not a setting. Did you mean {meant}?", file=sys.stderr)
    for name, meant in what_is_not_read(config.routes_dir):
        print(f"{name} is not read. Did you mean {meant}?", file=sys.stderr)
    raise_together(problems)
    for words in deploy_warnings(config, os.environ) if given.deploy else what_is_weak(config):
        print(f"Warning: {words}", file=sys.stderr)
    print(f"Nothing stops the start: {len(fields(Config))} settings, {counts} are in order")
    if yours := [name for name in waiting if not name.startswith("db/")]:
        print(f"The start will run {', '.join(yours)}")
    return 0


def new(given: argparse.Namespace) -> int:
    config = read_settings()
    route = write_route(config.routes_dir, given.path)
    token = config.webchat_token
    headers = (
        shlex.quote(f"Authorization: Bearer {token.split(',')[0]}")
        if token
        else ('"Authorization: Bearer $WEBCHAT_TOKEN"')
    )
    print(f"Wrote {route.file}, which answers at {route.path}. Try it while make dev runs:\n")
    print(f"  curl {url_of(config)}{example(route)} -H {headers}\n")
    if not token:
        print("WEBCHAT_TOKEN is not set: make dev makes one for each run, and prints it.")
    return 0


def jobs(given: argparse.Namespace) -> int:
    config = read_settings()
    project = config.routes_dir.parent
    channels = load_channels(project / "channels").values()
    found = {**load_jobs(project / "jobs"), **{channel.job.name: channel.job for channel in channels}}
    return asyncio.run(run_jobs(config, found, given.words))


def migrate(given: argparse.Namespace) -> int:
    config = read_settings()
    ran = asyncio.run(database_of(config).migrate(migrations_of(config)))
    print("\n".join(f"{name} ran" for name in ran) or "Nothing to do: every migration ran before")
    return 0


def database_of(config: Config) -> Database:
    return database(config.database_url, config.database_pool)


def migrations_of(config: Config) -> Path:
    return config.routes_dir.parent / "migrations"


def token(given: argparse.Namespace) -> int:
    config = read_settings()
    if config.auth_jwt_secret is None:
        raise ConfigError(
            "AUTH_JWT_SECRET is not set, and a token is signed with it. Set it in .env: openssl rand -hex 32"
            + (". AUTH_JWKS_URL's tokens come from the one who signs them." if config.auth_jwks_url else "")
        )
    try:
        print(sign(config, given.name, given.days * 86_400))
    except ValueError as exc:
        return refuse(f"No token can be written: {exc}")
    return 0


RUN: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "dev": dev,
    "start": start,
    "routes": routes,
    "openapi": openapi,
    "check": check,
    "new": new,
    "jobs": jobs,
    "migrate": migrate,
    "token": token,
}
