"""Bring the tables up to date: the files of `db/tables/`, then those of `migrations/`, in order, once.

`NNN_name.sql` is a list of statements; `NNN_name.py` has ``async def migrate(db)``, whose ``db`` reads and writes as
`request.state["db"]` does and knows its ``engine``. Each file runs in one transaction together with the note that it
ran, under the lock that all processes share: a file that fails leaves nothing behind. The note holds the file's name
and a digest of its content, so a merge that brings an earlier number still runs it, and a file that was changed
after it ran is noticed.
"""

import hashlib
import logging
import re
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from traceback import extract_tb
from typing import Any, NamedTuple

from config import ConfigError
from db.contract import Session
from db.names import COLUMNS
from db.statements import statements
from loader import raise_together
from modules import Modules

logger = logging.getLogger("db")

TABLES = Path(__file__).parent / "tables"
NAME = re.compile(r"([0-9]+)[_-][\w-]+\.(sql|py)")
TRANSACTION = re.compile(r"(BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE)\b", re.I)
FROM_PSQL = re.compile(r"COPY\b.*\b(STDIN|STDOUT)\b", re.I | re.S)
BEFORE_NAMES = 3  # our first three were recorded by number, in databases whose tables have no prefix

NOTES = """CREATE TABLE house_migration (
  name TEXT PRIMARY KEY, digest TEXT NOT NULL, ran_at DOUBLE PRECISION NOT NULL)"""
NOTE = "INSERT INTO house_migration (name, digest, ran_at) VALUES ($1, $2, $3)"


class MigrationError(ConfigError):
    """A migration that cannot run; the message names its file."""


class Migration(NamedTuple):
    """One file."""

    name: str  # migrations/001_customers.sql
    number: int
    file: Path
    text: str
    digest: str


def read_migrations(folder: Path | None) -> list[Migration]:
    """Read our migrations and those of a folder, in their order. All problems are raised together."""
    theirs = read_folder(folder, folder.name) if folder else []
    for gap in gaps(theirs):
        logger.info("migrations: no file has the number %s, which is allowed", gap)
    return [*read_folder(TABLES, "db/tables"), *theirs]


def read_folder(folder: Path, shown: str) -> list[Migration]:
    """Read the migrations of a folder; [] where there is none. Raises `MigrationError`, or a group of them."""
    if not folder.is_dir():
        return []
    found: list[Migration] = []
    problems: list[Exception] = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith((".", "_")) or file.suffix.lower() not in (".sql", ".py"):
            continue
        name = f"{shown}/{file.name}"
        if not (match := NAME.fullmatch(file.name)):
            problems.append(
                MigrationError(f"{name} has no number. Name it NNN_name.sql or NNN_name.py, such as 001_customers.sql.")
            )
            continue
        try:
            text = file.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
        except (OSError, UnicodeDecodeError) as exc:
            problems.append(MigrationError(f"{name} cannot be read: {exc}"))
            continue
        found.append(Migration(name, int(match[1]), file, text, hashlib.sha256(text.encode()).hexdigest()))
    found.sort(key=lambda migration: migration.number)
    for one, other in pairwise(found):
        if one.number == other.number:
            problems.append(
                MigrationError(
                    f"{one.name} and {other.name} have the same number, so their order is not certain. "
                    "Give the one that did not run yet another number."
                )
            )
    raise_together(problems)
    return found


def gaps(found: Sequence[Migration]) -> list[str]:
    """Name the numbers that a folder leaves out, which is allowed: 003 to 009."""
    around = [0, *(migration.number for migration in found)]
    return [
        f"{one + 1:03}" if other == one + 2 else f"{one + 1:03} to {other - 1:03}"
        for one, other in pairwise(around)
        if other > one + 1
    ]


async def migrate(session: Session, found: Sequence[Migration]) -> list[str]:
    """Run the migrations that did not run yet, and return their names. Raises `MigrationError`."""
    if not await pending(session, found):  # which takes no lock and needs no right to change tables
        return []
    ran: list[str] = []
    async with session.locked():
        if not await session.columns("house_migration"):  # IF NOT EXISTS would need the right to make one even then
            await session.write((NOTES, ()))
            await warn_of_prisma(session)
        await take_over(session, found)
    for migration in found:
        async with session.locked():
            if migration in await pending(session, [migration]):  # another process may have been quicker
                began = time.perf_counter()
                await run(session, migration)
                logger.info("%s ran in %s ms", migration.name, round((time.perf_counter() - began) * 1000))
                ran.append(migration.name)
    return ran


