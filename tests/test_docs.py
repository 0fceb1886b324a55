"""Every python block of the docs runs: files are written where their first line says, the rest must compile."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import create_app
from config import Config
from loader import load_routes
from tests.servers import write_tree

HERE = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([HERE / "README.md", *(HERE / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.\w+)\n")


def blocks_of(document: Path) -> list[str]:
    return BLOCK.findall(document.read_text())


def files_of(document: Path) -> dict[str, str]:
    """The blocks that name a file in their first line, by that name."""
    blocks = blocks_of(document)
    files = {named[1]: block for block in blocks if (named := FILE.match(block))}
    assert len(files) == len([block for block in blocks if FILE.match(block)]), "two blocks are one file"
    return files


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_block_compiles(document: Path):
    for block in blocks_of(document):
        compile(block, document.name, "exec")


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if files_of(d)], ids=lambda path: path.name)
def test_the_routes_of_a_document_load_and_answer(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_tree(tmp_path, files_of(document))
    (tmp_path / "routes").mkdir(exist_ok=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # a module beside routes/ is imported by its name
    before = set(sys.modules)
    try:
        app = create_app(Config(routes_dir=tmp_path / "routes", webchat_token="t", cron_secret="s"))
        with TestClient(app) as client:
            for route in load_routes(tmp_path / "routes"):
                params: dict[str, Any] = {s.text: ["1"] if s.rank > 1 else "1" for s in route.segments if s.rank}
                for method in route.handlers:
                    response = client.request(method, route.url_path_for(route.path, **params), content="{}")
                    assert response.status_code not in (405, 500)
    finally:
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]


def test_every_local_link_leads_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
