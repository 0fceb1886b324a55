"""What ships in the folders that are yours. A test of one of these files stands in tests/, in a folder of that name."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from config import HERE

ROUTES = [
    "routes/api/chat/route.py",
    "routes/api/chat/[id]/stream/route.py",
    "routes/api/chat/ui/route.py",
    "routes/api/chat/ui/[id]/stream/route.py",
    "routes/api/conversations/route.py",
    "routes/api/conversations/[id]/route.py",
    "routes/api/cron/route.py",
    "routes/api/health/route.py",
    "routes/api/jobs/route.py",
    "routes/api/metrics/route.py",
    "routes/api/openapi.json/route.py",
    "routes/api/webhooks/[channel]/route.py",
]
CHANNELS = ["github", "slack", "standard", "stripe", "telegram", "whatsapp"]


def copy_shipped(to: Path, routes: Iterable[str], channels: Iterable[str] = CHANNELS) -> None:
    """Copy shipped routes and channels to a folder of the test's own, without those that were deleted."""
    for name in [*routes, *(f"channels/{name}.py" for name in (*channels, "_send"))]:
        if (HERE / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HERE / name, to / name)
