"""What comes before anything is served: the settings, the log, the folders, and the words for what is wrong there.

The server and the commands share it, so that what stops the one is what the others tell.
"""

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TextIO, TypeVar, cast

from starlette.middleware import Middleware

from config import HERE, Config, ConfigError, load_config, read_env
from db.sqlite import sqlite_path
from loader import load_middleware, load_routes, raise_together
from modules import RouteError, prepare
from nearest import nearest
from router import Routes
from state import Register, load_register
from webhooks import Channel, load_channels
from worker import JobFile, load_jobs

T = TypeVar("T")

RED, DIM, BOLD = 31, 2, 1


def read_settings() -> Config:
    """Read the settings, and put those of the .env files where the project's own code looks. Raises `ConfigError`.

    A process that starts others, which read them for themselves, calls `load_config` alone: what it put there would
    reach them as the environment, which wins over a line that has changed since.
    """
    config = load_config(own_environ())
    share_env()
    return config


_shared: dict[str, str] = {}  # what was put into os.environ from the .env files


def own_environ() -> dict[str, str]:
    """The environment without what an earlier reading of the .env files has put there."""
    return {name: value for name, value in os.environ.items() if _shared.get(name) != value}


def share_env() -> None:
    """Let routes and jobs have settings of their own, and find them in `os.environ` as in Next.js."""
    environ = own_environ()
    found = {**read_env(HERE / ".env"), **read_env(HERE / ".env.local")}
    for name in _shared.keys() - environ.keys():
        os.environ.pop(name, None)
    _shared.clear()
    _shared.update((name, value) for name, value in found.items() if name not in environ)
    os.environ.update(_shared)


