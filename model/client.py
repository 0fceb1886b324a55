"""The client of the model server: the SDK's, on httpx2 or on aiohttp.

The SDK brings its own way to aiohttp. It keeps cookies, lets a reader wait for ever where the framing of a chunk is
broken, and calls a lost connection a timeout; so `Aiohttp` stands here.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx2
import openai

from config import Config
from model.completion import json_of
from model.errors import BrokenOff, refusal
from model.offline import Offline

MAX_CONNECTIONS = 10_000  # the SDK's 1,000 make the next stream wait up to ten minutes
MAX_IDLE = 20  # httpx2 asks the system about each idle connection at every request: 200 of them took 5 to 9 ms
KEEPALIVE = 300.0  # seconds; the default of 5 makes a message after a pause pay for TCP and TLS again
CONNECT, WRITE = 5.0, 30.0  # seconds
HEAD_BYTES = 65_536  # of the header section of an answer
ERROR_BYTES = 65_536  # of the body of an error


def make_client(config: Config, *, aiohttp: bool, silence: float, reuse: bool = True) -> openai.AsyncOpenAI:
    """Build the client for the configured server, or for the offline model inside this process.

    Without ``reuse`` each request has a connection of its own. Redirects are not followed: the conversation and the key
    would go elsewhere. No cookies are kept: they belong to another user's request.
    """
    url = config.openai_base_url or "https://api.openai.com/v1"
    limits = httpx2.Limits(
        max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE if reuse else 0, keepalive_expiry=KEEPALIVE
    )
    timeout = httpx2.Timeout(connect=CONNECT, pool=CONNECT, read=silence, write=WRITE)
    transport = Offline() if config.is_offline else Aiohttp(proxy_for(url), reuse=reuse) if aiohttp else None
    return openai.AsyncOpenAI(
        api_key=config.openai_api_key or "none",  # a local server requires no key, but the SDK does
        base_url=url,
        default_headers=config.openai_headers,
        http_client=openai.DefaultAsyncHttpxClient(
            limits=limits,
            timeout=timeout,
            transport=transport,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            event_hooks={"response": [check]},
        ),
        timeout=timeout,
        max_retries=0,  # `LLM` asks again by itself: it knows the refusals that will not change
    )


async def check(response: httpx2.Response) -> None:
    """Raise what an answer means that is no success; here, since the SDK would read all of its body, however long."""
    if sum(len(name) + len(value) for name, value in response.headers.raw) > HEAD_BYTES:
        raise BrokenOff(f"The model server sent a header section of more than {HEAD_BYTES:,} bytes.")
    if not response.is_success:
        body = b""
        with anyio.move_on_after(CONNECT), suppress(httpx2.RequestError):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > ERROR_BYTES:
                    break
        raise refusal(response.status_code, response.headers, json_of(body), time.time())


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for a URL, as HTTPS_PROXY and NO_PROXY say it."""
    parts = urlsplit(url)
    proxies = getproxies()
    return None if proxy_bypass(parts.hostname or "") else proxies.get(parts.scheme) or proxies.get("all")


class Aiohttp(httpx2.AsyncBaseTransport):
    """A transport of httpx2 on aiohttp, which takes 40 % less CPU for each piece."""

    def __init__(self, proxy: str | None, *, reuse: bool) -> None:
        self.aiohttp: Any = import_module("aiohttp")  # an extra: it may not be installed
        self.proxy = proxy
        self.reuse = reuse
        self._session: Any = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        times = request.extensions.get("timeout", {})
        timeout = self.aiohttp.ClientTimeout(
            connect=times.get("pool"), sock_connect=times.get("connect"), sock_read=times.get("read")
        )
        with self.as_httpx2():
            response = await self.session().request(
                request.method,
                str(request.url),
                headers=request.headers,
                data=request.content or None,
                allow_redirects=False,
                timeout=timeout,
                proxy=self.proxy,
            )
        return httpx2.Response(response.status, headers=response.raw_headers, stream=Body(self, response))

    def session(self) -> Any:
        if self._session is None:  # it belongs to the running loop
            keep: dict[str, Any] = {"keepalive_timeout": KEEPALIVE} if self.reuse else {"force_close": True}
            connector = self.aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=httpx2.create_ssl_context(), **keep)
            self._session = self.aiohttp.ClientSession(
                connector=connector,
                cookie_jar=self.aiohttp.DummyCookieJar(),
                auto_decompress=False,  # httpx2 does it
                max_line_size=HEAD_BYTES,
                max_field_size=HEAD_BYTES,
            )
        return self._session

    @contextmanager
    def as_httpx2(self) -> Generator[None]:
        """Raise aiohttp's failures as those of httpx2."""
        try:
            yield
        except self.aiohttp.ConnectionTimeoutError as exc:
            raise httpx2.ConnectTimeout("") from exc
        except TimeoutError as exc:
            raise httpx2.ReadTimeout("") from exc
        except self.aiohttp.ClientConnectorError as exc:
            raise httpx2.ConnectError("") from exc
        except self.aiohttp.ClientResponseError as exc:  # a head that is none
            raise httpx2.RemoteProtocolError("") from exc
        except (self.aiohttp.ClientError, ssl.SSLError, ConnectionError, RuntimeError) as exc:
            raise httpx2.ReadError("") from exc  # RuntimeError: it reads from a connection that is closed

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class Body(httpx2.AsyncByteStream):
    """The body of an answer, as its bytes come."""

    def __init__(self, transport: Aiohttp, response: Any) -> None:
        self.transport = transport
        self.response = response
        self.is_lost = False
        connection = response.connection  # None where the whole body is here
        self.closed: asyncio.Future[None] | None = connection.protocol.closed if connection is not None else None
        if self.closed is not None:
            self.closed.add_done_callback(self._lost)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read: Callable[[], Any] = self.response.content.readany
        with self.transport.as_httpx2():
            while chunk := await read():
                yield chunk
        if self.is_lost:
            raise httpx2.ReadError("")

    async def aclose(self) -> None:
        if self.closed is not None:
            self.closed.remove_done_callback(self._lost)
        self.response.release()

    def _lost(self, closed: "asyncio.Future[None]") -> None:
        """Tell the reader that the connection is lost: after broken framing aiohttp closes it and does not say so."""
        closed.exception()  # looked at: else asyncio logs that nobody did
        content = self.response.content
        if not content.is_eof() and content.exception() is None:
            self.is_lost = True
            content.feed_eof()  # not set_exception(), which takes what was not read yet
