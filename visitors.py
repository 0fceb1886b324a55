"""Visitors: whom a JWT names, signed by whoever signs the team's people in (RFC 7519; RFC 8725 says what to refuse).

The algorithm is fixed by the setting, never by the token: HS256 with AUTH_JWT_SECRET, or the one of the key in
AUTH_JWKS_URL that the token names. Those keys are fetched at the start, every ten minutes, and for a key that is not
known, but not twice a minute; while their server is away the known ones stay good.
"""

import logging
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import httpx
import jwt
from jwt.algorithms import HMACAlgorithm

from config import Config

logger = logging.getLogger("visitors")

LEEWAY = 30  # seconds that the clocks of two machines may differ
LONGEST = 8192  # characters of a token; of a sub 200, since it is a key of the tables
KNOWN = 4096  # tokens that need no second check, about 4 MB
FETCH = 5.0  # seconds for the keys to come
PAUSE = 60.0  # seconds at least between two requests for keys
FRESH = 600.0  # seconds after which a key that was withdrawn is no longer taken, at the latest
RETRY = 5.0  # seconds between attempts while no key was ever fetched
ALGORITHMS = ("RS256", "ES256", "EdDSA")  # of a key set's keys; an `oct` key would be a public secret


class Refused(Exception):
    """The token is nobody's. The message is for the log, and repeats nothing of the token."""


class Visitors:
    """Checks tokens. Without AUTH_JWT_SECRET and AUTH_JWKS_URL it refuses all."""

    def __init__(self, config: Config, http: httpx.AsyncClient, clock: Callable[[], float] = time.time) -> None:
        self.url = config.auth_jwks_url
        self.http = http
        self.clock = clock
        self._expected: dict[str, Any] = {"audience": config.auth_audience, "issuer": config.auth_issuer}
        self._secrets = [secret_key(text) for text in (config.auth_jwt_secret or "").split(",") if text]
        self._keys: dict[str, jwt.PyJWK] = {}
        self._known: dict[str, tuple[str, float]] = {}  # by token: whose it is, and until when
        self._asked_at = float("-inf")
        self._lock = anyio.Lock()

    async def serve(self) -> None:
        """Keep the keys fresh, for as long as the app lives."""
        while self.url:
            await self._fetch(pause=0.0)
            await anyio.sleep(FRESH if self._keys else RETRY)

    async def owner(self, token: str) -> str:
        """Return whose a token is, its ``sub``. Raises `Refused`."""
        if found := self._known.get(token):
            if self.clock() < found[1]:
                return found[0]
            del self._known[token]
        if len(token) > LONGEST:
            raise Refused("TooLong")
        claims = await self._claims(token)
        if len(self._known) >= KNOWN:
            del self._known[next(iter(self._known))]
        self._known[token] = claims["sub"], claims["exp"] + LEEWAY
        return claims["sub"]

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            keys = self._secrets
            if self.url:
                keys = [await self._key(jwt.get_unverified_header(token).get("kid"))]
            claims = verified(token, keys, self._expected)
        except (jwt.PyJWTError, ValueError) as exc:
            raise Refused(type(exc).__name__) from None
        if problem := what_is_wrong(claims):
            raise Refused(problem)
        return claims

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        if kid is not None and kid not in self._keys:
            await self._fetch(pause=PAUSE)
        if kid is None or kid not in self._keys:
            raise Refused("UnknownKey")
        return self._keys[kid]

    async def _fetch(self, pause: float) -> None:
        """Fetch the keys, one request at a time, unless the last one was a moment ago."""
        assert self.url is not None
        with anyio.CancelScope(shield=True):  # others wait for the same answer
            async with self._lock:
                if time.monotonic() - self._asked_at < pause:
                    return
                self._asked_at = time.monotonic()
                try:
                    with anyio.fail_after(FETCH):
                        response = await self.http.get(self.url)
                    if response.status_code != 200:
                        raise ValueError(f"it answered {response.status_code}")
                    keys = read_keys(response.json())
                except (httpx.HTTPError, ValueError, RecursionError, TimeoutError) as exc:
                    words = str(exc) if type(exc) is ValueError else type(exc).__name__
                    logger.warning("no keys from AUTH_JWKS_URL: %s. %s known keys stay good", words, len(self._keys))
                    return
                self._keys = keys
                self._known.clear()  # what a key that is gone had signed


