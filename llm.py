"""Talk to the model: aliases, and `chat_stream(model, messages)`, one round-trip that yields text.

Any server that speaks OpenAI's chat completions will do (https://platform.openai.com/docs/api-reference/chat).
The `openai` SDK brings authentication, timeouts and error classes; the stream itself is read by `model.completion`, as
bytes, because the SDK builds a pydantic tree for each chunk and calls an answer that was cut off a success.
With no model configured the same client talks to `model.offline`, a model server inside this process.
"""

import contextlib
import logging
import re
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from config import Config
from model.completion import Completion, Read
from model.errors import BrokenOff, LLMError, NotAStream, RateLimited, Refused, Silent

if TYPE_CHECKING:  # 0.5 s and 57 MB to import: it waits until the port is open
    import httpx2
    import openai

__all__ = ["LLM", "BrokenOff", "LLMError", "RateLimited", "Read", "Refused", "Silent"]

READ = 120.0  # seconds that a model may say nothing
AFTER_THE_END = 1.0  # seconds for what follows a finish_reason: the usage, [DONE], or nothing
MORE = 10.0  # seconds for more of an answer that went on after one, or did not begin: some say "stop" in every chunk
CLOSING = 0.1  # seconds for the last bytes of the body after [DONE], so that the connection can be used again

Message = Mapping[str, str]

logger = logging.getLogger("llm")


class LLM:
    """The models behind the aliases, and the client that talks to them.

    The transport is aiohttp where the extra ``fast`` is installed, else httpx2. ``silence`` is how long a model may
    say nothing, in seconds.
    """

    def __init__(self, config: Config, *, aiohttp: bool | None = None, silence: float = READ) -> None:
        self.config = config
        self.aiohttp = find_spec("aiohttp") is not None if aiohttp is None else aiohttp  # 40 % less CPU per piece
        self.silence = silence
        self._clients: dict[bool, openai.AsyncOpenAI] = {}
        self._opening = anyio.Lock()

    async def client(self, reuse: bool = True) -> "openai.AsyncOpenAI":
        """Return the process's client, made at the first call: the import alone takes half a second.

        Without ``reuse``, the one that uses no connection twice.
        """
        if reuse not in self._clients:  # asked first: even a free lock lets every other stream go before
            async with self._opening:
                if reuse not in self._clients:
                    await anyio.to_thread.run_sync(import_module, "openai.resources.chat")
                    from model.client import make_client

                    self._clients[reuse] = make_client(
                        self.config, aiohttp=self.aiohttp, silence=self.silence, reuse=reuse
                    )
        return self._clients[reuse]

    async def warm(self) -> None:
        """Make the client, and open one connection, so that the first message does not wait for either."""
        client = await self.client()
        import httpx2

        if self.config.is_offline:
            return
        options: Any = {"timeout": 5.0}
        with contextlib.suppress(Exception):  # whatever is wrong with the server, a chat will say so
            await client.get("/models", cast_to=httpx2.Response, options=options)

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def chat_stream(self, model: str, messages: Sequence[Message]) -> AsyncGenerator[str]:
        """Yield the model's reply in pieces, as it writes them.

        ``model`` is an alias; ``messages`` are ``{"role", "content"}``, oldest first. Closing the generator closes
        the request. Raises `LLMError`, and `KeyError` for an alias that the settings do not name.
        """
        async with aclosing(self.chat_reads(model, messages)) as reads:
            async for read in reads:
                for text in read.text:
                    yield text

    async def chat_reads(self, model: str, messages: Sequence[Message]) -> AsyncGenerator[Read]:
        """Yield the same as `Read`s: what arrived together, which can be sent together; the last has a ``finish``.

        Where the alias names several models, one that fails before its first piece is followed by the next.
        """
        names = self.config.models[model]
        for name, following in zip(names, (*names[1:], None), strict=True):
            has_begun = False
            try:
                async with aclosing(self._reads(model, name, messages)) as reads:
                    async for read in reads:
                        has_begun = True
                        yield read
                return
            except LLMError as exc:
                goes_on = following is not None and exc.another_may_help and not has_begun
                told = [str(exc), f"({reason_of(exc)})", self._fix_of(exc, model, name)]
                if goes_on:
                    told.append(f"Asking {following}.")
                logger.warning("model %s (%s): %s", model, name, " ".join(filter(None, told)))
                if not goes_on:
                    raise

    async def _reads(self, alias: str, name: str, messages: Sequence[Message]) -> AsyncGenerator[Read]:
        import httpx2

        completion = Completion()
        async with AsyncExitStack() as stack:
            response = await self._ask(stack, alias, name, messages)
            chunks = await stack.enter_async_context(aclosing(body_of(response)))
            try:
                async for chunk in chunks:
                    if (read := completion.take(chunk)) is not None:
                        yield read
                    if completion.is_done or completion.finish:
                        break
                async for read in after_the_end(chunks, completion):
                    yield read
            except httpx2.TimeoutException as exc:
                raise Silent("The model stopped answering.") from exc
            except (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream) as exc:
                raise BrokenOff("The model broke off its answer.") from exc
            last = completion.end()
            if last.finish or last.text or last.reasoning:
                yield last
            if isinstance(completion.failure, NotAStream):
                completion.failure.why = f"content-type {word_of(response.headers.get('content-type'))}"
            if completion.failure:
                raise completion.failure
            with anyio.move_on_after(CLOSING), contextlib.suppress(Exception):
                async for _ in chunks:
                    pass

    async def _ask(
        self, stack: AsyncExitStack, alias: str, name: str, messages: Sequence[Message]
    ) -> "httpx2.Response":
        """Send the request; one that failed in a way that may pass is sent once more. Raises `LLMError`."""
        body = {"messages": list(messages), **self.config.model_options[alias]}
        for is_first in (True, False):  # the second time on a fresh connection: more than one of the pool may be stale
            client = await self.client(reuse=is_first)
            # messages go in extra_body: as an argument each would be validated, 130 us apiece on the event loop
            request = client.chat.completions.with_streaming_response.create(
                model=name,
                messages=[],
                stream=True,
                extra_body=body,
                extra_headers={"Accept-Encoding": "identity"},  # so that nothing on the way gathers pieces
            )
            try:
                return (await stack.enter_async_context(request)).http_response
            except Exception as exc:
                error = exc if isinstance(exc, LLMError) else unreachable(exc)
                if not is_first or error.ask_again_in is None:
                    raise error from exc.__cause__
                await anyio.sleep(error.ask_again_in)
        raise AssertionError("unreachable")

    def _fix_of(self, error: LLMError, alias: str, name: str) -> str:
        has_key = self.config.openai_api_key is not None
        key = "is not one of the server's" if has_key else "is not set, and the server requires one"
        return error.fix.format(setting=f"MODEL_{alias.upper()}", name=name, key=key)


