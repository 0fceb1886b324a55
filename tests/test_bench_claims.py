"""What bench/claims.py measures can be claimed to the last row, on a small table. Nothing is timed."""

import pytest

from bench.claims import Filled, compare

pytestmark = pytest.mark.slow


async def test_every_row_that_is_due_is_claimed_also_past_a_lane_that_is_full():
    tables = (Filled(150, 0), Filled(150, 10, 300))
    lines = await compare("sqlite", tables, 148)
    assert [line.split(" | ")[1] for line in lines.split("\n")] == [str(filled) for filled in tables]
