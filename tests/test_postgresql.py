"""A PostgreSQL server by itself: its URLs tried on it, its schemas, its roles, and when it takes no write."""

import asyncio
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from config import ConfigError
from db import Conflict, Database, database
from tests.conftest import execute
from tests.servers import write_tree

TLS = Path(__file__).parent / "tls"  # a certificate of localhost and its authority, made for these tests
INSERT = "INSERT INTO house_job (id, name, payload, run_at, attempts, created_at) VALUES ($1, 'x', '', 0, 0, 0)"


@pytest.fixture
def url(postgres: str) -> Iterator[str]:
    """A new database of its own."""
    name = f"test_{uuid4().hex}"
    asyncio.run(execute(postgres, f"CREATE DATABASE {name}"))
    yield postgres.replace("/postgres?", f"/{name}?")
    asyncio.run(execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


async def fetch(url: str, sql: str) -> list[dict[str, Any]]:
    driver: Any = import_module("asyncpg")
    connection = await driver.connect(url)
    try:
        return [dict(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncGenerator[Database]:
    db = database(url, **options)
    await db.open()
    try:
        yield db
    finally:
        await db.aclose()


# URLs.


@pytest.fixture
def behind_tls(url: str) -> Iterator[str]:
    """Stand with TLS in front of the tests' server, which has none; the URL of its database there."""
    file = f"{url.partition('host=')[2]}/.s.PGSQL.5432"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "localhost.pem")

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if self.request.recv(8) != b"\0\0\0\x08\x04\xd2\x16\x2f":  # SSLRequest
                return  # a client that does not ask for TLS
            self.request.sendall(b"S")
            with suppress(OSError), socket.socket(socket.AF_UNIX) as server:
                server.connect(file)
                with context.wrap_socket(self.request, server_side=True) as client:
                    pump(client, server)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as relay:
        threading.Thread(target=relay.serve_forever, args=(0.05,)).start()
        yield f"postgresql://postgres:@localhost:{relay.server_address[1]}/{name_of(url)}"
        relay.shutdown()


def pump(client: ssl.SSLSocket, server: socket.socket) -> None:
    while True:
        for source in [client] if client.pending() else select.select([client, server], [], [])[0]:
            if not (data := source.recv(65536)):
                return
            (server if source is client else client).sendall(data)


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=require",
        "sslmode=require&channel_binding=require",
        "channel_binding=prefer",
        "connect_timeout=10",
        "keepalives=1&keepalives_idle=30",
        "gssencmode=disable",
        "pgbouncer=true",
        "connection_limit=5&pool_timeout=20",
        "schema=public",
        "application_name=web",
        "target_session_attrs=read-write",
        "options=-csearch_path%3Dpublic",
        "statement_cache_size=0",
        "sslmode=verify-full&sslrootcert=system",
        f"sslmode=verify-full&sslrootcert={TLS}/authority.pem",
    ],
)
async def test_a_url_as_hosts_write_it_stores_and_reads(behind_tls: str, query: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "authority.pem"))
    async with opened(f"{behind_tls}?{query}") as db:
        await asyncio.gather(*(db.write((INSERT, (str(n),))) for n in range(20)))
        assert await db.read("SELECT COUNT(*) AS n FROM house_job") == [{"n": 20}]
        assert await db.write((INSERT, ("a",)), (INSERT, ("b",))) == [[], []]


