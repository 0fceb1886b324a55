"""`check --deploy`: what starts well, but should not face the internet as it is (docs/security.md)."""

import os
import stat
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from config import HERE, Config
from db.sqlite import sqlite_path
from startup import what_is_weak


def deploy_warnings(config: Config, environ: Mapping[str, str]) -> list[str]:
    """Say what to change before a deploy, by the names of settings and files, never their values."""
    return [*unset(config), *what_is_weak(config), *loose(config, environ), *readable(config)]


def unset(config: Config) -> Iterator[str]:
    if config.webchat_token is None and not config.lets_visitors_in:
        yield "WEBCHAT_TOKEN is not set, nor a visitors' AUTH_…: /api/chat answers 401 to everybody"
    if config.cron_secret is None:
        yield "CRON_SECRET is not set: /api/cron answers 401, so no schedule runs unless CRON_INTERVAL is set"


def loose(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    if not is_loopback(config.host):
        yield "HOST is not a loopback address: only a proxy, or a container's own network, should reach the port"
    if config.log_level == "debug":
        yield "LOG_LEVEL is debug: libraries then log what they send, which may hold what is private. Use info"
    if environ.get("FORWARDED_ALLOW_IPS") == "*":
        yield "FORWARDED_ALLOW_IPS is *: whoever reaches the port says which address it has. Name the proxy's"
    keys = urlsplit(config.auth_jwks_url or "")
    if keys.scheme == "http" and not is_loopback(keys.hostname or ""):
        yield "AUTH_JWKS_URL is http: who is on the way can put keys of their own into the answer. Use https"


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def readable(config: Config) -> Iterator[str]:
    """Files with secrets or conversations that others on the machine can read."""
    files = [HERE / ".env", HERE / ".env.local"]
    if config.database_url.startswith("sqlite:"):
        file = sqlite_path(config.database_url)
        files += [file, Path(f"{file}-wal"), Path(f"{file}-shm")]
        above = next(folder for folder in (file, *file.parents) if folder.exists())
        if not os.access(above, os.W_OK):
            yield f"DATABASE_URL: {above} cannot be written by this user. Give it write permission, or name another"
    for file in files:
        if file.is_file() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            yield f"{file} can be read by others on this machine: chmod 600 {file}"
