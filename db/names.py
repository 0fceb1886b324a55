"""The names of our tables: ``house_job`` in every SQL text, and in every database that is made now.

Databases of before the prefix keep their tables' names, ``job``: processes of the older code may still run on them.
There the words below are replaced in each text; a table that came later has its prefix everywhere.
"""

import re
from functools import lru_cache

OLDER = {
    *("conversation", "message", "job"),
    *("conversation_newest", "message_once", "message_turn", "job_due", "job_done", "job_waiting", "job_lane"),
}
WORD = re.compile(rf"\bhouse_({'|'.join(sorted(OLDER, key=len, reverse=True))})\b")

# What tells our older tables from somebody else's of the same names.
COLUMNS = {
    "conversation": {"id", "channel", "channel_id", "model", "created_at"},
    "message": {"conversation_id", "seq", "role", "content", "state", "message_id", "turn", "touched_at"},
    "migration": {"version"},
}


@lru_cache(maxsize=1024)
def without_prefix(sql: str) -> str:
    """Return a text with the names that our tables had before the prefix."""
    return WORD.sub(r"\1", sql)


def as_written(sql: str) -> str:
    return sql
