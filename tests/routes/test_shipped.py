"""Every route that ships answers 401 without a credential, and imports only what is below it. Yours are yours."""

from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import create_app
from config import HERE, Config
from loader import load_routes
from tests.shipped import CHANNELS, ROUTES, copy_shipped
from tests.test_house import imports_of

SHIPPED = [file for file in ROUTES if (HERE / file).is_file()]  # what you deleted is not asked for
OPEN = {"routes/api/health/route.py"}  # a monitor has no secret to lose, and it says only ok

SECRETS: dict[str, Any] = {
    entry.name: "c2VjcmV0LXRoYXQtaXMtc2V0" for entry in fields(Config) if entry.metadata["hidden"]
}
NOTHING: list[dict[str, str]] = [
    {},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer None"},
    {"X-Cron-Secret": ""},
]


@pytest.mark.parametrize("secrets", [{}, SECRETS], ids=["unset", "set"])
@pytest.mark.parametrize("file", [file for file in SHIPPED if file not in OPEN])
def test_every_shipped_route_is_401_without_a_credential(tmp_path: Path, file: str, secrets: dict[str, Any]):
    channels = [channel for channel in CHANNELS if (HERE / f"channels/{channel}.py").is_file()]
    copy_shipped(tmp_path, [file], channels)
    [route] = load_routes(tmp_path / "routes")
    params: dict[str, Any] = {s.text: ["x"] if s.rank > 1 else "x" for s in route.segments if s.rank}
    paths = [
        route.url_path_for(route.path, **params | {"channel": channel} if "channel" in params else params)
        for channel in (channels if "channel" in params else [""])
    ]
    settings: dict[str, Any] = {
        **secrets,
        "database_url": f"sqlite:///{tmp_path}/a.db",
        "routes_dir": tmp_path / "routes",
    }
    with TestClient(create_app(Config(**settings))) as client:
        for method, path, headers in product(sorted(route.handlers), paths, NOTHING):
            response = client.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("file", SHIPPED)
def test_a_shipped_route_imports_modules_and_never_another_route(file: str):
    assert not imports_of(HERE / file) & {"app", "cli", "tests", "bench"}