class Checked(HMACAlgorithm):
    """HS256 with a secret that config.py has checked: PyJWT looks for each token whether it is a public key, 25 us."""

    def prepare_key(self, key: str | bytes) -> bytes:
        assert isinstance(key, bytes)
        return key


def secret_key(text: str) -> jwt.PyJWK:
    """Return an HS256 secret as a key that only HS256 can use."""
    key = jwt.PyJWK({"kty": "oct", "k": urlsafe_b64encode(text.encode()).rstrip(b"=").decode()}, "HS256")
    key.Algorithm = Checked(HMACAlgorithm.SHA256)
    return key


def read_keys(document: Any) -> dict[str, jwt.PyJWK]:
    """Read a JWK set (RFC 7517): the keys that can verify, by their ``kid``. Raises `ValueError`."""
    match document:
        case {"keys": [*entries]}:  # a list: what is none takes no key away
            pass
        case _:
            raise ValueError("it sent no JWK set")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries:
        try:
            kid, key = read_key(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError) as exc:
            words = str(exc) if type(exc) is ValueError else type(exc).__name__
            logger.info("a key of AUTH_JWKS_URL is not used: %s", words)
            continue
        keys[kid] = key
    return keys


def read_key(entry: Mapping[str, Any]) -> tuple[str, jwt.PyJWK]:
    kid = entry["kid"]
    if not isinstance(kid, str) or entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        raise ValueError("it is not for signatures, or has no kid")
    if entry.get("kty") not in ("RSA", "EC", "OKP"):
        raise ValueError("its kty is none of RSA, EC, OKP")
    key = jwt.PyJWK(dict(entry))
    if key.algorithm_name not in ALGORITHMS:
        raise ValueError(f"its algorithm is none of {', '.join(ALGORITHMS)}")
    if short := key.Algorithm.check_key_length(key.key):
        raise ValueError(short)
    return kid, key


def verified(token: str, keys: list[jwt.PyJWK], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims of a token that one of the keys signed and that is meant for us. Raises what PyJWT raises."""
    for i, key in enumerate(keys, 1):
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                leeway=LEEWAY,
                options={"require": ["exp", "sub"]},
                **expected,
            )
        except jwt.InvalidSignatureError:
            if i == len(keys):
                raise
    raise Refused("Closed")


def sign(config: Config, owner: str, lasts: float) -> str:
    """Return a token that is good for some seconds, signed as AUTH_JWT_SECRET's are. Raises `ValueError`."""
    if config.auth_jwt_secret is None:
        raise ValueError("AUTH_JWT_SECRET is not set, and tokens are signed with it")
    now = int(time.time())
    if not 0 < lasts < 4e9:
        raise ValueError("it must last for longer than nothing, and not for ever")
    claims: dict[str, Any] = {"sub": owner, "iat": now, "exp": now + int(lasts)}
    claims |= {name: value for name, value in (("aud", config.auth_audience), ("iss", config.auth_issuer)) if value}
    if problem := what_is_wrong(claims):
        raise ValueError(problem)
    return jwt.encode(claims, config.auth_jwt_secret.split(",")[0], "HS256")


def what_is_wrong(claims: Mapping[str, Any]) -> str | None:
    """What PyJWT leaves to us: moments are numbers (RFC 7519 2), and a name can be a key of the tables."""
    for name in ("exp", "nbf", "iat"):
        if isinstance(claims.get(name, 0), bool) or not isinstance(claims.get(name, 0), int | float):
            return f"{name}-is-no-number"
    name = claims["sub"]
    if not 1 <= len(name) <= 200 or not name.strip() or "\0" in name:
        return "sub-is-no-name"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "sub-is-no-text"
    return None
