"""Visitors: whom a JWT lets in as whom, and every forgery that the literature knows, by the front door."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

import visitors
from config import Config
from tests.conftest import SECRET, TOKEN
from tests.servers import wait_until
from tests.tokens import AUDIENCE, ISSUER, JWT_SECRET, SIGNED, Signer, b64, claims, raw
from visitors import KNOWN, Refused, Visitors, read_keys

GOOD = {"alg": "HS256", "typ": "JWT"}
DEEP = b"[" * 5000 + b"]" * 5000


GUARDED = """
from auth import operator, requires, service, visitor, who_asks
from jsonresponse import JSONResponse

@requires(ASKER)
async def GET(request):
    return JSONResponse(who_asks(request).owner)
"""
TREE = {
    "who/route.py": GUARDED.replace("ASKER", "visitor"),
    "operator/route.py": GUARDED.replace("ASKER", "operator"),
    "service/route.py": GUARDED.replace("ASKER", "service"),
}
ServeTree = Callable[..., str]


def get(url: str, token: str, path: str = "/who", **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{url}{path}", headers=headers, trust_env=False, timeout=20, **options)


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    with Signer().running() as signer:
        yield signer


@pytest.fixture
def secret_url(serve_tree: ServeTree) -> str:
    return serve_tree(TREE, **SIGNED)


@pytest.fixture
def jwks_url(serve_tree: ServeTree, signer: Signer) -> str:
    signer.more = [
        {"kty": "new", "kid": "new-1"},
        {"kty": "oct", "kid": "oct-1", "k": b64(JWT_SECRET.encode())},
        signer.jwk("rsa-1", kid="enc-1", use="enc"),
        signer.jwk("rsa-1", kid="ops-1", key_ops=["encrypt"]),
        signer.jwk("rsa-1", kid="rsa-512", alg="RS512"),
        "no key",
        {"kty": "RSA", "kid": 7},
    ]
    url = serve_tree(TREE, auth_jwks_url=f"{signer.url}/jwks.json", auth_audience=AUDIENCE, auth_issuer=ISSUER)
    wait_until(lambda: signer.asked)
    return url


# Who is let in.


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (GOOD, {}),
        ({"alg": "HS256"}, {}),
        ({**GOOD, "kid": "any"}, {}),
        (GOOD, {"aud": ["other", AUDIENCE]}),
        (GOOD, {"exp": -10}),
        (GOOD, {"nbf": 10, "iat": 0}),
        (GOOD, {"exp": 3600.5}),
    ],
)
def test_a_good_token_is_let_in(secret_url: str, header: Any, payload: Any):
    """Moments are seconds from now."""
    payload = {
        name: time.time() + value if isinstance(value, int | float) else value for name, value in payload.items()
    }
    assert get(secret_url, raw(header, claims(**payload))).status_code == 200


@pytest.mark.parametrize("sub", ["auth0|64f0c2", "user:with:colons", "a@b.example", "żółw", "x" * 200, "😀"])
def test_a_visitor_is_its_sub(secret_url: str, sub: str):
    assert get(secret_url, jwt.encode(claims(sub), JWT_SECRET, "HS256")).json() == sub


@pytest.mark.parametrize("kid", ["rsa-1", "ec-1", "ed-1"])
def test_a_token_of_each_kind_of_key_is_let_in(jwks_url: str, signer: Signer, kid: str):
    assert get(jwks_url, signer.token(kid)).status_code == 200


def test_a_new_secret_and_the_old_one_both_sign_while_one_replaces_the_other(serve_tree: ServeTree):
    other = "f" * 32
    url = serve_tree(TREE, **SIGNED | {"auth_jwt_secret": f"{other},{JWT_SECRET}"})
    for secret in (other, JWT_SECRET):
        assert get(url, jwt.encode(claims(), secret, "HS256")).status_code == 200
    assert get(url, raw(GOOD, claims(), f"{other},{JWT_SECRET}".encode())).status_code == 401


def test_without_an_audience_and_an_issuer_nobodys_are_asked_for(serve_tree: ServeTree):
    url = serve_tree(TREE, auth_jwt_secret=JWT_SECRET)
    assert get(url, raw(GOOD, claims(aud=None, iss=None))).status_code == 200
    assert get(url, raw(GOOD, claims(aud=None))).status_code == 200
    assert get(url, raw(GOOD, claims())).status_code == 401  # for somebody else: RFC 7519 4.1.3


# Who is not.


def parts(token: str) -> list[str]:
    return token.split(".")


H, P, S = parts(raw(GOOD, claims()))
NONE = [f"{b64(json.dumps({'alg': alg}).encode())}.{P}." for alg in ("none", "None", "nOnE", "NONE")]

ODD_EXP = (
    *("null", '"soon"', '"9999999999"', '{"a":1}', "[]", "true"),
    *("1e999", "-1e999", "NaN", "-1", "1" * 5000),
)
ODD_ALG: tuple[Any, ...] = (None, "", [], ["HS256"], "hs256", "RS256", 5, {}, True)
ODD_TIME: tuple[Any, ...] = ("soon", "1", [])
ODD_AUD: tuple[Any, ...] = ("other", [], "Chat", "cha", "chats", {"chat": 1}, [["chat"]], 5, ["chat", 5])
ODD_ISS: tuple[Any, ...] = ("x", "https://id.example", "https://id", "", [ISSUER], 5)
ODD_SUB: tuple[Any, ...] = ("", " ", None, 42, ["alice"], {}, "a\0b", "x" * 201, "\ud83d", True)
ODD_JSON = (b"[]", b'"alice"', b"null", b"", b"\xff\xfe", b"{", DEEP)


def with_exp(text: str) -> bytes:
    return json.dumps(claims(exp=7)).replace("7", text).encode()


def forgeries() -> dict[str, str]:
    return {
        **{f"alg none {i}": token for i, token in enumerate(NONE)},
        **{f"alg none with a signature {i}": token + S for i, token in enumerate(NONE)},
        "no signature": f"{H}.{P}.",
        "one part": H,
        "two parts": f"{H}.{P}",
        "four parts": f"{H}.{P}.{S}.{S}",
        "five parts": f"{H}.{P}.{S}.{S}.{S}",
        "dots": "..",
        "HS384": raw({"alg": "HS384"}, claims(), digest=hashlib.sha384),
        "HS512": raw({"alg": "HS512"}, claims(), digest=hashlib.sha512),
        **{f"alg {alg!r}": raw({"alg": alg}, claims()) for alg in ODD_ALG},
        "no alg": raw({"typ": "JWT"}, claims()),
        "the empty key": raw(GOOD, claims(), b""),
        "another key": raw(GOOD, claims(), b"x" * 32),
        "another payload": f"{H}.{parts(raw(GOOD, claims('bob')))[1]}.{S}",
        "expired": raw(GOOD, claims(exp=int(time.time()) - 60)),
        "no exp": raw(GOOD, claims(exp=None)),
        **{f"exp {exp:.9}": raw(GOOD, with_exp(exp)) for exp in ODD_EXP},
        "nbf": raw(GOOD, claims(nbf=int(time.time()) + 120)),
        **{f"{name} {odd!r}": raw(GOOD, claims(**{name: odd})) for name in ("nbf", "iat") for odd in ODD_TIME},
        **{f"aud {aud!r}": raw(GOOD, claims(aud=aud)) for aud in ODD_AUD},
        "no aud": raw(GOOD, claims(aud=None)),
        **{f"iss {iss!r}": raw(GOOD, claims(iss=iss)) for iss in ODD_ISS},
        "no iss": raw(GOOD, claims(iss=None)),
        **{f"sub {sub!r:.20}": raw(GOOD, claims() | {"sub": sub}) for sub in ODD_SUB},
        "no sub": raw(GOOD, claims(None)),
        **{f"claims {odd[:9]!r}": raw(GOOD, odd) for odd in ODD_JSON},
        **{f"header {odd[:9]!r}": raw(odd, claims()) for odd in ODD_JSON},
        "header without a secret": f"{b64(DEEP)}.{P}.{S}",
        "crit": raw({**GOOD, "crit": ["x-ours"], "x-ours": 1}, claims()),
        "crit empty": raw({**GOOD, "crit": []}, claims()),
        "crit b64": raw({**GOOD, "crit": ["b64"], "b64": False}, claims()),
        "kid null": raw({**GOOD, "kid": None}, claims()),
        "60 kB": raw(GOOD, claims(more="x" * 45_000)),
        "letters": f"{H}.{P}.é{S}",
        "padding": f"{H}=.{P}=.{S}=",
        "blank": f"{H}.{P}. {S}",
        "not base64": f"{H}.{P}.{S}!",
        "the secret": JWT_SECRET,
    }


@pytest.mark.slow
def test_every_forgery_is_the_same_401(serve_tree: ServeTree, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    url = serve_tree(TREE, **SIGNED)
    stranger = httpx.get(f"{url}/who", trust_env=False)
    forged = forgeries()
    for name, token in forged.items():
        response = httpx.get(f"{url}/who", headers=[(b"Authorization", f"Bearer {token}".encode())], trust_env=False)
        assert (response.status_code, response.content) == (401, stranger.content), name
        assert response.headers["www-authenticate"] == "Bearer", name
    wait_until(lambda: [record.name for record in caplog.records].count("request") == len(forged) + 1)
    assert "Traceback" not in caplog.text
    assert not [name for name, token in forged.items() if len(token) > 20 and token in caplog.text]


def test_a_token_elsewhere_than_in_the_header_is_none(secret_url: str):
    token = raw(GOOD, claims())
    path = f"{secret_url}/who"
    places: list[dict[str, Any]] = [
        {"params": {"access_token": token}},
        {"params": {"token": token}},
        {"headers": {"Cookie": f"token={token}"}},
        {"headers": {"Authorization": f"JWT {token}"}},
        {"headers": {"Authorization": token}},
        {"headers": {"X-Cron-Secret": token}},
    ]
    for options in places:
        assert httpx.get(path, trust_env=False, **options).status_code == 401


def test_a_visitor_is_no_operator_and_no_service(secret_url: str):
    token = raw(GOOD, claims("admin", role="admin", scope="admin operator"))
    for path in ("/operator", "/service"):
        assert get(secret_url, token, path).status_code == 401


def test_unset_is_closed(serve_tree: ServeTree):
    url = serve_tree(TREE)
    for token in (raw(GOOD, claims()), raw(GOOD, claims(), b""), *NONE):
        assert get(url, token).status_code == 401


def public_forms(key: Any) -> dict[str, bytes]:
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {"pem": pem, "pem without its last line end": pem.rstrip(), "der": der, "nothing": b""}


def test_a_key_set_lets_no_forgery_in(jwks_url: str, signer: Signer):
    mallory = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    signer.keys["rsa-2"] = mallory
    hers = signer.jwk("rsa-2")
    del signer.keys["rsa-2"]
    there = f"{signer.url}/other"
    forgeries: dict[str, str] = {"none": NONE[0], "HS256 with our secret": raw(GOOD, claims())}
    for kid in ("rsa-1", "ec-1", "ed-1"):
        texts = {"jwk": json.dumps(signer.jwk(kid)).encode(), **public_forms(signer.keys[kid].public_key())}
        for form, key in texts.items():
            forgeries[f"HS256 with {kid} as {form}"] = raw({"alg": "HS256", "kid": kid}, claims(), key)
    forgeries |= {
        "HS256 with an oct key of the set": raw({"alg": "HS256", "kid": "oct-1"}, claims()),
        "RS256 under the kid of the EC key": signer.token("ec-1", "RS256", signer.keys["rsa-1"]),
        "RS512 under a key without alg": signer.token("rsa-1", "RS512"),
        "PS256 under a key without alg": signer.token("rsa-1", "PS256"),
        "RS512 under a key of RS512": signer.token("rsa-512", "RS512", signer.keys["rsa-1"]),
        "another's key under our kid": signer.token("rsa-1", key=mallory),
        "a key for encryption": signer.token("enc-1", "RS256", signer.keys["rsa-1"]),
        "a key for other operations": signer.token("ops-1", "RS256", signer.keys["rsa-1"]),
        "no kid": jwt.encode(claims(), signer.keys["rsa-1"], "RS256"),
        "jku": signer.token("rsa-2", "RS256", mallory, {"jku": there}),
        "jku under our kid": signer.token("rsa-1", key=mallory, headers={"jku": there}),
        "x5u under our kid": signer.token("rsa-1", key=mallory, headers={"x5u": there}),
        "jwk": signer.token("rsa-2", "RS256", mallory, {"jwk": hers}),
        "jwk under our kid": signer.token("rsa-1", key=mallory, headers={"jwk": hers}),
        "expired": signer.token("rsa-1", exp=int(time.time()) - 60),
        "another audience": signer.token("rsa-1", aud="other"),
        "another issuer": signer.token("rsa-1", iss="other"),
    }
    for kid in ("../../../dev/null", "' UNION SELECT", "k" * 5000, ["rsa-1"], 1, None, {"a": 1}, ""):
        forgeries[f"kid {kid!r:.20}"] = raw({"alg": "HS256", "kid": kid}, claims(), b"")
    for name, token in forgeries.items():
        response = get(jwks_url, token)
        assert (response.status_code, response.json()) == (401, {"error": "Unauthorized"}), name
    assert "/other" not in signer.asked
    assert get(jwks_url, signer.token("rsa-1")).status_code == 200


# Keys that come and go.


def test_made_up_kids_make_the_provider_no_work(serve_tree: ServeTree, signer: Signer):
    signer.asked.clear()
    url = serve_tree(TREE, auth_jwks_url=f"{signer.url}/jwks.json", auth_audience=AUDIENCE, auth_issuer=ISSUER)
    for n in range(40):
        assert get(url, signer.token(f"rsa-made-up-{n}", key=signer.keys["rsa-1"])).status_code == 401
    assert len(signer.asked) <= 2


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "PAUSE", 0.0)


async def with_signer(signer: Signer) -> tuple[Visitors, httpx.AsyncClient]:
    http = httpx.AsyncClient(trust_env=False)
    config = Config(auth_jwks_url=f"{signer.url}/jwks.json", auth_audience=AUDIENCE, auth_issuer=ISSUER)
    return Visitors(config, http), http


async def test_a_withdrawn_key_is_out_and_a_new_one_in(no_pause: None):
    with Signer().running() as signer:
        found, http = await with_signer(signer)
        old, ec = signer.token("rsa-1"), signer.token("ec-1")
        assert [await found.owner(token) for token in (old, ec)] == ["alice", "alice"]
        signer.keys["rsa-2"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        del signer.keys["rsa-1"]
        assert await found.owner(signer.token("rsa-2")) == "alice"
        with pytest.raises(Refused):  # though it was known a moment ago
            await found.owner(old)
        assert await found.owner(ec) == "alice"
        await http.aclose()


async def test_known_keys_stay_good_while_the_provider_is_away(no_pause: None, caplog: pytest.LogCaptureFixture):
    with Signer().running() as signer:
        found, http = await with_signer(signer)
        await found.owner(signer.token("rsa-1"))
        signer.status = 500
        with pytest.raises(Refused):
            await found.owner(signer.token("rsa-9", key=signer.keys["rsa-1"]))
        assert await found.owner(signer.token("rsa-1", sub="bob")) == "bob"
        later, token = signer.token("ec-1"), signer.token("rsa-9", key=signer.keys["rsa-1"])
    with pytest.raises(Refused):  # now there is nobody at all
        await found.owner(token)
    assert await found.owner(later) == "alice"
    assert "it answered 500" in caplog.text
    assert "ConnectError" in caplog.text
    await http.aclose()


async def test_many_at_once_wait_for_one_request():
    with Signer().running() as signer:
        found, http = await with_signer(signer)
        owners: list[str] = []

        async def ask(n: int) -> None:
            owners.append(await found.owner(signer.token("rsa-1", sub=f"v{n}")))

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(ask, n)
        assert (len(owners), len(signer.asked)) == (20, 1)
        await http.aclose()


@pytest.mark.parametrize(
    "document", [[], {}, {"keys": 5}, "keys", None, {"keys": None}, {"keys": "abc"}, {"keys": {"kid": "a"}}]
)
def test_what_is_no_key_set_is_refused(document: Any):
    with pytest.raises(ValueError, match="no JWK set"):
        read_keys(document)


# What is known is bounded.


async def test_a_known_token_costs_no_second_check_and_expires():
    async with httpx.AsyncClient() as http:
        now = [time.time()]
        exp = int(now[0]) + 100
        found = Visitors(Config(auth_jwt_secret=JWT_SECRET), http, clock=lambda: now[0])
        token = jwt.encode({"sub": "alice", "exp": exp}, JWT_SECRET, "HS256")
        assert await found.owner(token) == "alice"
        found._secrets.clear()  # pyright: ignore[reportPrivateUsage] - nothing could be checked from here on
        assert await found.owner(token) == "alice"
        now[0] = exp + 30.0
        with pytest.raises(Refused):
            await found.owner(token)


async def test_no_more_than_so_many_tokens_are_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(visitors, "KNOWN", 3)
    assert KNOWN > 3
    async with httpx.AsyncClient() as http:
        found = Visitors(Config(auth_jwt_secret=JWT_SECRET), http)
        for n in range(10):
            await found.owner(jwt.encode({"sub": f"v{n}", "exp": int(time.time()) + 100}, JWT_SECRET, "HS256"))
        assert len(found._known) == 3  # pyright: ignore[reportPrivateUsage]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "exp", "sub", "aud", "iss", "nbf", "iat", "jti"])


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    header=st.dictionaries(NAMES, json_values) | json_values | st.binary(max_size=50),
    payload=st.dictionaries(NAMES, json_values) | json_values | st.binary(max_size=50),
)
def test_whatever_a_token_holds_it_is_an_owner_or_refused(header: Any, payload: Any):
    async def ask() -> None:
        async with httpx.AsyncClient() as http:
            found = Visitors(Config(auth_jwt_secret=JWT_SECRET), http)
            for head in (header, merged(header), GOOD):
                try:
                    owner = await found.owner(raw(head, payload))
                    assert 1 <= len(owner) <= 200
                except Refused:
                    pass

    anyio.run(ask)


def merged(header: Any) -> Any:
    return {**GOOD, **header} if isinstance(header, dict) else header  # pyright: ignore[reportUnknownVariableType]


def test_the_secrets_of_others_are_no_token_of_a_visitor(secret_url: str):
    assert get(secret_url, SECRET).status_code == get(secret_url, TOKEN).status_code == 401
    assert get(secret_url, SECRET, "/operator").status_code == get(secret_url, TOKEN, "/service").status_code == 200
