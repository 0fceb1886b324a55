"""Which rows a process takes, and how it keeps them.

A claim looks at three places, each through an index of its own, so that no number of rows that must wait is in the
way: the first due rows without a lane, of each name that has a free place; the first due rows with a lane; and, where
these are many and wait for one another, the heads of some lanes, in turns.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from db import Database, Row, Statement
from worker.table import many

WINDOW = 64  # rows in a lane that one claim looks at, and lanes
NAMES = 100  # names that one claim looks at: SQLite takes 500 parts of a UNION

# An occurrence of a schedule that no tick has begun yet: a poll leaves it alone. One that is replayed has an error.
UNTICKED = "substr({0}.id, 1, 5) = 'cron:' AND {0}.begun = 0 AND {0}.attempts = 0 AND {0}.error IS NULL"

# $1 token, $2 when it lapses, $3 now, $4 how many, $5 1 where a tick asks, then name and free places in turns, then ids
LANE_IS_FREE = f"""
  NOT EXISTS (SELECT 1 FROM house_job k WHERE k.lane = j.lane AND k.token IS NOT NULL AND k.id <> j.id)
  AND NOT EXISTS (SELECT 1 FROM house_job k WHERE k.lane = j.lane AND k.done_at IS NULL
    AND (k.created_at, k.id) < (j.created_at, j.id) AND k.name IN (SELECT name FROM room)
    AND (k.run_at <= $3 OR k.begun > 0 OR k.attempts > 0 OR k.token IS NOT NULL)
    AND (CAST($5 AS BIGINT) = 1 OR NOT ({UNTICKED.format("k")})))"""  # noqa: S608 - fixed text

WITHOUT_LANE = """SELECT * FROM (SELECT j.id, j.name, j.run_at FROM house_job j
    WHERE j.name = CAST({name} AS TEXT) AND j.done_at IS NULL AND (j.lane IS NULL) IS TRUE AND j.run_at <= $3
    ORDER BY j.run_at, j.id LIMIT CAST({room} AS BIGINT){lock}) {alias}"""

IN_A_LANE = f"""SELECT * FROM (SELECT j.id, j.name, j.run_at FROM house_job j
    WHERE j.id IN ({{window}}) AND j.done_at IS NULL AND j.run_at <= $3
    AND j.name IN (SELECT name FROM room WHERE n > 0)
    AND (CAST($5 AS BIGINT) = 1 OR NOT ({UNTICKED.format("j")})) AND {LANE_IS_FREE}{{lock}}) laned"""  # noqa: S608 - fixed text

FIRST_IN_LANES = f"""SELECT id FROM (SELECT id FROM house_job WHERE done_at IS NULL AND lane IS NOT NULL
    AND run_at <= $3 ORDER BY run_at, id LIMIT {WINDOW}) w"""  # noqa: S608 - fixed text

CLAIM = """WITH room (name, n) AS (VALUES {room}),
  found AS ({found}),
  taken AS (SELECT id FROM (SELECT f.id, f.run_at, f.name,
    ROW_NUMBER() OVER (PARTITION BY f.name ORDER BY f.run_at, f.id) AS nth FROM found f) r
    JOIN room ON room.name = r.name WHERE r.nth <= room.n ORDER BY r.run_at, r.id LIMIT CAST($4 AS BIGINT))
UPDATE house_job SET token = $1, run_at = $2, began_at = $3, begun = begun + 1, attempts = attempts + 1
  WHERE id IN (SELECT id FROM taken) RETURNING *"""

# The first row of each of the lanes after $2 that could be begun; none where the window above is not full of others.
HEADS = f"""WITH RECURSIVE lanes (lane, n) AS (
  SELECT (SELECT k.lane FROM house_job k WHERE k.done_at IS NULL AND k.lane > $2 ORDER BY k.lane LIMIT 1), 1
  WHERE (SELECT COUNT(*) FROM (SELECT 1 FROM house_job WHERE done_at IS NULL AND lane IS NOT NULL AND run_at <= $1
    ORDER BY run_at, id LIMIT {WINDOW}) w) = {WINDOW}
  UNION ALL
  SELECT (SELECT k.lane FROM house_job k WHERE k.done_at IS NULL AND k.lane > lanes.lane ORDER BY k.lane LIMIT 1), n + 1
  FROM lanes WHERE lanes.lane IS NOT NULL AND n < {WINDOW})
