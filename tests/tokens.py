"""Tokens for the tests: good ones, forgeries byte by byte, and a signer's key set on a server of its own."""

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.servers import serving

JWT_SECRET = "0123456789abcdef0123456789abcdef"
AUDIENCE, ISSUER = "chat", "https://id.example/"
SIGNED: dict[str, Any] = {"auth_jwt_secret": JWT_SECRET, "auth_audience": AUDIENCE, "auth_issuer": ISSUER}


def claims(sub: Any = "alice", **others: Any) -> dict[str, Any]:
    """Good claims, with some others; None takes one out (write ``null`` into `raw` where null itself is meant)."""
    found = {"sub": sub, "exp": int(time.time()) + 3600, "aud": AUDIENCE, "iss": ISSUER, **others}
    return {name: value for name, value in found.items() if value is not None}


def visitor(sub: str = "alice", **others: Any) -> dict[str, str]:
    """The headers of a visitor."""
    return {"Authorization": f"Bearer {jwt.encode(claims(sub, **others), JWT_SECRET, 'HS256')}"}


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(header: object, payload: object, key: bytes = JWT_SECRET.encode(), digest: Any = hashlib.sha256) -> str:
    """A token of any header and any payload, JSON values or bytes, with an HMAC that is right for the key."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(b64(part) for part in parts)
    return f"{signed}.{b64(hmac.digest(key, signed.encode(), digest))}"


class Signer:
    """A provider that signs tokens with its private keys, and serves the public ones. It counts what it is asked."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "rsa-1": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ec-1": ec.generate_private_key(ec.SECP256R1()),
            "ed-1": ed25519.Ed25519PrivateKey.generate(),
        }
        self.more: list[Any] = []  # keys as they are
        self.asked: list[str] = []
        self.status = 200
        self.url = ""

    def token(self, kid: str, alg: str = "", key: Any = None, headers: Mapping[str, Any] = {}, **others: Any) -> str:
        alg = alg or {"rsa": "RS256", "ec-": "ES256", "ed-": "EdDSA"}[kid[:3]]
        return jwt.encode(claims(**others), key or self.keys[kid], alg, {"kid": kid, **headers})

    def jwk(self, kept: str, **others: Any) -> dict[str, Any]:
        public: Any = self.keys[kept].public_key()
        name = {"rsa": "RS256", "ec-": "ES256", "ed-": "EdDSA"}[kept[:3]]
        algorithm: Any = jwt.PyJWS().get_algorithm_by_name(name)
        return {**algorithm.to_jwk(public, as_dict=True), "kid": kept, "use": "sig", **others}

    @contextmanager
    def running(self) -> Generator["Signer"]:
        async def keys(request: Request) -> Response:
            self.asked.append(request.url.path)
            return JSONResponse({"keys": [*(self.jwk(kid) for kid in self.keys), *self.more]}, self.status)

        app = Starlette()
        app.add_route("/jwks.json", keys)
        app.add_route("/other", keys)
        with serving(app, lifespan="off") as address:
            self.url = address
            yield self
