"""The bench of tokens measures what it says: tokens that both sides take, checked once and then known."""

import httpx
import jwt
import pytest

from bench.tokens import EXPECTED, Signer, compare, signers
from visitors import Visitors


@pytest.fixture(scope="module")
def found() -> list[Signer]:
    return signers()


async def test_every_algorithm_is_measured(found: list[Signer]):
    assert [signer.alg for signer in found] == ["HS256", "RS256", "ES256", "EdDSA"]
    for signer in found:
        cost = await compare(signer, rounds=1, count=2)
        assert min(cost) > 0


async def test_what_is_signed_is_good_for_both_and_a_broken_one_for_none(found: list[Signer]):
    for signer in found:
        token = signer.token(1)
        payload = token.split(".")[1]
        broken = token.replace(payload, payload[:-6] + "AAAAAA")
        jwt.decode(token, signer.public, algorithms=[signer.alg], **EXPECTED)
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(broken, signer.public, algorithms=[signer.alg], **EXPECTED)
        transport = httpx.MockTransport(lambda request, keys=signer.jwks: httpx.Response(200, json=keys))
        async with httpx.AsyncClient(transport=transport) as http:
            visitors = Visitors(signer.config, http)
            assert await visitors.owner(token) == "auth0|64f0c2a1b3"
            with pytest.raises(Exception, match="InvalidSignatureError"):
                await visitors.owner(broken)
