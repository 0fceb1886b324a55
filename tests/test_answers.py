"""A live answer by itself: what its readers see, and how it is told. No server, no model, no database."""

import asyncio
import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answers.live import MOST, Answer, Ended, Thought
from answers.wire import Frames, Parts
from sse import frames as as_sent

PIECE = st.text(st.characters(codec="utf-8"), max_size=8)


def answer_of(*pieces: str, finish: str | None = "stop", over: bool = True) -> Answer:
    answer = Answer("turn", "m-answer")
    for piece in pieces:
        answer.add([] if isinstance(piece, Thought) else [piece], [piece] if isinstance(piece, Thought) else [])
    answer.finish = finish
    if over:
        answer.close("done")
    return answer


async def read(answer: Answer, after: int | None = None) -> list[str]:
    pieces: list[str] = []
    with answer.reader(after) as reader:
        while news := await reader.news():
            pieces += news
    return pieces


async def text_after(answer: Answer, after: int | None = None) -> str:
    return "".join(piece for piece in await read(answer, after) if type(piece) is str)


# Readers.


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(PIECE, max_size=60), seed=st.integers(0, 10**6))
def test_any_number_of_readers_with_any_offsets_and_speeds_see_the_same_text(pieces: list[str], seed: int):
    whole = "".join(pieces).replace("\0", "\ufffd")
    chance = random.Random(seed)
    answer = Answer("turn", "m-answer")

    async def follow(after: int, begins_after: int) -> None:
        for _ in range(begins_after):
            await asyncio.sleep(0)
        said, known = "", after if answer.told else 0  # of what has said nothing, nobody knows any
        with answer.reader(after) as reader:
            while news := await reader.news():
                said += "".join(news)
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
        assert said == whole[known:]

    async def write() -> None:
        rest = list(pieces)
        while rest:
            count = chance.randrange(1, 5)
            answer.add(rest[:count])
            del rest[:count]
            if chance.random() < 0.7:
                await asyncio.sleep(0)
        answer.close("done")

    async def all_of_them() -> None:
        readers = [follow(chance.randrange(len(whole) + 3), chance.randrange(60)) for _ in range(8)]
        await asyncio.gather(write(), *readers)

    asyncio.run(all_of_them())
    assert answer.readers == 0
    assert answer.text == whole


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 6, 100])
async def test_a_reader_goes_on_at_a_character_whatever_the_pieces_were(after: int):
    assert await text_after(answer_of("a😀", "b", "", "éc"), after) == "a😀béc"[after:]


async def test_a_reader_that_is_far_behind_gets_the_text_in_steps():
    answer = answer_of(*["x" * 1000] * 100, "y" * 100_000)
    news = await read(answer)
    assert max(map(len, news)) <= MOST
    assert "".join(news) == answer.text


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a\ud83d", "\ude00b"], "a😀b"),
        (["a\ud83d", "", "\ude00", "b"], "a😀b"),
        (["\ud83d", "x"], "\ufffdx"),
        (["\ude00x"], "\ufffdx"),
        (["a\ud83d"], "a\ufffd"),
        (["\0"], "\ufffd"),
    ],
)
async def test_what_is_told_is_whole_unicode_text(pieces: list[str], text: str):
    answer = answer_of(*pieces)
    told = await read(answer)
    assert "".join(told) == text == answer.text
    assert all(piece.encode() for piece in told)
    assert answer.told == len(text)


async def test_the_failure_comes_after_the_text_in_every_reader():
    answer = answer_of("Hel", over=False)
    answer.close("error", failure=Ended("It broke off."))
    for _ in range(2):
        with answer.reader() as reader:
            assert await reader.news() == ["Hel"]
            with pytest.raises(Ended, match="It broke off"):
                await reader.news()


async def test_thinking_is_told_from_the_beginning_or_from_now_on_and_is_no_text():
    answer = answer_of(Thought("hm"), "Hel", over=False)
    assert (answer.text, answer.told) == ("Hel", 3)
    with answer.reader() as fresh, answer.reader(0) as knowing:
        assert await fresh.news() == [Thought("hm"), "Hel"]
        assert await knowing.news() == ["Hel"]
        answer.add([], ["well"])
        assert await fresh.news() == await knowing.news() == ["well"]


