"""The bench measures what it says it does: every server acknowledges, and every table is claimed from."""

import asyncio
from contextlib import ExitStack
from itertools import count

import pytest

from bench import claims, scale, webhooks

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", webhooks.NAMES)
@pytest.mark.filterwarnings("ignore::platformdirs.api.RuntimeDirWarning")
def test_every_server_acknowledges(name: str):
    with ExitStack() as stack:
        server = webhooks.start(stack, name, 60)
        sample = asyncio.run(webhooks.deliver([server.port], 2, count(1), 0))
    assert sample.rate > 0


@pytest.mark.parametrize("engine", claims.ENGINES)
@pytest.mark.filterwarnings("ignore::platformdirs.api.RuntimeDirWarning")
async def test_every_table_is_claimed_from(engine: str):
    tables = (claims.Filled(5, 0), claims.Filled(5, 5, 3))
    lines = await claims.compare(engine, tables, claims=3)
    assert "| 5 due, 5 done, 3 behind one lane |" in lines


@pytest.mark.filterwarnings("ignore::platformdirs.api.RuntimeDirWarning")
def test_two_processes_run_jobs_and_acknowledge():
    table = scale.table_of(scale.measure([1, 2], rounds=1, jobs=20, seconds=0))
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| 1", "| 2"]
