"""DATABASE_URL of a PostgreSQL server: what is understood, what is refused, and what no error shows."""

import asyncio
from typing import Any

import pytest

from config import ConfigError, load_config
from db import database
from db.url import read_url


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (
            "postgresql://bob:s@h:6543/n",
            {"host": ["h"], "port": [6543], "user": "bob", "password": "s", "database": "n"},
        ),
        ("postgres://h", {"host": ["h"], "port": [5432], "user": None, "password": None, "database": None}),
        ("postgresql://b%40c:p%2Fs%3A@h/n%20m", {"user": "b@c", "password": "p/s:", "database": "n m"}),
        ("postgresql://a,b:6000/n", {"host": ["a", "b"], "port": [5432, 6000]}),
        ("postgresql://[::1]:6000/n", {"host": ["::1"], "port": [6000]}),
        ("postgresql://%2Ftmp%2Fpg/n", {"host": ["/tmp/pg"]}),
        ("postgresql://postgres:@/n?host=/tmp/pg&port=6", {"host": ["/tmp/pg"], "port": [6], "password": None}),
        ("postgresql:///?user=bob&password=s&dbname=n&host=h", {"user": "bob", "password": "s", "database": "n"}),
        ("postgresql://h/n?connect_timeout=7", {"timeout": 7.0}),
        ("postgresql://h/n?connect_timeout=0", {"timeout": None}),
        ("postgresql://h/n?sslmode=require&channel_binding=require", {"dsn": "postgresql://?sslmode=require"}),
        ("postgresql://h/n?gssencmode=disable&supa=base-pooler.x", {"server_settings": {}}),
        # node-postgres' word for libpq's sslmode, which is ours
        ("postgresql://h/n?uselibpqcompat=true&sslmode=require", {"dsn": "postgresql://?sslmode=require"}),
        ("postgresql://h/n?pgbouncer=true", {"statement_cache_size": 0}),
        ("postgresql://h/n?statement_cache_size=5", {"statement_cache_size": 5}),
        ("postgresql://h/n?application_name=web", {"server_settings": {"application_name": "web"}}),
        ("postgresql://h/n?options=-csearch_path%3Dx", {"server_settings": {"options": "-csearch_path=x"}}),
        ('postgresql://h/n?schema=a"b', {"server_settings": {"search_path": '"a""b"'}}),
        ("postgresql://h/n?target_session_attrs=read-write", {"dsn": "postgresql://?target_session_attrs=read-write"}),
    ],
)
def test_a_url_is_read_as_its_host_means_it(url: str, found: dict[str, Any]):
    connect = read_url(url).connect
    assert {name: connect.get(name) for name in found} == found


def test_the_pool_and_the_socket_have_their_parameters():
    target = read_url("postgresql://h/n?connection_limit=5&pool_timeout=20&keepalives_idle=7&keepalives_count=2")
    assert (target.pool, target.pool_timeout) == (5, 20.0)
    assert target.keepalives == {"KEEPIDLE": 7, "KEEPINTVL": 10, "KEEPCNT": 2}
    assert read_url("postgresql://h/n?keepalives=0").keepalives == {}
    assert read_url("postgresql://h/n?pool_timeout=0").pool_timeout is None


def test_the_certificate_is_checked_by_the_systems_authorities_and_with_the_name():
    context: Any = read_url("postgresql://h/n?sslmode=verify-full&sslrootcert=system").connect["ssl"]
    assert context.check_hostname
    with pytest.raises(ConfigError, match="sslrootcert=system needs sslmode=verify-full"):
        read_url("postgresql://h/n?sslmode=require&sslrootcert=system")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("frobnicate=S3", "the parameter frobnicate is not known"),
        ("sslmode=S3", "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("gssencmode=require", "gssencmode must be one of disable, prefer"),
        ("connect_timeout=S3", "connect_timeout must be a whole number"),
        ("connection_limit=0", "connection_limit must be 1 or more"),
        ("port=S3", "port must be a number"),
        ("uselibpqcompat=false", "uselibpqcompat must be one of true"),
        ("ssl=true", "the parameter ssl is not known. Write sslmode=require"),
        ("search_path=S3", "the parameter search_path is not known. Write schema="),
        ("sslaccept=strict", "the parameter sslaccept is not known. Write sslmode=verify-full for sslaccept=strict"),
    ],
)
def test_what_is_not_understood_is_refused_by_name_and_without_its_value(query: str, named: str):
    with pytest.raises(ConfigError) as error:
        read_url(f"postgresql://h/n?{query}")
    assert str(error.value).startswith(f"DATABASE_URL: {named}")
    assert "S3" not in str(error.value)


SECRET = "ssS"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://bob:pa/{SECRET}@localhost:1/db",
        f"postgresql://bob:p@{SECRET}@localhost:1/db",
        f"postgresql://bob:p?{SECRET}@localhost:1/db",
        f"postgresql://bob:1?{SECRET}=x@localhost:1/db",
        f"postgresql://bob:1?{SECRET}@localhost:1/db",
        f"postgresql://bob:p#{SECRET}@localhost:1/db",
        f"postgresql://bob:p:{SECRET}@localhost:1/db",
        f"postgresql://bob:[{SECRET}@localhost:1/db",
        f"postgresql://bob:pa%2F{SECRET}@localhost:1/db",
        f"postgresql://bob:{SECRET}@localhost:1/db",
        f"postgresql://localhost:1/db?user=bob&password={SECRET}",
        f"postgresql://bob:{SECRET}@localhost:1/db?sslmode=bogus{SECRET}",
        f"postgresql://bob@localhost:{SECRET}/db",
    ],
)
async def test_no_error_shows_the_user_the_password_or_the_query(url: str):
    config = load_config({"DATABASE_URL": url})
    with pytest.raises(ConfigError, match=r"^DATABASE_URL: ") as error:
        await asyncio.wait_for(database(config.database_url).open(), 20)
    for part in ("bob", SECRET, "password=", "bogus"):
        assert part not in str(error.value).replace("user:password@host", "")
    assert error.value.__cause__ is None


async def test_what_the_server_says_is_shown_without_the_user(postgres: str):
    socket = postgres.partition("host=")[2]
    with pytest.raises(ConfigError) as error:
        await database(f"postgresql://bob:{SECRET}@/postgres?host={socket}").open()
    assert "InvalidAuthorizationSpecificationError" in str(error.value) or "InvalidPassword" in str(error.value)
    assert "bob" not in str(error.value)
