"""Who is asking, and what is theirs: secrets and signatures compared in constant time, closed when unset.

A handler says who may ask it, and the router lets nobody else come as far as its body:

    @requires(service, visitor)
    async def GET(request: Request[State]) -> Response:
        channel, owner = place(who_asks(request), channel, owner)

An asker is a function of the request that returns `Who`, or None for a stranger; a team's own stands beside its routes
(docs/access.md). What each may do with conversations is decided in `place`, and nowhere else.
"""

import hashlib
import hmac
import inspect
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple, TypeVar

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from visitors import Refused


class Unauthorized(Exception):
    """The request carries no credential, or a wrong one. It never says which."""


class Who(NamedTuple):
    """Who is asking."""

    kind: Literal["service", "visitor", "operator"]
    owner: str | None = None  # a visitor's own name: whose conversations are theirs


Asker = Callable[[Request[Any]], Who | Awaitable[Who | None] | None]
Handler = TypeVar("Handler", bound=Callable[..., Any])


def requires(*askers: Asker) -> Callable[[Handler], Handler]:
    """Let one of the askers ask a handler, and answer 401 to everybody else, before the body is read.

    It does not wrap the handler, it sets its ``checks``, which the router calls first. `who_asks` says who it was.
    """

    async def check(request: Request[Any]) -> None:
        for asker in askers:
            who = asker(request)
            if inspect.isawaitable(who):
                who = await who
            if who is not None:
                request.scope["who"] = who
                return
        raise Unauthorized

    def mark(handler: Handler) -> Handler:
        vars(handler)["checks"] = [*getattr(handler, "checks", ()), check]
        return handler

    vars(check)["askers"] = askers  # for documents and tests, which say who may ask; router/nostore.py reads it too
    return mark


def from_own_pages(handler: Handler) -> Handler:
    """Answer 403 to what a page of another site sends: for handlers that let somebody in by a cookie.

    A browser adds cookies to requests that other sites make; it also says where they come from, in Sec-Fetch-Site or,
    where it is older, in Origin. What says neither comes from no browser. CORS_ORIGINS are own pages too.
    """

    def check(request: Request[Any]) -> None:
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if request.method in ("GET", "HEAD", "OPTIONS") or site in ("same-origin", "none"):
            return
        if origin and origin in (request.state["config"].cors_origins or ()):
            return
        if site or (origin and origin.partition("://")[2] != request.headers.get("host")):
            raise HTTPException(403, "The request comes from a page of another site")

    vars(handler)["checks"] = [*getattr(handler, "checks", ()), check]
    return handler


def who_asks(request: Request[Any]) -> Who:
    """Return who asks a handler that `requires` somebody."""
    return request.scope["who"]


def service(request: Request[Any]) -> Who | None:
    """A back end of the team's, with ``Authorization: Bearer $WEBCHAT_TOKEN`` (RFC 6750)."""
    return Who("service") if is_secret(bearer(request.headers), request.state["config"].webchat_token) else None


async def visitor(request: Request[Any]) -> Who | None:
    """Somebody whom the team's own sign-in gave a JWT, as bearer token. What it was refused for is in the log alone."""
    token = bearer(request.headers)
    if not token:
        return None
    try:
        return Who("visitor", await request.state["visitors"].owner(token))
    except Refused as exc:
        request.scope.get("log", {})["refused"] = str(exc)
        return None


def operator(request: Request[Any]) -> Who | None:
    """A scheduler or an operator, with ``CRON_SECRET`` in X-Cron-Secret or, as hosted ones send it, as bearer token."""
    given = request.headers.get("x-cron-secret") or bearer(request.headers)
    return Who("operator") if is_secret(given, request.state["config"].cron_secret) else None


# How an asker is asked for, in openapi.json; one that does not say takes a bearer token.
vars(operator)["schemes"] = {
    "operator": {"type": "http", "scheme": "bearer", "description": "CRON_SECRET."},
    "cron": {"type": "apiKey", "in": "header", "name": "X-Cron-Secret", "description": "CRON_SECRET."},
}


def place(who: Who, channel: str = "web", owner: str | None = None, *, several: bool = False) -> tuple[str, str | None]:
    """Decide whose conversations a request is about: the channel and the owner, or 403.

    | who      | channel    | owner                                               |
    |----------|------------|-----------------------------------------------------|
    | service  | web        | the one it names; none: what belongs to nobody       |
    | visitor  | web        | itself, whether it says so or not                   |
    | operator | the others | the one it names                                    |

    With ``several`` the request is about everybody's, which a visitor may not see.
    """
    if (channel == "web") is (who.kind == "operator"):
        raise HTTPException(403, "This credential has no access to this channel")
    if who.kind in ("service", "operator"):
        return channel, owner
    if several or owner not in (None, who.owner):
        raise HTTPException(403, "A visitor has no access to another channelId")
    return channel, who.owner


def require_bearer(headers: Headers, secret: str | None) -> None:
    """Let a request pass whose `Authorization: Bearer` token is the secret (RFC 6750). Raises `Unauthorized`."""
    if not is_secret(bearer(headers), secret):
        raise Unauthorized


def require_cron_secret(headers: Headers, secret: str | None) -> None:
    """Let a scheduler pass, by `X-Cron-Secret` or, as hosted ones send it, a bearer token. Raises `Unauthorized`."""
    if not is_secret(headers.get("x-cron-secret") or bearer(headers), secret):
        raise Unauthorized


def bearer(headers: Headers) -> str | None:
    """The bearer token of a request; the scheme's case does not matter (RFC 9110 11.1)."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def is_secret(given: str | None, secret: str | None) -> bool:
    """Whether a header's value is the secret, or one of `new,old` while a secret is being replaced.

    An unset secret is equal to nothing, an absent header least of all. Bytes are compared, since
    `hmac.compare_digest` refuses non-ASCII text; headers arrive as latin-1.
    """
    if not given or not secret:
        return False
    sent = given.encode("latin-1", "replace")
    return any([hmac.compare_digest(sent, known.encode()) for known in secret.split(",")])  # all of them, always


def is_signed(given: str | None, prefix: str, message: bytes, secret: str | None) -> bool:
    """Whether a header's value is the prefix and the hex HMAC-SHA256 of a message, with any of the secrets."""
    keys = [key for key in secret.split(",") if key] if secret else []  # of `new,` nobody knows the second one
    return is_secret(given, ",".join(prefix + hmac.digest(key.encode(), message, hashlib.sha256).hex() for key in keys))


def is_recent(sent_at: str, tolerance: float = 300.0) -> bool:
    """Whether a header's Unix seconds are now, give or take: an old request that is sent again is not."""
    return bool(re.fullmatch("[0-9]{1,12}", sent_at)) and abs(time.time() - int(sent_at)) <= tolerance
