"""DATABASE_URL of a PostgreSQL server, as hosts write it: libpq's, Neon's, Prisma's and Supabase's parameters.

What the driver does not know is taken out or turned into what it knows; any other parameter is refused by its name.
No error shows the user, the password or the query.
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
https://www.prisma.io/docs/orm/overview/databases/postgresql#arguments
"""

import re
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from config import ConfigError

EXAMPLE = "postgresql://user:password@host:5432/name"

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSIONS = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")

# The driver reads these itself.
DRIVERS = {
    *("passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl"),
    *("sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("target_session_attrs", "krbsrvname", "gsslib"),
}
# The server is told these.
SERVERS = {"application_name", "options"}
NUMBERS = {
    *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("connection_limit", "pool_timeout", "statement_cache_size"),
}
WORDS: Mapping[str, tuple[str, ...]] = {
    "sslmode": SSLMODES,
    "target_session_attrs": SESSIONS,
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer"),  # the driver has no encryption by GSS, so it cannot be required
    "pgbouncer": ("true", "false"),
    "uselibpqcompat": ("true",),  # node-postgres: sslmode as in libpq, which it is here
}
INSTEAD = {
    "sslaccept": "Write sslmode=verify-full for sslaccept=strict, and else take it out of the URL.",
    "ssl": "Write sslmode=require, or sslmode=verify-full.",
    "search_path": "Write schema=.",
}
IGNORED = {"supa"}  # Supabase's own mark
PLACE = {"host", "port", "dbname", "user", "password"}
KNOWN = PLACE | DRIVERS | SERVERS | NUMBERS | WORDS.keys() | IGNORED | {"schema"}


class Target(NamedTuple):
    """What a URL says."""

    shown: str  # without the user, the password and the query
    connect: dict[str, Any]  # the driver's arguments
    schema: str | None
    pool: int | None
    pool_timeout: float | None  # seconds; None: for as long as it takes
    keepalives: dict[str, int]  # by the names of the socket's options, without TCP_
    pooled: bool  # by PgBouncer in its transaction mode
    binding: bool  # whether channel binding is required, which the driver cannot
    secrets: tuple[str, ...]

    def without_secrets(self, text: str) -> str:
        """Take the user, the password and the query out of somebody else's message."""
        for secret in self.secrets:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "...", text)
        return text


def read_url(url: str) -> Target:
    """Read a URL. Raises `ConfigError`."""
    rest, _, query = url.partition("://")[2].partition("?")
    owner, at, place = rest.rpartition("@")
    if "@" in owner or "/" in owner:
        raise ConfigError(
            "DATABASE_URL: its user or password holds a character that has a meaning in a URL. "
            "Write %40 for @, %2F for /, %3A for : and %3F for ?"
        )
    given = parameters(query, named=bool(at) or "@" not in query)  # else it may be the second half of a password
    user, _, password = owner.partition(":")
    hosts, _, name = place.partition("/")
    listed = [split_port(host) for host in (hosts or given.get("host", "")).split(",") if host]
    ports = given.get("port", "").split(",")
    connect: dict[str, Any] = {
        "host": [host for host, _ in listed] or None,
        "port": [int(port or ports[i % len(ports)] or 5432) for i, (_, port) in enumerate(listed)] or None,
        "user": unquote(user) or given.get("user") or None,
        "password": unquote(password) or given.get("password") or None,
        "database": unquote(name) or given.get("dbname") or None,
        "timeout": float(given.get("connect_timeout", 10)) or None,
        "server_settings": {name: value for name, value in given.items() if name in SERVERS},
    }
    if schema := given.get("schema"):
        connect["server_settings"]["search_path"] = '"' + schema.replace('"', '""') + '"'
    if given.get("pgbouncer") == "true":
        connect["statement_cache_size"] = 0
    if "statement_cache_size" in given:
        connect["statement_cache_size"] = int(given["statement_cache_size"])
    drivers = {name: value for name, value in given.items() if name in DRIVERS and value}
    if given.get("sslrootcert") == "system":
        connect["ssl"] = trusting_the_system(given)
    elif drivers:
        connect["dsn"] = f"postgresql://?{urlencode(drivers)}"
    secrets = {owner, user, password, query, *(given.get(name, "") for name in ("user", "password", "sslpassword"))}
    secrets |= {unquote(secret) for secret in secrets}
    return Target(
        shown=f"postgresql://{'...@' if owner else ''}{place}",
        connect=connect,
        schema=schema or None,
        pool=int(given["connection_limit"]) if "connection_limit" in given else None,
        pool_timeout=float(given.get("pool_timeout", 10)) or None,
        keepalives=keepalives(given),
        pooled=given.get("pgbouncer") == "true",
        binding=given.get("channel_binding") == "require",
        secrets=tuple(sorted(secrets - {""}, key=len, reverse=True)),
    )


def parameters(query: str, *, named: bool) -> dict[str, str]:
    """Read the query of a URL. Raises `ConfigError`."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in given.items():
        if name not in KNOWN:
            shown = name if named and re.fullmatch(r"[A-Za-z_]{1,40}", name) else "one of them"
            instead = INSTEAD.get(name, "Take it out of the URL.")
            raise ConfigError(f"DATABASE_URL: the parameter {shown} is not known. {instead}")
        if name in WORDS and value not in WORDS[name]:
            raise ConfigError(f"DATABASE_URL: {name} must be one of {', '.join(WORDS[name])}.")
        if name in NUMBERS and not re.fullmatch(r"[0-9]{1,6}", value):
            raise ConfigError(f"DATABASE_URL: {name} must be a whole number.")
    if given.get("connection_limit") == "0":
        raise ConfigError("DATABASE_URL: connection_limit must be 1 or more.")
    if not re.fullmatch(r"([0-9]{1,5}(,[0-9]{1,5})*)?", given.get("port", "")):
        raise ConfigError("DATABASE_URL: port must be a number.")
    return given


def split_port(host: str) -> tuple[str, str]:
    """Split ``host:port`` or ``[::1]:port``; a socket's folder has no port. Raises `ConfigError`."""
    if host.startswith("/"):
        return host, ""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]]*)(?::([0-9]{0,5}))?", host)
    if found is None:
        raise ConfigError(
            f"DATABASE_URL: its host or port cannot be read. Write {EXAMPLE}, and %2F for a / in the password."
        )
    return unquote(found[1]).strip("[]"), found[2] or ""


def trusting_the_system(given: Mapping[str, str]) -> ssl.SSLContext:
    """Return what checks a server's certificate with the system's authorities. Raises `ConfigError`."""
    if given.get("sslmode", "verify-full") != "verify-full":
        raise ConfigError(
            "DATABASE_URL: sslrootcert=system needs sslmode=verify-full: anybody can get a certificate of theirs."
        )
    context = ssl.create_default_context()
    if given.get("sslcert"):
        context.load_cert_chain(given["sslcert"], given.get("sslkey"), given.get("sslpassword"))
    return context


def keepalives(given: Mapping[str, str]) -> dict[str, int]:
    """Return the socket's options; without a word of the URL a dead connection is noticed after a minute."""
    if given.get("keepalives") == "0":
        return {}
    found = {"KEEPIDLE": "keepalives_idle", "KEEPINTVL": "keepalives_interval", "KEEPCNT": "keepalives_count"}
    usual = {"KEEPIDLE": 30, "KEEPINTVL": 10, "KEEPCNT": 3}
    return {option: int(given.get(name, 0)) or usual[option] for option, name in found.items()}
