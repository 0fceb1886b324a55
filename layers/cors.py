"""CORS: which pages of other origins may read the answers (https://fetch.spec.whatwg.org/#http-cors-protocol).

Starlette's own, set up so that every route, method and header may be asked for from the origins of CORS_ORIGINS, and
nothing from any other. It stands outside of what answers errors: a page must be able to read a 401, a 413 or a 500.
Cookies are not asked for: a page sends its token in a header.
"""

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXPOSED = ("X-Conversation-Id", "X-Request-Id", "Retry-After")


class CORS(CORSMiddleware):
    """The layer, as ASGI middleware."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(app, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED)

    async def simple_response(self, scope: Scope, receive: Receive, send: Send, request_headers: Headers) -> None:
        """Answer a request that is no preflight. To other origins Starlette would name what they may read."""
        if self.is_allowed_origin(request_headers.get("origin", "")):
            return await super().simple_response(scope, receive, send, request_headers)

        def varied(message: Message) -> object:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message.setdefault("headers", [])).add_vary_header("Origin")
            return send(message)

        await self.app(scope, receive, varied)  # pyright: ignore[reportArgumentType] - it hands on what send gives
