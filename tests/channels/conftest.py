"""A project of the test's own, with the shipped routes and channels."""

import shutil
from pathlib import Path

import pytest

from config import HERE


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the routes and channels, to which a test adds files."""
    for folder in ("routes", "channels"):
        shutil.copytree(HERE / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path
