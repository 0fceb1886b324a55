"""Talk to the model: aliases, and `chat_stream(model, messages)`, one round-trip that yields text.

Any server that speaks OpenAI's chat completions will do (https://platform.openai.com/docs/api-reference/chat).
The `openai` SDK brings authentication, retries, timeouts and error classes; the stream itself is read here, as
bytes, because the SDK builds a pydantic tree for each chunk and calls an answer that was cut off a success.
With no model configured the same client talks to `offline`, a model server inside this process.
"""

import contextlib
import re
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from completion import BrokenOff, Completion, LLMError, Read
from config import Config

if TYPE_CHECKING:  # 0.5 s and 57 MB to import: it waits until the port is open
    import httpx2
    import openai

MAX_CONNECTIONS = 10_000  # the SDK's 1,000 make the next stream wait up to ten minutes
MAX_IDLE = 20  # httpx2 asks the system about each idle connection at every request: 200 of them took 5 to 9 ms
KEEPALIVE = 300.0  # seconds; the default of 5 makes a message after a pause pay for TCP and TLS again
CONNECT, READ, WRITE = 5.0, 120.0, 30.0  # seconds
RETRY_AFTER = 2.0  # seconds: the longest Retry-After that is waited out while a client is kept waiting

Message = Mapping[str, str]


class Refused(LLMError):
    """The model server could not be reached, or said no."""


class RateLimited(LLMError):
    """The model server wants us to wait; ``retry_after`` in seconds, where it said so."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Silent(LLMError):
    """The model server took the request and then said nothing for too long."""


class LLM:
    """The models behind the aliases, and the one client that talks to them.

    The transport is aiohttp where the extra ``fast`` is installed, else httpx2. ``silence`` is how long a model may
    say nothing, in seconds.
    """

    def __init__(self, config: Config, *, aiohttp: bool | None = None, silence: float = READ) -> None:
        self.config = config
        self.aiohttp = find_spec("aiohttp") is not None if aiohttp is None else aiohttp  # 40 % less CPU per piece
        self.silence = silence
        self._client: openai.AsyncOpenAI | None = None
        self._opening = anyio.Lock()

    async def client(self) -> "openai.AsyncOpenAI":
        """Return the process's client, made at the first call: the import alone takes half a second."""
        if self._client is None:  # asked first: even a free lock lets every other stream go before
            async with self._opening:
                if self._client is None:
                    await anyio.to_thread.run_sync(__import__, "openai.resources.chat")
                    self._client = make_client(self.config, self.aiohttp, self.silence)
        return self._client

    async def warm(self) -> None:
        """Make the client, and open one connection, so that the first message does not wait for either."""
        client = await self.client()
        import httpx2

        if self.config.is_offline:
            return
        options: Any = {"max_retries": 0, "timeout": CONNECT}
        with contextlib.suppress(Exception):  # whatever is wrong with the server, a chat will say so
            await client.get("/models", cast_to=httpx2.Response, options=options)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()

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
        """Yield the same as `Read`s: what arrived together, which can be sent together; the last has a ``finish``."""
        client = await self.client()
        import httpx2
        import openai

        completion = Completion()
        try:
            # messages go in extra_body: as an argument each would be validated, 130 us apiece on the event loop
            async with (
                client.chat.completions.with_streaming_response.create(
                    model=self.config.models[model],
                    messages=[],
                    stream=True,
                    extra_body={"messages": list(messages)},
                    extra_headers={"Accept-Encoding": "identity"},  # so that nothing on the way gathers pieces
                ) as response,
                aclosing(body_of(response.http_response)) as chunks,
            ):
                async for chunk in chunks:
                    pieces, failure = completion.take(chunk)
                    if pieces:
                        yield Read(pieces, [])
                    if failure:
                        raise failure
                    if completion.is_done:
                        break
                last, failure = completion.end()
                yield last
                if failure:
                    raise failure
                with anyio.move_on_after(0.1), contextlib.suppress(Exception):  # to its very end: the connection
                    async for _ in chunks:  # can be used again
                        pass
        except openai.RateLimitError as exc:
            wait = seconds_of(exc.response.headers.get("retry-after"))
            raise RateLimited("The model is busy. Try again later.", wait) from exc
        except openai.APITimeoutError as exc:
            if not is_timeout(exc):
                raise Refused("The model cannot be reached.") from exc
            raise Silent("The model did not answer in time.") from exc
        except openai.APIStatusError as exc:
            raise refused(exc, model, self.config) from exc
        except openai.APIConnectionError as exc:
            raise Refused("The model cannot be reached.") from exc
        except httpx2.TimeoutException as exc:
            if not is_timeout(exc):
                raise BrokenOff("The model broke off its answer.") from exc
            raise Silent("The model stopped answering.") from exc
        except (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream) as exc:
            raise BrokenOff("The model broke off its answer.") from exc