def with_descriptors(config: Config) -> tuple[Config, list[str]]:
    """Raise the soft limit on file descriptors to the hard one, and stream no more answers than they suffice for."""
    found = descriptors()
    most = max(1, ((found or 0) - OTHER_DESCRIPTORS) // 2)  # the client's, and the model server's
    if found is None or config.chat_max_streams <= most:
        return config, []
    return replace(config, chat_max_streams=most), [
        f"CHAT_MAX_STREAMS is {config.chat_max_streams}, but {found} file descriptors are enough for {most} answers at "
        f"once, and more are 503. Raise the limit (ulimit -Hn, LimitNOFILE= of systemd), or set CHAT_MAX_STREAMS={most}"
    ]


def most_connections(streams: int, found: int | None) -> int:
    """How many connections a process takes: two for each answer and 1,000 more, as far as its descriptors suffice."""
    most = 2 * streams + 1000
    return most if found is None else max(1, min(most, found - OTHER_DESCRIPTORS - streams))


OTHER_DESCRIPTORS = 100  # of the database, files, logs, and connections that only ask


def descriptors() -> int | None:
    """How many file descriptors this process may have, after its soft limit was raised; None where nothing says so."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):  # some systems say that there is no limit, and have one
            pass
    return None if soft == resource.RLIM_INFINITY else soft


def what_is_closed(config: Config) -> list[str]:
    """Say what answers nobody, or not as it should, until a setting is made."""
    found: list[str] = []
    if config.webchat_token is None and not config.lets_visitors_in:
        found.append("WEBCHAT_TOKEN is not set: /api/chat answers 401 to everybody. Set it in the environment or .env")
    if config.cron_secret is None:
        found.append("CRON_SECRET is not set: /api/cron answers 401 to everybody. Set it in the environment or .env")
    if config.is_offline:
        found.append("no model is connected, the offline one answers: set OPENAI_API_KEY or OPENAI_BASE_URL")
    return found


def what_is_weak(config: Config) -> list[str]:
    """Say which secrets can be guessed, and what lets in more than it should: by name, never by value."""
    found: list[str] = []
    doors = {name: set((getattr(config, name) or "").split(",")) - {""} for name in DOORS}
    for name, secrets in doors.items():
        if any(len(secret) < SHORT for secret in secrets):
            found.append(f"{name.upper()} is shorter than {SHORT} characters and can be guessed: openssl rand -hex 32")
    for one, other in combinations(doors, 2):
        if doors[one] & doors[other]:
            found.append(f"{one.upper()} and {other.upper()} are equal: who has the one can use the other. Change one")
    if config.auth_jwks_url and not config.auth_audience:
        found.append("AUTH_AUDIENCE is not set: a token that the signer of AUTH_JWKS_URL made for another app is taken")
    return found


def what_is_open(config: Config) -> list[str]:
    """Say what a setting opens."""
    found: list[str] = []
    if config.auth_jwt_secret:
        found.append("visitors are let in: AUTH_JWT_SECRET signs their tokens (HS256)")
    if config.auth_jwks_url:
        found.append("visitors are let in: the keys of AUTH_JWKS_URL sign their tokens (RS256, ES256, EdDSA)")
    if config.cors_origins:
        found.append(
            f"pages of {'any origin' if '*' in config.cors_origins else ', '.join(config.cors_origins)} may "
            "read the answers: CORS_ORIGINS"
        )
    return found


def what_is_not_read(routes: Path) -> list[tuple[str, str]]:
    """Return what stands beside the routes folder under a name that nothing reads, and the name that was meant."""
    beside, found = routes.parent, list[tuple[str, str]]()
    for entry in os.scandir(beside):
        is_folder = entry.is_dir()
        known = FOLDERS if is_folder else FILES
        if entry.name in known or entry.name == routes.name or is_package(entry.path):
            continue
        if meant := nearest(entry.name, known):
            found.append((entry.name + "/" * is_folder, meant + "/" * is_folder))
    for folder in (beside / name for name in NEXTS):
        if not routes.is_relative_to(folder):
            for file in folder.rglob("route.py"):
                meant = routes.name / file.relative_to(folder)
                found.append((file.relative_to(beside).as_posix(), meant.as_posix()))
    return sorted(found)


def is_package(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "__init__.py"))


FOLDERS = ("routes", "jobs", "channels", "migrations", "public")
FILES = ("instrumentation.py",)  # middleware.py: `load_middleware` refuses what is nearly it
NEXTS = ("app", "src/app", "pages", "src/pages")  # where Next.js has its routes
SHORT = 16
DOORS = (
    *("webchat_token", "cron_secret", "auth_jwt_secret", "standard_webhooks_secret", "stripe_webhook_secret"),
    *("slack_signing_secret", "telegram_webhook_secret", "whatsapp_app_secret", "whatsapp_verify_token"),
)


class Loaded(NamedTuple):
    """What the team's files define."""

    middleware: list[Middleware]  # of the middleware.py that wraps everything
    routes: Routes
    jobs: dict[str, JobFile]
    channels: dict[str, Channel]
    register: Register | None  # of instrumentation.py


def load(config: Config) -> Loaded:
    """Load the team's files, each once, whichever of them imports it first.

    Their problems are raised together, each as its loader says.
    """
    problems: list[Exception] = []

    def attempt(loader: Callable[[Path], T], folder: Path, nothing: T) -> T:
        try:
            return loader(folder)
        except Exception as exc:
            problems.extend(each(exc))
            return nothing

    beside = config.routes_dir.parent
    if is_served(config.database_url, beside / "public"):
        problems.append(
            ConfigError("DATABASE_URL: what is below public/ is served to everybody. Name a file elsewhere.")
        )
    prepare(config.routes_dir, beside / "jobs", beside / "channels")
    loaded = Loaded(
        attempt(load_middleware, beside, list[Middleware]()),
        attempt(load_routes, config.routes_dir, Routes()),
        attempt(load_jobs, beside / "jobs", dict[str, JobFile]()),
        attempt(load_channels, beside / "channels", dict[str, Channel]()),
        attempt(load_register, beside, None),
    )
    raise_together(problems)
    return loaded


def is_served(database_url: str, public: Path) -> bool:
    """Whether a database's file stands among those that are served, whatever its name."""
    return database_url.startswith("sqlite:") and public.resolve() in sqlite_path(database_url).resolve().parents


def each(exc: Exception) -> list[Exception]:
    """The exceptions of a group, or the one itself."""
    return list(cast("ExceptionGroup[Exception]", exc).exceptions) if isinstance(exc, ExceptionGroup) else [exc]


def message_of(exc: BaseException, painted: Callable[[str], str] = str) -> str:
    """Say what is wrong: our own errors in their words, a module's with its traceback, a group's one by one."""
    if isinstance(exc, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", exc)
        return f"{group.message}:\n\n" + "\n".join(message_of(inner, painted) for inner in group.exceptions)
    if isinstance(exc, RouteError | ConfigError):
        return f"{painted(str(exc))}\n"
    return "".join(traceback.format_exception(type(exc), exc, from_their_code(exc)))


def from_their_code(exc: BaseException) -> TracebackType | None:
    """Leave out how we came to load the file that raised: of ten frames, the reader wrote the last."""
    found = exc.__traceback__
    while found is not None and is_ours(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found if found is not None or isinstance(exc, SyntaxError) else exc.__traceback__


def is_ours(file: str) -> bool:
    return file.startswith(("<frozen importlib", *LIBRARIES)) or file in LOADING


LOADING = {
    __file__,
    *(
        str(HERE / f"{name}.py")
        for name in ("app", "cli/commands", "loader", "modules", "state", "webhooks", "worker/files")
    ),
}
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})  # by way of which we came


def report(exc: BaseException) -> None:
    """Tell a problem on the terminal."""
    print(message_of(exc, lambda text: paint(text, RED, sys.stderr)), file=sys.stderr, end="", flush=True)


def paint(text: str, colour: int, stream: TextIO) -> str:
    """Colour a text where a person reads it: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"