def reason_of(error: LLMError) -> str:
    """Return what the log says of a failure besides its words: never a text of the provider's."""
    return error.why or (type(error.__cause__).__name__ if error.__cause__ else "no more is known")


def unreachable(exc: Exception) -> LLMError:
    """Return what it means that no answer came. Raises the exception where it is no failure of the network."""
    import httpx2
    import openai

    if not isinstance(exc, openai.APIConnectionError):
        raise exc
    error: LLMError
    if isinstance(exc.__cause__, httpx2.ReadTimeout | httpx2.WriteTimeout):
        error = Silent("The model did not answer in time.")
    elif isinstance(exc.__cause__, httpx2.TimeoutException):
        error = Silent("The model server cannot be reached in time.")
        error.ask_again_in = 0.0
    else:
        error = Refused("The model cannot be reached.")
        error.ask_again_in = 0.5 if isinstance(exc.__cause__, httpx2.ConnectError) else 0.0  # else a stale connection
    error.another_may_help = isinstance(exc.__cause__, httpx2.ReadTimeout)
    return error


async def after_the_end(chunks: AsyncGenerator[bytes], completion: Completion) -> AsyncGenerator[Read]:
    """Yield what follows a ``finish_reason`` for about a second: the usage, [DONE], or nothing. No failure counts.

    Where it is more of the answer, or its first word is still to come, the ``finish_reason`` meant nothing, and more is
    waited for.
    """
    said_at = anyio.current_time()
    while completion.finish and not completion.is_done:
        chunk = b""
        ends_at = said_at + (AFTER_THE_END if completion.has_ended and not completion.went_on else MORE)
        with anyio.move_on_at(ends_at), contextlib.suppress(Exception):
            chunk = await anext(chunks, b"")
        if not chunk:
            return
        if (read := completion.take(chunk)) is not None:
            yield read
            said_at = anyio.current_time()


def body_of(response: "httpx2.Response") -> AsyncGenerator[bytes]:
    """Return the bytes of a response: as they come, unless the server compressed them unasked."""
    if "content-encoding" in response.headers:
        return response.aiter_bytes()
    stream: Any = response.stream  # as aiter_raw() gives it, without counting each chunk on the way
    return stream.__aiter__()


def word_of(value: str | None) -> str:
    """Return a content type for the log: what is no plain word is the server's own text."""
    word = (value or "").partition(";")[0].strip()
    return word if re.fullmatch(r"[\w.+/-]{1,80}", word, re.A) else "unknown"
