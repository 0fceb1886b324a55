"""What a visitor's JWT costs, the first time and when it is known, beside PyJWT's bare decode of the same tokens.

    .venv/bin/python -m bench.tokens

In this process, by its own clock. The three take turns within each round, and the median of the rounds counts. The bare
decode gets the key, the algorithm, the audience and the issuer, as its manual shows it.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from config import Config
from visitors import Visitors

SECRET = "0123456789abcdef0123456789abcdef"
EXPECTED: dict[str, Any] = {"audience": "chat", "issuer": "https://id.example/"}
SETTINGS: dict[str, Any] = {f"auth_{name}": value for name, value in EXPECTED.items()}


class Signer(NamedTuple):
    """One algorithm: the key that signs, the one that verifies, and how our app is told of it."""

    alg: str
    private: Any
    public: Any
    config: Config
    jwks: Any = None

    def token(self, id: object) -> str:
        """Return a token that differs from the others by its id."""
        now = int(time.time())
        claims = {"sub": "auth0|64f0c2a1b3", "aud": "chat", "iss": "https://id.example/", "iat": now, "exp": now + 3600}
        return jwt.encode({**claims, "jti": str(id)}, self.private, self.alg, {"kid": "one"})


def signers() -> list[Signer]:
    found = [Signer("HS256", SECRET, SECRET, Config(auth_jwt_secret=SECRET, **SETTINGS))]
    by_keys = Config(auth_jwks_url="http://id.example/jwks.json", **SETTINGS)
    private: dict[str, Any] = {
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    for alg, key in private.items():
        algorithm: Any = jwt.get_algorithm_by_name(alg)
        jwk = {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": "one", "use": "sig"}
        found.append(Signer(alg, key, key.public_key(), by_keys, {"keys": [jwk]}))
    return found


class Cost(NamedTuple):
    """Microseconds of processor time for a token."""

    bare: float
    first: float
    known: float


async def compare(signer: Signer, rounds: int, count: int) -> Cost:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=signer.jwks))
    tokens = [signer.token(n) for n in range(count)]
    found: list[Cost] = []
    async with httpx.AsyncClient(transport=transport) as http:
        for _ in range(rounds):
            visitors = Visitors(signer.config, http)
            await visitors.owner(signer.token("fetch the keys"))
            found.append(Cost(theirs(signer, tokens), await ours(visitors, tokens), await ours(visitors, tokens)))
    return Cost(*(statistics.median(times) for times in zip(*found, strict=True)))


def theirs(signer: Signer, tokens: Sequence[str]) -> float:
    began = time.process_time()
    for token in tokens:
        jwt.decode(token, signer.public, algorithms=[signer.alg], **EXPECTED)
    return (time.process_time() - began) / len(tokens) * 1e6


async def ours(visitors: Visitors, tokens: Sequence[str]) -> float:
    began = time.process_time()
    for token in tokens:
        await visitors.owner(token)
    return (time.process_time() - began) / len(tokens) * 1e6


async def main(rounds: int, count: int) -> None:
    print("| us for a token | bare PyJWT | first time | of bare | known |\n|---|--:|--:|--:|--:|")
    for signer in signers():
        cost = await compare(signer, rounds, count)
        print(
            f"| {signer.alg} | {cost.bare:.1f} | {cost.first:.1f} | {cost.first / cost.bare:.2f} | {cost.known:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--count", type=int, default=200, help="tokens of each in a round")
    given = parser.parse_args()
    asyncio.run(main(given.rounds, given.count))