SELECT lane, (SELECT k.id FROM house_job k WHERE k.done_at IS NULL AND k.lane = lanes.lane AND k.token IS NULL
  AND k.run_at <= $1 ORDER BY k.created_at, k.id LIMIT 1) AS id FROM lanes WHERE lane IS NOT NULL"""  # noqa: S608 - fixed text

RENEW = """WITH mine (id, token, at) AS (VALUES)
UPDATE house_job SET run_at = mine.at FROM mine
  WHERE house_job.id = mine.id AND house_job.token = mine.token RETURNING house_job.id, house_job.token"""
RENEW_TYPES = ("TEXT", "TEXT", "DOUBLE PRECISION")

CALLED_OFF = "SELECT id, token FROM house_job WHERE cancelled_at IS NOT NULL AND done_at IS NULL AND token IS NOT NULL"

# A claim that lapsed long ago, of a name without a file here: it would hold its lane for ever.
LET_GO = """UPDATE house_job SET token = NULL WHERE token IS NOT NULL AND done_at IS NULL AND run_at < $1
  AND name NOT IN ({names}) RETURNING id, name"""

# The names of the rows that have been due for longest, and of which nobody knows a file.
WITHOUT_FILE = """SELECT name, COUNT(*) AS n FROM (SELECT name FROM house_job WHERE done_at IS NULL AND run_at <= $1
  ORDER BY run_at, id LIMIT 1000) due WHERE name NOT IN ({names}) GROUP BY name ORDER BY name"""


def claim_statement(
    db: Database,
    token: str,
    room: Mapping[str, int],
    *,
    now: float,
    lease: float,
    places: int,
    ticked: bool,
    heads: Sequence[str] = (),
) -> Statement:
    """Claim as many due rows as there are places, of names that have room; each lane's first alone."""
    values: list[object] = [token, now + lease, now, places, int(ticked)]
    for name, n in room.items():
        values += [name, n]
    ids = [*heads, *[""] * (WINDOW - len(heads))] if heads else []
    return claim_text(len(room), len(ids), db.skip_locked), [*values, *ids]


@lru_cache
def claim_text(names: int, heads: int, lock: str) -> str:
    pairs = [(f"${i}", f"${i + 1}") for i in range(6, 6 + 2 * names, 2)]
    first = 6 + 2 * names
    window = FIRST_IN_LANES
    if heads:
        ids = ", ".join(f"(CAST(${i} AS TEXT))" for i in range(first, first + heads))
        window = f"VALUES {ids}"
    parts = [WITHOUT_LANE.format(name=name, room=n, lock=lock, alias=f"free{i}") for i, (name, n) in enumerate(pairs)]
    parts.append(IN_A_LANE.format(window=window, lock=lock))
    room = ", ".join(f"(CAST({name} AS TEXT), CAST({n} AS BIGINT))" for name, n in pairs)
    return CLAIM.format(room=room, found="\n  UNION ALL ".join(parts))


def renewals(db: Database, claims: Sequence[tuple[str, str]], until: float) -> list[Statement]:
    """Keep claims, each an id and a token; the ids of those that are still ours come back."""
    return many(db, RENEW, RENEW_TYPES, [(id, token, until) for id, token in sorted(claims)])


def with_names(sql: str, names: Sequence[str], first: int = 2) -> str:
    """Put markers for names into a text, from ``$2`` on; NOT IN () of nobody is true."""
    return sql.format(names=", ".join(f"${i}" for i in range(first, first + len(names))) or "NULL")


def sorted_rows(rows: Sequence[Row]) -> list[Row]:
    """In the order in which they were put: RETURNING has none."""
    return sorted(rows, key=lambda row: (row["created_at"], row["id"]))
