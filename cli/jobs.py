"""`python -m app jobs`: see what is due, running and failed, and do something about it."""

import difflib
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from chat import iso
from config import Config
from db import database
from worker import Impossible, JobFile, Worker

USAGE = """jobs                          list what is due, running and failed, and when each schedule is next
jobs run NAME [PAYLOAD]       begin a job now; PAYLOAD is JSON
jobs cancel ID                call one off that waits or runs
jobs replay ID                put a failed, skipped or cancelled one back
jobs replay --all [NAME]      put all failed ones back, or those of one name
jobs delete ID                delete one that does not run
jobs delete --failed [NAME]   delete all failed ones, or those of one name"""

ACTIONS = ("run", "cancel", "replay", "delete")
MANY = {"replay": "--all", "delete": "--failed"}


def misused(words: Sequence[str]) -> str | None:
    """Say what is wrong with the words after `jobs`; None where they can be understood."""
    if not words:
        return None
    action, *rest = words
    if action not in ACTIONS:
        near = difflib.get_close_matches(action, ACTIONS, n=1)
        return f"There is no command 'jobs {action}'" + (f"; did you mean {near[0]}?" if near else "") + f"\n{USAGE}"
    most = 2 if action == "run" or rest[:1] == [MANY.get(action)] else 1
    if not rest or len(rest) > most or (rest[0].startswith("--") and rest[0] != MANY.get(action)):
        return "\n".join(line for line in USAGE.splitlines() if line.startswith(f"jobs {action}"))
    return None


async def run_jobs(config: Config, jobs: dict[str, JobFile], words: Sequence[str]) -> int:
    """List the jobs, or do what the words say. What cannot be done is told, with status 1."""
    db = database(config.database_url, config.database_pool)
    await db.open(config.routes_dir.parent / "migrations")
    try:
        await told(Worker(db, jobs), words)
        return 0
    except Impossible as exc:
        print(exc, file=sys.stderr)
        return 1
    finally:
        await db.aclose()


async def told(worker: Worker, words: Sequence[str]) -> None:
    if not words:
        return print_overview(await worker.overview())
    action, what, *more = (word.encode(errors="replace").decode() for word in words)  # half a letter is in no database
    if action == "run":
        print(f"{await worker.run(what, payload_of(more))} is due")
    elif action == "cancel":
        state = await worker.cancel(what)
        print(f"{what} is cancelled" if state == "cancelled" else f"{what} is being stopped")
    elif what == MANY[action]:
        every: Callable[..., Awaitable[list[str]]] = worker.replay_all if action == "replay" else worker.delete_failed
        ids = await every(*more)
        if more and not ids:
            raise Impossible(f"No job called {more[0]} has failed; see: python -m app jobs")
        print(f"{len(ids)} {'is' if len(ids) == 1 else 'are'} {'due again' if action == 'replay' else 'deleted'}")
    elif action == "replay":
        await worker.replay(what)
        print(f"{what} is due again")
    else:
        await worker.delete(what)
        print(f"{what} is deleted")


def payload_of(more: Sequence[str]) -> Any:
    if not more:
        return None
    try:
        payload = json.loads(more[0])
        json.dumps(payload, allow_nan=False)  # which `loads` lets through
        return payload
    except (ValueError, RecursionError) as exc:
        raise Impossible(f"The payload {more[0][:200]!r} is not JSON: {exc}. Quote a text twice: '\"text\"'") from None


def print_overview(found: dict[str, Any]) -> None:
    for word in ("due", "running", "failed"):
        rows = found[word]
        for row in rows:
            how = f"attempt {row['attempts']}  {row['error'] or ''}"
            print(f"{word:8} {iso(row['run_at'])}  {row['id']}  {how}".rstrip())
        if found["counts"][word] > len(rows):
            print(f"{word:8} {found['counts'][word]} in all")
    for row in found["without_file"]:
        print(f"no file  {row['name']}: {row['n']} due, but jobs/{row['name']}.py is not there, so nobody runs it")
    for job in found["jobs"]:
        if last := job["last"]:
            took = "" if last["seconds"] is None else f" in {last['seconds']:.1f} s"
            print(
                f"last     {iso(last['done_at'])}  {job['name']}  {last['state']}{took}  {last['error'] or ''}".rstrip()
            )
    for name, at in found["next"].items():
        print(f"next     {iso(at)}  {name}")
