"""Whose a conversation is: a database of the version in which all owners had one space of ids is taken over."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from db import database
from store import NotFound, Question, Store
from tests.conftest import execute

# What a database held before conversations were their owners', as the version of then made it.
BEFORE = """
CREATE TABLE conversation (id TEXT PRIMARY KEY, channel TEXT NOT NULL, channel_id TEXT, model TEXT NOT NULL,
  created_at DOUBLE PRECISION NOT NULL);
CREATE INDEX conversation_newest ON conversation (channel, created_at, id);
CREATE TABLE message (conversation_id TEXT NOT NULL, seq BIGINT NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL,
  state TEXT NOT NULL, message_id TEXT, turn TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL,
  touched_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (conversation_id, seq));
CREATE UNIQUE INDEX message_once ON message (conversation_id, message_id);
CREATE INDEX message_turn ON message (turn);
CREATE TABLE job (id TEXT PRIMARY KEY, name TEXT NOT NULL, lane TEXT, payload TEXT NOT NULL,
  run_at DOUBLE PRECISION NOT NULL, attempts INTEGER NOT NULL, token TEXT, done_at DOUBLE PRECISION, error TEXT,
  created_at DOUBLE PRECISION NOT NULL);
CREATE INDEX job_done ON job (done_at) WHERE done_at IS NOT NULL;
CREATE UNIQUE INDEX job_lane ON job (lane) WHERE token IS NOT NULL;
CREATE INDEX job_due ON job (run_at, id) WHERE done_at IS NULL;
CREATE INDEX job_waiting ON job (lane, created_at, id) WHERE done_at IS NULL;
CREATE TABLE migration (version BIGINT PRIMARY KEY);
INSERT INTO migration (version) VALUES (1), (2), (3);
INSERT INTO conversation (id, channel, channel_id, model, created_at) VALUES
  ('hers', 'web', 'dora', 'fast', 1.0), ('nobodys', 'web', NULL, 'smart', 2.0), ('telegram:42', 'telegram', '42',
  'smart', 3.0);
INSERT INTO message (conversation_id, seq, role, content, state, message_id, turn, created_at, touched_at) VALUES
  ('hers', 1, 'user', 'Hi', 'done', 'm', 't1', 1.0, 1.0), ('hers', 2, 'assistant', 'Hello', 'done', NULL, 't1', 1, 1),
  ('nobodys', 1, 'user', 'Ho', 'done', NULL, 't2', 2.0, 2.0),
  ('nobodys', 2, 'assistant', 'Huh', 'done', NULL, 't2', 2.0, 2.0),
  ('telegram:42', 1, 'user', 'Na', 'done', 'telegram:7', 't3', 3.0, 3.0),
  ('telegram:42', 2, 'assistant', 'Nu', 'done', NULL, 't3', 3.0, 3.0);
"""


def make_before(url: str) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(BEFORE)
    else:
        asyncio.run(execute(url, BEFORE))


STORED: list[tuple[Any, ...]] = [
    ("web", "dora", "hers", "m", "Hi", "Hello"),
    ("web", None, "nobodys", None, "Ho", "Huh"),
    ("telegram", "42", "telegram:42", "telegram:7", "Na", "Nu"),
]


def test_what_was_stored_stays_its_owners(database_url: str):
    make_before(database_url)
    for _ in range(2):  # it starts twice
        asyncio.run(is_kept(database_url))


async def is_kept(url: str) -> None:
    db = database(url)
    await db.open()
    store = Store(db)
    for channel, owner, id, message_id, text, answer in STORED:
        row, messages = await store.conversation(id, channel, owner)
        assert (row["id"], row["owner"]) == (id, owner)
        assert [m["content"] for m in messages][:2] == [text, answer]
        question = Question(conversation=id, content=text, channel=channel, owner=owner, message_id=message_id)
        if message_id:  # an old message id is a repeat
            assert (await store.begin(question)).content == answer
        turn = await store.begin(Question(conversation=id, content="More", channel=channel, owner=owner))
        assert [m["content"] for m in await store.history(turn, 1000)][:3] == [text, answer, "More"]
        await store.save(turn, "", "stopped")
        for stranger in ({"owner": "eve"}, {"channel": "other", "owner": owner}):
            other = replace(question, content="mine", message_id=None, **stranger)
            assert [m["content"] for m in await store.history(await store.begin(other), 1000)] == ["mine"]
            await store.delete(id, other.channel, other.owner)
    with pytest.raises(NotFound):
        await store.conversation("hers", "web", None)
    [hers] = await store.conversations("web", "dora", 10, None)
    assert hers["id"] == "hers"
    await db.aclose()