async def test_a_certificate_that_nobody_vouches_for_is_refused(behind_tls: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(ConfigError, match="CERTIFICATE_VERIFY_FAILED"):
        await database(f"{behind_tls}?sslmode=verify-full&sslrootcert=system").open()


@pytest.mark.parametrize(("query", "size"), [("", 3), ("&connection_limit=2", 2)])
async def test_a_burst_opens_no_more_connections_than_the_pool_has(url: str, query: str, size: int):
    async with opened(url + query, pool=3) as db:
        db.listen("jobs", lambda: None)
        counts: list[int] = []

        async def count() -> None:
            [row] = await fetch(url, "SELECT COUNT(*) AS n FROM pg_stat_activity WHERE datname = current_database()")
            counts.append(row["n"])

        writes = (db.write((INSERT, (str(n),))) for n in range(600))
        reads = (db.read("SELECT pg_sleep(0.01)") for _ in range(50))
        await asyncio.gather(*writes, *reads, count(), count(), count())
        await count()
    assert max(counts) <= size + 1 + 3  # the listener, and those that count


# Schemas, roles.


async def tables(url: str) -> set[tuple[str, str]]:
    rows = await fetch(url, "SELECT schemaname, relname FROM pg_stat_user_tables")
    return {(row["schemaname"], row["relname"]) for row in rows}


@pytest.mark.parametrize("made", [False, True])
async def test_a_schema_of_the_url_has_all_tables_and_public_none(url: str, tmp_path: Path, made: bool):
    others = "CREATE TABLE job (id BIGINT); CREATE TABLE message (id BIGINT); CREATE TABLE migration (id BIGINT)"
    await execute(url, others + ("; CREATE SCHEMA house" if made else ""))
    migrations = write_tree(tmp_path / "migrations", {"001_a.sql": "CREATE TABLE mine (id TEXT)"})
    db = database(f"{url}&schema=house")
    await db.open(migrations)
    await db.write((INSERT, ("a",)))
    assert await db.read("SELECT id FROM house_job") == [{"id": "a"}]
    await db.aclose()
    found = await tables(url)
    assert {name for schema, name in found if schema == "public"} == {"job", "message", "migration"}
    assert {"mine", "house_job", "house_message", "house_migration"} <= {n for s, n in found if s == "house"}


# What `prisma migrate` makes of a model. Its client fills in id and updatedAt by itself: they have no default.
PRISMAS = """
    CREATE TABLE "_prisma_migrations" (id VARCHAR(36) PRIMARY KEY, checksum VARCHAR(64) NOT NULL);
    CREATE TYPE "Role" AS ENUM ('USER', 'ADMIN');
    CREATE TABLE "User" (
        "id" TEXT NOT NULL, "role" "Role" NOT NULL DEFAULT 'USER', "settings" JSONB NOT NULL DEFAULT '{}',
        "tags" TEXT[], "balance" DECIMAL(65,30) NOT NULL DEFAULT 0, "uid" UUID,
        "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" TIMESTAMP(3) NOT NULL,
        CONSTRAINT "User_pkey" PRIMARY KEY ("id"));
    INSERT INTO "User" VALUES ('cmwym31yr0000t27dsws3oqmn', 'ADMIN', '{"a": [1, null]}', '{x,y}', 12.3,
        'e5d59c33-478b-4d54-ad32-f840977c081e', '2026-11-27 06:39:48.72', '2026-11-27 06:39:48.943')
"""


async def test_prismas_rows_are_read_from_a_schema_beside_them(url: str, caplog: pytest.LogCaptureFixture):
    await execute(url, PRISMAS)
    async with opened(f"{url}&schema=house") as db:
        [row] = await db.read(
            """SELECT *, "createdAt" AT TIME ZONE 'UTC' AS at FROM public."User" WHERE role = $1""", "ADMIN"
        )
    assert (row["id"], row["role"], row["tags"]) == ("cmwym31yr0000t27dsws3oqmn", "ADMIN", ["x", "y"])
    assert (row["settings"], row["balance"]) == ('{"a": [1, null]}', Decimal("12.3"))
    assert row["uid"] == UUID("e5d59c33-478b-4d54-ad32-f840977c081e")
    assert row["at"] == datetime(2026, 11, 27, 6, 39, 48, 720_000, tzinfo=UTC)
    assert row["createdAt"] == row["at"].replace(tzinfo=None)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


async def test_a_moment_of_prismas_is_written_in_utc_whatever_the_servers_zone(url: str):
    await execute(url, f"{PRISMAS}; ALTER DATABASE {name_of(url)} SET timezone = 'Europe/Paris'")
    insert = """
        INSERT INTO public."User" (id, "updatedAt") VALUES ($1, now() AT TIME ZONE 'UTC') RETURNING
        "createdAt" AT TIME ZONE 'UTC' = CAST(CURRENT_TIMESTAMP AS TIMESTAMPTZ(3)) AS created_in_utc,
        "updatedAt" AT TIME ZONE 'UTC' = CAST(CURRENT_TIMESTAMP AS TIMESTAMPTZ(3)) AS updated_in_utc
    """
    async with opened(f"{url}&schema=house") as db:
        [[row], _] = await db.write((insert, ("a",)), (INSERT, ("a",)))
        assert row == {"created_in_utc": False, "updated_in_utc": True}  # the default is the server's local time
        with pytest.raises(Conflict):
            await db.write((insert, ("a",)))


@pytest.fixture
async def worker_role(url: str) -> AsyncGenerator[str]:
    """A role that may change rows and nothing else; the URL of the database for it."""
    role = f"role_{uuid4().hex[:8]}"
    await execute(url, f"CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield url.replace("//postgres:@", f"//{role}:@")
    await execute(url, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_migration_that_moves_the_search_path_moves_it_for_itself_alone(url: str, tmp_path: Path):
    dumped = "SELECT pg_catalog.set_config('search_path', '', false);\nCREATE TABLE public.dumped (id TEXT);"
    files = {"001_dump.sql": dumped, "002_after.sql": "CREATE TABLE after_it AS SELECT * FROM dumped;"}
    folder = write_tree(tmp_path / "migrations", files)
    assert (await database(url).migrate(folder))[-2:] == ["migrations/001_dump.sql", "migrations/002_after.sql"]
    async with opened(url) as db:
        assert await db.read("SELECT * FROM after_it") == []
    write_tree(folder, {"003_read_only.sql": "CREATE TABLE x (id TEXT);\nSET TRANSACTION READ ONLY;"})
    with pytest.raises(ConfigError, match=r"^migrations/003_read_only\.sql: it cannot be noted that it ran: ReadOnly"):
        await database(url).migrate(folder)


async def test_what_only_psql_can_read_is_refused_and_does_not_wait(url: str, tmp_path: Path):
    dumped = "CREATE TABLE x (id TEXT);\nCOPY public.x (id)\n  FROM stdin;\n1\n\\.\n"
    folder = write_tree(tmp_path / "migrations", {"001_dump.sql": dumped})
    with pytest.raises(ConfigError, match=r"^migrations/001_dump\.sql, line 2: COPY public\.x \(id\): only psql can"):
        await asyncio.wait_for(database(url).migrate(folder), 60)


async def test_a_role_that_makes_no_tables_starts_when_they_are_up_to_date(url: str, worker_role: str, tmp_path: Path):
    migrations = write_tree(tmp_path / "migrations", {"001_a.sql": "CREATE TABLE mine (id TEXT)"})
    with pytest.raises(ConfigError, match="Run python -m app migrate with a role that may"):
        await database(worker_role).open(migrations)
    assert await database(url).migrate(migrations)
    role = worker_role.partition("//")[2].partition(":")[0]
    await execute(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    async with opened(worker_role) as db:
        await db.write((INSERT, ("a",)))
    write_tree(migrations, {"002_b.sql": "CREATE TABLE more (id TEXT)"})
    with pytest.raises(ConfigError, match=r"^migrations/002_b\.sql, line 1: .*python -m app migrate"):
        await database(worker_role).open(migrations)


# Standbys, lost connections.


def name_of(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


async def disconnect(url: str) -> None:
    sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()"
    await execute(url.replace(name_of(url), "postgres"), sql.format(name_of(url)))


async def test_a_server_that_turns_read_only_takes_no_write_until_it_turns_back(url: str):
    name = name_of(url)
    async with opened(url) as db:
        await db.try_write()
        await execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await disconnect(url)
        for _ in range(5):  # whether it meets a connection that was ended, or a new one
            with pytest.raises(Exception, match=r"is read-only|connection"):
                await db.try_write()
        with pytest.raises(ConfigError, match="is read-only"):
            await database(url).open()
        postgres = url.replace(name, "postgres")
        await execute(postgres, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await db.try_write()
        await db.write((INSERT, ("a",)))


async def test_after_lost_connections_the_next_statements_find_new_ones(url: str):
    async with opened(url) as db:
        await asyncio.gather(*(db.read("SELECT pg_sleep(0.01)") for _ in range(10)))
        await disconnect(url)
        await asyncio.sleep(0.2)  # the ends arrive
        await asyncio.gather(*(db.write((INSERT, (str(n),))) for n in range(50)))
        assert await db.read("SELECT COUNT(*) AS n FROM house_job") == [{"n": 50}]


async def test_a_statement_that_is_cancelled_gives_its_connection_back(url: str):
    async with opened(url, pool=1) as db:
        for statements in ([("SELECT pg_sleep(30)", ())], [(INSERT, ("a",)), ("SELECT pg_sleep(30)", ())]):
            task = asyncio.create_task(db.write(*statements))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.wait_for(db.read("SELECT COUNT(*) AS n FROM house_job"), 10) == [{"n": 0}]


async def test_a_table_that_a_newer_process_changes_is_written_and_read_on(url: str):
    everything = ("SELECT * FROM house_job", ())
    async with opened(url, pool=2) as db:
        for n, column in enumerate("xyz"):
            await db.write((INSERT, (str(n),)), everything)
            await asyncio.gather(*(db.write((f"{INSERT} RETURNING *", (f"{n}-{i}",))) for i in range(30)))
            await db.read(everything[0])
            await execute(url, f"ALTER TABLE house_job ADD COLUMN {column} TEXT")
        [_, rows] = await db.write((INSERT, ("last",)), everything)
        assert len(rows) == 3 * 31 + 1
        assert {"x", "y", "z"} < rows[0].keys()


async def test_two_writes_that_wait_for_each_other_are_both_done(url: str):
    async with opened(url) as db:
        await db.write((INSERT, ("a",)), (INSERT, ("b",)))
        add = "UPDATE house_job SET attempts = attempts + 1 WHERE id = $1"
        pause = ("SELECT pg_sleep(0.2)", ())
        await asyncio.gather(
            db.write((add, ("a",)), pause, (add, ("b",))),
            db.write((add, ("b",)), pause, (add, ("a",))),
        )
        assert await db.read("SELECT attempts FROM house_job") == [{"attempts": 2}, {"attempts": 2}]


async def test_who_waits_too_long_for_a_connection_is_told_how_many_there_are(url: str):
    async with opened(f"{url}&connection_limit=1&pool_timeout=1") as db:
        task = asyncio.create_task(db.read("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError, match="none of the 1 connections to the database was free for 1 s"):
            await db.read("SELECT 1 AS one")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await db.read("SELECT 1 AS one") == [{"one": 1}]
