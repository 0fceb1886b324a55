"""Who may come in: secrets and signatures compared in constant time, closed when unset."""

import hashlib
import hmac
import re
import time

from starlette.datastructures import Headers


class Unauthorized(Exception):
    """The request carries no credential, or a wrong one. It never says which."""


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
    keys = secret.split(",") if secret else []
    return is_secret(given, ",".join(prefix + hmac.digest(key.encode(), message, hashlib.sha256).hex() for key in keys))


def is_recent(sent_at: str, tolerance: float = 300.0) -> bool:
    """Whether a header's Unix seconds are now, give or take: an old request that is sent again is not."""
    return bool(re.fullmatch("[0-9]{1,12}", sent_at)) and abs(time.time() - int(sent_at)) <= tolerance
