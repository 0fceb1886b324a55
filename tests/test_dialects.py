"""Every row of tests/dialects.py: what becomes of the bytes, however they are cut, and what is logged."""

import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm as llm_module
import store
from config import HERE, Config
from llm import LLM, LLMError
from model import client, completion, errors
from model.completion import Completion, Read
from tests.dialects import DIALECTS, Dialect, speaks
from tests.servers import ModelServer

QUESTION = [{"role": "user", "content": "Hi"}]

rows = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda row: f"{row.kind}: {row.name}")


class Outcome(NamedTuple):
    text: str
    reasoning: str
    finish: str | None
    tokens: tuple[int | None, int | None]
    failure: str


def expected(dialect: Dialect) -> Outcome:
    return Outcome(dialect.text, dialect.reasoning, dialect.finish, dialect.tokens, dialect.failure)


def joined(reads: Sequence[Read], failure: LLMError | None) -> Outcome:
    pieces = [piece for read in reads for piece in read.text + read.reasoning]
    assert all(piece for piece in pieces), "an empty piece"
    "".join(pieces).encode()  # whole Unicode text, piece by piece
    assert all(piece.encode() for piece in pieces)
    assert not any(read.finish for read in reads[:-1]), "a finish before the last"
    last = reads[-1] if reads else Read([], [])
    text, reasoning = ("".join(piece for read in reads for piece in side(read)) for side in (texts, thoughts))
    return Outcome(text, reasoning, last.finish, (last.tokens_in, last.tokens_out), str(failure or ""))


def texts(read: Read) -> list[str]:
    return read.text


def thoughts(read: Read) -> list[str]:
    return read.reasoning


def outcome(chunks: Sequence[bytes]) -> Outcome:
    answer = Completion()
    reads: list[Read] = []
    for chunk in chunks:
        read = answer.take(chunk)
        if read is not None:
            reads.append(read)
    return joined([*reads, answer.end()], answer.failure)


@rows
def test_a_body_is_read(dialect: Dialect):
    assert outcome([dialect.body]) == expected(dialect)


@rows
def test_a_body_that_comes_byte_by_byte_is_read_the_same(dialect: Dialect):
    size = len(dialect.body) // 2_000 + 1  # of the megabytes some more at once
    assert outcome([dialect.body[i : i + size] for i in range(0, len(dialect.body), size)]) == expected(dialect)


SHORT = [dialect.body for dialect in DIALECTS if len(dialect.body) < 2_000]


@settings(deadline=None, max_examples=300)
@given(
    bodies=st.lists(st.sampled_from(SHORT), min_size=1, max_size=3), cuts=st.lists(st.integers(0, 4_000), max_size=30)
)
def test_however_bytes_are_cut_they_say_the_same(bodies: list[bytes], cuts: list[int]):
    body = b"".join(bodies)
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    cut = [body[start:end] for start, end in pairwise(places)]
    assert b"".join(cut) == body
    assert outcome(cut) == outcome([body])


@settings(deadline=None, max_examples=300)
@given(
    lines=st.lists(
        st.sampled_from(
            [b"data:", b"data: ", b"event: error", b"event: x", b":", b"[DONE]", b"{", b"\xef\xbb\xbf", b" "]
        )
        | st.sampled_from(SHORT).map(lambda body: body.partition(b"\n")[0]),
        max_size=12,
    ),
    line_end=st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b""]),
    data=st.data(),
)
def test_no_bytes_raise_and_cutting_them_changes_nothing(lines: list[bytes], line_end: bytes, data: Any):
    body = line_end.join(lines) + line_end
    place = data.draw(st.integers(0, len(body)))
    assert outcome([body[:place], b"", body[place:]]) == outcome([body])


@pytest.fixture(params=["httpx2", "aiohttp"])
async def llm(request: pytest.FixtureRequest, model: ModelServer) -> AsyncIterator[LLM]:
    """The models of the tests' model server, by one transport after the other."""
    llm = LLM(Config(openai_base_url=model.url, openai_api_key="a-key"), aiohttp=request.param == "aiohttp")
    yield llm
    await llm.aclose()


async def asked(llm: LLM, alias: str = "smart") -> Outcome:
    reads: list[Read] = []
    failure: LLMError | None = None
    try:
        async with aclosing(llm.chat_reads(alias, QUESTION)) as stream:
            async for read in stream:
                reads.append(read)
    except LLMError as exc:
        failure = exc
    return joined(reads, failure)


@rows
async def test_an_answer_on_the_network_is_read_and_its_failure_is_logged(
    llm: LLM, model: ModelServer, dialect: Dialect, caplog: pytest.LogCaptureFixture
):
    model.answer = speaks(dialect)
    assert await asked(llm) == expected(dialect)
    assert len(model.asked) == 1
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == bool(dialect.failure)
    for line in lines:
        assert line.startswith(f"model smart (gpt-5.5): {dialect.failure}")
        assert all(word in line for word in dialect.log)
    assert "SECRET" not in caplog.text
    assert "forged" not in caplog.text
    assert "{" not in caplog.text


def test_the_docs_name_each_kind_of_dialect():
    found = re.findall(r"^\| ([^|]+?) \|", (HERE / "docs/chat.md").read_text(), re.MULTILINE)
    assert {dialect.kind for dialect in DIALECTS} - {"a good answer"} <= set(found)


def test_the_table_of_limits_is_the_code_s():
    section = (HERE / "docs/chat.md").read_text().split("\n## Limits\n")[1].split("\n## ")[0]
    told = {tuple(row) for row in re.findall(r"^\|[^|]+\|.*?(\d[\d,]*)[^|]*\| `([\w/.]+)` \|", section, re.MULTILINE)}
    config = Config()
    limits = [
        (config.max_body_bytes, "layers/bodylimit.py"),
        (config.chat_max_streams, "answers/__init__.py"),
        (config.chat_history_chars, "store.py"),
        (store.ROOM, "store.py"),
        (completion.EVENT_BYTES, "model/completion.py"),
        (completion.ANSWER_CHARS, "model/completion.py"),
        (client.HEAD_BYTES, "model/client.py"),
        (client.ERROR_BYTES, "model/client.py"),
        (client.MAX_CONNECTIONS, "model/client.py"),
        (client.CONNECT, "model/client.py"),
        (llm_module.READ, "llm.py"),
        (llm_module.AFTER_THE_END, "llm.py"),
        (llm_module.MORE, "llm.py"),
        (errors.LONGEST_WAIT, "model/errors.py"),
    ]
    assert told == {(f"{limit:,.0f}", file) for limit, file in limits}
    assert f"{errors.LONGEST_TOLD:,.0f} seconds at most" in section
