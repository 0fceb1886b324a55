"""Steps: parts of a job whose results are kept, so that they are not done again when the job is tried again."""

import asyncio
import inspect
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from db import Row
from errors import is_async
from worker.ends import OwnWords
from worker.files import Job
from worker.runs import Run, current, in_thread
from worker.table import checked_text

logger = logging.getLogger("worker")

# an id that is free again may be put once more: the steps of its job before are not this one's
STEPS = "SELECT name, result FROM house_step WHERE job_id = $1 AND COALESCE(put_at, $2) = $2"

RENEW_ONE = "UPDATE house_job SET run_at = $3 WHERE id = $1 AND token = $2 RETURNING id"
STORE = """INSERT INTO house_step (job_id, name, result, put_at)
  SELECT id, CAST($3 AS TEXT), CAST($4 AS TEXT), created_at FROM house_job WHERE id = $1 AND token = $2
  ON CONFLICT (job_id, name) DO UPDATE SET result = excluded.result, put_at = excluded.put_at"""


class StepError(OwnWords):
    """What cannot be a step; the message names it."""


async def step(job: Job, name: str, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
    """Call a function once for the job, whatever becomes of this attempt; later ones get its result back.

    The result is any JSON value; it is on disk when this returns, stored in the transaction that renews the claim. The
    name is the step's for good: under one name a later version of the code must do the same. A plain function runs in
    a thread. Outside of a worker, as in a test of yours, the function is just called.
    """
    run = current.get()
    if run is None or run.row["id"] != job["id"]:
        return await called(function, *arguments, **options)
    if not name:
        raise StepError("a step's name is empty")
    try:
        checked_text("a step's name", name)
    except (TypeError, ValueError) as exc:
        raise StepError(str(exc)) from None
    async with run.locks.setdefault(name, asyncio.Lock()):
        rows = list[Row]()
        if run.steps is None and run.row["begun"] > 1:
            rows = await run.worker.db.read(STEPS, run.row["id"], run.row["created_at"])
        if run.steps is None:  # a step of another name may have read them meanwhile
            run.steps = {row["name"]: row["result"] for row in rows}
        if name not in run.steps:
            result = await called(function, *arguments, **options)
            try:
                text = json.dumps(result, allow_nan=False)
            except (TypeError, ValueError) as exc:
                raise StepError(f"step {name!r}: its result is not JSON: {exc}") from exc
            await store(run, name, text)
            run.steps[name] = text
    return json.loads(run.steps[name])


async def called(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if is_async(function):
        return await function(*arguments, **options)
    result, failure = await in_thread(partial(function, *arguments, **options))
    if failure is not None:
        raise failure
    return await result if inspect.isawaitable(result) else result


async def store(run: Run, name: str, text: str) -> None:
    """Store a result and renew the claim. While the database is away this is tried again for half a lease."""
    worker = run.worker
    until = worker.clock() + worker.lease / 2
    while True:
        try:
            until_at = worker.clock() + worker.lease
            kept, _ = await worker.db.write((RENEW_ONE, (*run.claim, until_at)), (STORE, (*run.claim, name, text)))
            break
        except Exception:
            if worker.clock() > until:
                raise
            logger.warning("cannot store step %s of %s, trying again", name, run.row["id"], exc_info=True)
            await asyncio.sleep(1)
    if not kept:
        run.stop("lost")
        await asyncio.sleep(0)  # where it is stopped
        raise StepError(f"step {name!r}: the claim was lost, another process runs the job")