async def warn_of_prisma(session: Session) -> None:
    """Say where ours are safe: Prisma drops every table of its schema that it did not make."""
    if await session.columns("_prisma_migrations"):
        place = "add schema=house to" if session.engine == "postgresql" else "name another file in"
        logger.warning(
            "Prisma's tables are here too, and prisma migrate dev, migrate reset and db push drop ours: "
            "%s DATABASE_URL (docs/data.md)",
            place,
        )


async def pending(session: Session, found: Sequence[Migration]) -> list[Migration]:
    """Return the migrations that did not run yet. Raises `MigrationError` where one was changed after it ran."""
    if not await session.columns("house_migration"):
        return list(found)
    rows = await session.read("SELECT name, digest FROM house_migration")
    digests = {row["name"]: row["digest"] for row in rows}
    for migration in found:
        if digests.get(migration.name, migration.digest) != migration.digest:
            raise MigrationError(
                f"{migration.name} was changed after it ran on this database. Put it back as it was, "
                "and write what is to change into a new file with the next number."
            )
    return [migration for migration in found if migration.name not in digests]


async def is_older(session: Session) -> bool:
    """Whether the database has our tables of before the prefix; somebody else's of these names are left alone."""
    if await session.columns("house_conversation"):
        return False
    return all([await session.columns(table) >= columns for table, columns in COLUMNS.items()])


async def take_over(session: Session, found: Sequence[Migration]) -> None:
    """Note by name what an older database has noted by number."""
    if not await is_older(session):
        return
    noted = {row["name"] for row in await session.read("SELECT name FROM house_migration")}
    versions = {row["version"] for row in await session.read("SELECT version FROM migration")}
    for migration in found[:BEFORE_NAMES]:
        if migration.number in versions and migration.name not in noted:
            await session.write((NOTE, (migration.name, migration.digest, time.time())))


async def run(session: Session, migration: Migration) -> None:
    """Run one file and note it, in the transaction that is open."""
    path = await search_path(session)
    if migration.file.suffix == ".py":
        await run_python(session, migration)
    else:
        await run_sql(session, migration)
    try:
        if path is not None:
            await session.read("SELECT set_config('search_path', $1, false)", path)
        await session.write((NOTE, (migration.name, migration.digest, time.time())))
    except Exception as exc:
        raise failed(f"{migration.name}: it cannot be noted that it ran", exc) from exc
    if migration.file.parent == TABLES and migration.number <= BEFORE_NAMES and await is_older(session):
        await session.write(("INSERT INTO migration (version) VALUES ($1)", (migration.number,)))


async def search_path(session: Session) -> str | None:
    """Return where PostgreSQL looks for tables: what pg_dump writes sets it to nowhere, for all that comes after."""
    if session.engine != "postgresql":
        return None
    [row] = await session.read("SELECT current_setting('search_path') AS path")
    return row["path"]


async def run_sql(session: Session, migration: Migration) -> None:
    for sql, line in statements(migration.text, session.engine):
        first = sql.partition("\n")[0]
        if TRANSACTION.match(sql):
            raise MigrationError(
                f"{migration.name}, line {line}: {first}: each file runs in a transaction of its own. Take this out."
            )
        if session.engine == "postgresql" and FROM_PSQL.match(sql):  # the server would wait for rows, and so would we
            raise MigrationError(f"{migration.name}, line {line}: {first}: only psql can do this. Write INSERT.")
        try:
            await session.write((sql, ()))
        except Exception as exc:
            raise failed(f"{migration.name}, line {line}: {first}", exc) from exc


async def run_python(session: Session, migration: Migration) -> None:
    try:
        found: Any = vars(Modules(migration.file.parent).load(migration.file))
        if "migrate" not in found:
            raise MigrationError(f"{migration.name} has no function 'migrate'. Write: async def migrate(db): ...")
        await found["migrate"](session)
    except ConfigError:
        raise
    except Exception as exc:
        lines = [line for file, line, *_ in extract_tb(exc.__traceback__) if file == str(migration.file)]
        raise failed(f"{migration.name}, line {lines[-1]}" if lines else migration.name, exc) from exc


def failed(where: str, exc: Exception) -> MigrationError:
    hint = " Run python -m app migrate with a role that may." if getattr(exc, "sqlstate", "") == "42501" else ""
    return MigrationError(f"{where}: {type(exc).__name__}: {exc}. Nothing of this file was kept.{hint}")
