"""GET /api/openapi.json, and the command that prints the same."""

import json
import subprocess

import httpx
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.conftest import SECRET, Serve
from tests.processes import PYTHON, Project


def test_the_document_describes_the_app_to_an_operator(serve: Serve):
    answer = httpx.get(f"{serve()}/api/openapi.json", headers={"X-Cron-Secret": SECRET})
    assert answer.status_code == 200
    OpenAPIV31SpecValidator(answer.json()).validate()
    assert "get" in answer.json()["paths"]["/api/openapi.json"]


def test_it_is_closed_unless_the_setting_opens_it(serve: Serve):
    assert httpx.get(f"{serve()}/api/openapi.json").status_code == 401
    assert httpx.get(f"{serve(openapi='open')}/api/openapi.json").status_code == 200


def test_the_command_prints_the_same_document(serve: Serve, clone: Project):
    printed = subprocess.run(
        [PYTHON, "-m", "app", "openapi"], cwd=clone, env={"PATH": ""}, capture_output=True, text=True, check=True
    )
    served = httpx.get(f"{serve(openapi='open')}/api/openapi.json").json()
    assert json.loads(printed.stdout) == served