async def test_the_last_reader_that_leaves_is_noticed():
    left: list[Answer] = []
    answer = Answer("turn", "m-answer", left.append)
    with answer.reader():
        with answer.reader():
            pass
        assert left == []
    assert left == [answer]


# On the wire.


def told(wire: Frames | Parts, answer: Answer, *batches: list[str]) -> list[Any]:
    wire.begin(answer)
    events = list(wire.start())
    for batch in batches:
        events += wire.news(batch)[0]
    return [data for _, data in parsed([*events, *wire.end()])]


def parsed(events: Sequence[object]) -> list[tuple[int | None, Any]]:
    """The id and the data of each event, as a client reads them."""
    found = re.findall(r"(?:id: (\d+)\n)?data: (.+)\n\n", as_sent(events).decode())
    return [(int(id) if id else None, json.loads(data)) for id, data in found]


def test_the_id_of_a_frame_is_the_number_of_characters_so_far():
    wire = Frames(after=2, reasoning=True)
    events, texts = wire.news(["a😀", Thought("hm"), "b"])
    assert parsed(events) == [(4, {"text": "a😀"}), (4, {"text": "", "reasoning": "hm"}), (5, {"text": "b"})]
    assert texts == 2
    assert parsed([wire.error("Broken.")]) == [(5, {"error": "Broken."})]


def test_without_being_asked_thinking_is_not_told():
    assert parsed(Frames().news([Thought("hm"), "a"])[0]) == [(1, {"text": "a"})]
    assert Frames().news([Thought("hm")]) == ([], 0)
    assert Parts().news([Thought("hm")]) == ([], 0)


@pytest.mark.parametrize(
    ("finish", "frames", "reason"),
    [
        ("stop", [], "stop"),
        (None, [], "stop"),
        ("length", [{"text": "", "finish": "length"}], "length"),
        ("content_filter", [{"text": "", "finish": "content_filter"}], "content-filter"),
        ("tool_calls", [{"text": "", "finish": "tool_calls"}], "tool-calls"),
        ("a new word", [{"text": "", "finish": "a new word"}], "other"),
    ],
)
def test_an_end_that_is_not_a_good_one_is_told(finish: str | None, frames: list[Any], reason: str):
    assert told(Frames(), answer_of(finish=finish)) == frames
    assert told(Parts(), answer_of(finish=finish))[-1] == {"type": "finish", "finishReason": reason}


def test_parts_of_thinking_end_before_the_text_begins():
    parts = told(Parts(reasoning=True), answer_of(), [Thought("hm"), Thought(" well")], ["Hel", "lo"])
    assert parts == [
        {"type": "start", "messageId": "m-answer"},
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "reasoning"},
        {"type": "reasoning-delta", "id": "reasoning", "delta": "hm"},
        {"type": "reasoning-delta", "id": "reasoning", "delta": " well"},
        {"type": "reasoning-end", "id": "reasoning"},
        {"type": "text-start", "id": "text"},
        {"type": "text-delta", "id": "text", "delta": "Hel"},
        {"type": "text-delta", "id": "text", "delta": "lo"},
        {"type": "text-end", "id": "text"},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop"},
    ]


def test_thinking_between_two_texts_makes_parts_with_ids_of_their_own():
    parts = told(Parts(reasoning=True), answer_of(), ["a"], [Thought("hm")], ["b"])
    assert [part.get("id") for part in parts if part["type"].endswith("-start")] == ["text", "reasoning", "text-2"]


def test_the_tokens_are_in_the_last_part():
    answer = answer_of("Hello")
    answer.tokens_in, answer.tokens_out = 4711, 815
    last = told(Parts(), answer)[-1]
    assert last["messageMetadata"] == {"usage": {"inputTokens": 4711, "outputTokens": 815}}
