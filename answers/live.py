"""One answer while it is written: a log of pieces that grows at one end, and any number of readers behind it.

Whoever writes calls `add`, and at the end `close`; a reader takes what is new, waits for more, and holds up nobody.
An offset is a number of characters of the text, counted in Unicode code points, as Python, PostgreSQL and SQLite count
them (JavaScript: ``[...text].length``). So it means the same in every process, however the text was cut into pieces.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, Self

Ending = Literal["done", "left", "stopped", "error"]

MOST = 16_384  # characters that a reader takes at once: one that is far behind gets the text in such steps
MANY = 500  # pieces that wait for a reader; more of them are given to it as one


class Ended(Exception):
    """The answer ended before it was whole: it says how and why. The text is safe to show to a client."""

    def __init__(self, words: str, state: Ending = "error", reason: str | None = None) -> None:
        super().__init__(words)
        self.state = state
        self.reason = reason


class Thought(str):
    """A piece of the model's reasoning: it stands in the log, and does not count as text."""

    __slots__ = ()


class Answer:
    """The log of one answer.

    ``turn`` names it in the store, ``id`` for clients. ``on_empty`` is called when its last reader has left. A mirror
    of what another process writes ``lags`` behind it.
    """

    def __init__(
        self, turn: str, id: str, on_empty: Callable[["Answer"], None] = lambda answer: None, *, lags: bool = False
    ) -> None:
        self.turn = turn
        self.id = id
        self.lags = lags
        self.log: list[str] = []
        self.told = 0  # characters of text so far
        self.state: Ending | Literal["running"] = "running"
        self.reason: str | None = None
        self.failure: Exception | None = None
        self.finish: str | None = None
        self.tokens_in: int | None = None
        self.tokens_out: int | None = None
        self.readers = 0
        self._on_empty = on_empty
        self._half = ""  # of a surrogate pair, which waits for its other half
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def text(self) -> str:
        return "".join([piece for piece in self.log if type(piece) is not Thought])

    @property
    def is_over(self) -> bool:
        return self.state != "running"

    def add(self, texts: Sequence[str], thoughts: Sequence[str] = ()) -> None:
        """Append what was said, thinking first. What is in the log is whole Unicode text that every database takes."""
        for thought in thoughts:
            if thought:
                self.log.append(Thought(clean(thought)))
        for text in texts:
            if self._half or not text.isascii() or "\0" in text:
                text = self._whole(text)
            if text:
                self.log.append(text)
                self.told += len(text)
        self._tell()

    def complete(self) -> None:
        """Say that nothing more is added: what waits for its other half is half of nothing."""
        if self._half:
            self._half = ""
            self.log.append("\ufffd")
            self.told += 1

    def close(self, state: Ending, *, reason: str | None = None, failure: Exception | None = None) -> None:
        """End the answer. Readers take what is left, and then its failure is raised in each of them."""
        self.complete()
        self.state, self.reason, self.failure = state, reason, failure
        self._tell()

    def reader(self, after: int | None = None) -> "Reader":
        """Return a reader: of everything, or of what comes after a number of characters.

        Who knows some of an answer that has said nothing knows another one, in whose place this one is written.
        """
        if after and not self.told and not self.lags:
            after = None
        return Reader(self, after)

    def more(self) -> "asyncio.Future[None]":
        """Return what is done when the log has grown, or the answer is over."""
        waiting: asyncio.Future[None] = asyncio.Future()
        self._waiting.append(waiting)
        return waiting

    async def over(self) -> None:
        """Wait until the answer is over."""
        while not self.is_over:
            await self.more()

    def joined(self) -> None:
        self.readers += 1

    def left(self) -> None:
        self.readers -= 1
        if not self.readers:
            self._on_empty(self)

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():  # else who waited has left
                one.set_result(None)

    def _whole(self, text: str) -> str:
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return clean(text)


def clean(text: str) -> str:
    """Return whole Unicode text without NUL, which PostgreSQL does not have; what cannot stand becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "\ufffd")


class Reader:
    """One who follows an answer: ``with answer.reader() as reader``, then `news` until nothing comes any more.

    Reasoning is told from the beginning to who reads from the beginning, and from now on to who goes on somewhere: an
    offset does not say how much of it is known.
    """

    def __init__(self, answer: Answer, after: int | None) -> None:
        self.answer = answer
        self.told = after or 0  # characters of text before what `news` gives next
        self._skips = self.told  # characters that are known already and still to be passed over
        self._knows = len(answer.log) if after is not None else 0  # thoughts before this place are passed over too
        self._place = 0
        self._rest = ""  # of a piece that was too long

    def __enter__(self) -> Self:
        self.answer.joined()
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.left()

    async def news(self) -> list[str]:
        """Wait for more and return its pieces, text and `Thought`; [] at the end. Raises the answer's failure."""
        answer = self.answer
        while True:
            if (self._place < len(answer.log) or self._rest) and (pieces := self._take()):
                return pieces
            if answer.is_over and self._place == len(answer.log):
                if answer.failure is not None:
                    raise answer.failure
                return []
            await answer.more()

    def _take(self) -> list[str]:
        if len(self.answer.log) - self._place == 1 and not self._skips and not self._rest:  # nearly always
            piece = self.answer.log[self._place]
            if len(piece) <= MOST and (type(piece) is str or self._place >= self._knows):
                self._place += 1
                return [piece]
        log, pieces, size = self.answer.log, [self._rest] if self._rest else list[str](), len(self._rest)
        self._rest = ""
        joins = len(log) - self._place > MANY
        while size < MOST and self._place < len(log):
            piece = log[self._place]
            self._place += 1
            if type(piece) is Thought:
                if self._place <= self._knows:
                    continue
            elif self._skips:
                known = min(self._skips, len(piece))
                self._skips -= known
                piece = piece[known:]
                if not piece:
                    continue
            size += len(piece)
            if joins and pieces and type(pieces[-1]) is type(piece):
                pieces[-1] = type(piece)(pieces[-1] + piece)
            else:
                pieces.append(piece)
        if size > MOST and pieces and len(pieces[-1]) > size - MOST:
            last, cut = pieces[-1], len(pieces[-1]) - (size - MOST)
            pieces[-1], self._rest = type(last)(last[:cut]), type(last)(last[cut:])
        return pieces