def refused(exc: "openai.APIStatusError", alias: str, config: Config) -> Refused:
    """Tell the two refusals that a setting causes from the others."""
    if exc.status_code == 404 or exc.code == "model_not_found":
        error = Refused(f"The model server does not know the model '{alias}'.")
        error.fix = (
            f"MODEL_{alias.upper()} is {config.models[alias]!r}: name a model that the server has. Where it has it, "
            "fix OPENAI_BASE_URL: the server's address with the path before /chat/completions, often /v1"
        )
    else:
        error = Refused("The model refused the request.")
    if exc.status_code == 401:
        wrong = (
            "is not set, and the server wants one" if config.openai_api_key is None else "is not one of the server's"
        )
        error.fix = f"OPENAI_API_KEY {wrong}: set the key that belongs to OPENAI_BASE_URL (unset: to OpenAI)"
    return error


def is_timeout(exc: BaseException | None) -> bool:
    """Whether time really ran out: the SDK's aiohttp transport calls a dropped connection a timeout, too."""
    while exc is not None and not isinstance(exc, TimeoutError):
        exc = exc.__cause__ or exc.__context__
    return exc is not None


def make_client(config: Config, aiohttp: bool, silence: float) -> "openai.AsyncOpenAI":
    """Build the client for the configured server, or for the offline model inside this process."""
    import httpx2
    import openai

    async def dont_wait_long(response: httpx2.Response) -> None:
        wait = seconds_of(response.headers.get("retry-after"))
        if wait is not None and wait > RETRY_AFTER:
            response.headers["x-should-retry"] = "false"  # the SDK heeds it: the client is told to wait instead

    options: dict[str, Any] = {
        "limits": httpx2.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE, keepalive_expiry=KEEPALIVE
        ),
        "timeout": httpx2.Timeout(connect=CONNECT, pool=CONNECT, read=silence, write=WRITE),
        "event_hooks": {"response": [dont_wait_long]},
    }
    if config.is_offline:
        from offline import Offline

        options["transport"] = Offline()
    return openai.AsyncOpenAI(
        api_key=config.openai_api_key or "none",  # a local server wants no key, but the SDK does
        base_url=config.openai_base_url or "https://api.openai.com/v1",
        http_client=(openai.DefaultAioHttpClient if aiohttp else openai.DefaultAsyncHttpxClient)(**options),
        timeout=options["timeout"],
        max_retries=1,
    )


def seconds_of(retry_after: str | None) -> float | None:
    """Read a Retry-After header that gives seconds (RFC 9110 10.2.3); a date or nonsense is None."""
    return float(retry_after) if retry_after and re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", retry_after) else None


def body_of(response: "httpx2.Response") -> AsyncGenerator[bytes]:
    """Return the bytes of a response: as they come, unless the server compressed them unasked."""
    if "content-encoding" in response.headers:
        return response.aiter_bytes()
    stream: Any = response.stream  # as aiter_raw() gives it, without counting each chunk on the way
    return stream.__aiter__()
