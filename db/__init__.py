"""The database: a SQLite file or a PostgreSQL server, with one SQL text for both.

That text keeps to what both accept: markers ``$1, $2``, ``ON CONFLICT``, ``RETURNING``, and a ``CAST`` where
PostgreSQL could not tell a parameter's type. A write is a list of statements that happen together or not at all,
and what it acknowledges has reached the disk.

| file | what it is |
|---|---|
| `contract.py` | what both engines promise |
| `sqlite.py`, `postgresql.py` | the engines |
| `thread.py` | SQLite's connections, and what is committed together |
| `url.py`, `pool.py`, `grouping.py` | PostgreSQL's URL, connections, and what is committed together |
| `wakeups.py` | telling other processes that something changed |
| `migrations.py` | the tables: files that run in order, once, recorded by name |
| `statements.py` | a file of SQL as its statements |
| `names.py` | the names of our tables, which have a prefix unless the database is older than it |
| `tables/` | our tables |
"""

from db.contract import Conflict, Database, Row, Session, Statement
from db.postgresql import PostgreSQL
from db.sqlite import SQLite

__all__ = ["Conflict", "Database", "Row", "Session", "Statement", "database"]


def database(url: str, pool: int = 10) -> Database:
    """Return the database that a URL names, not yet opened. Raises `ConfigError`.

    ``pool``: how many connections to PostgreSQL it opens at most; one more listens for wake-ups.
    """
    return SQLite(url) if url.startswith("sqlite:") else PostgreSQL(url, pool)
