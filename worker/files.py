"""A file of the jobs folder: its function, its schedule, its limits."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, TypedDict, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from loader import load_files
from modules import plain
from router import positional

LARGEST = 10**9  # of a job file's numbers; neither timers nor databases take any


class Job(TypedDict):
    """What ``run(job)`` gets."""

    id: str  # the same at every attempt: an idempotency key
    name: str
    attempts: int  # 1, 2, 3 ... of those that count
    payload: Any  # any JSON value


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """One file of the jobs folder."""

    name: str
    file: str
    run: Callable[..., Any]
    schedule: str | Sequence[str] | None = None  # five fields of cron, or several such
    timezone: tzinfo = UTC
    attempts: int = 3
    timeout: float = 300.0  # seconds
    grace: float | None = None  # seconds that a missed occurrence may be late; None: run it late, once
    at_once: int | None = None  # how many of it run at once in a process; None: as many as there are places

    @property
    def schedules(self) -> Sequence[str]:
        return (self.schedule,) if isinstance(self.schedule, str) else self.schedule or ()

    def next_after(self, moment: float) -> float:
        """The first occurrence after a moment, in Unix seconds."""
        local = datetime.fromtimestamp(moment, self.timezone)
        # in an hour that is repeated the first may be an hour ago
        following = (map(datetime.timestamp, CronSim(schedule, local)) for schedule in self.schedules)
        return min(next(at for at in moments if at > moment) for moments in following)


def load_jobs(root: Path) -> dict[str, JobFile]:
    """Load the files of a jobs folder, by name; {} where there is none. Problems are raised as `load_routes` does."""
    return load_files(root, job_file)


def job_file(name: str, shown: str, found: Mapping[str, Any]) -> JobFile:
    """Read what a job's module defines. Raises `ValueError` with the fix."""
    run = found.get("run")
    found = {name: value for name, value in found.items() if not is_imported(value, found)}
    zone = found.get("timezone", "UTC")
    if inspect.isasyncgenfunction(run) or inspect.isgeneratorfunction(run):
        raise ValueError("run is a generator: nothing would read what it yields. Write it without yield")
    if not inspect.isfunction(run):
        raise ValueError("has no function 'run'. Write: async def run(job): ...")
    try:
        positional(run, "state")
    except TypeError as exc:
        raise ValueError(f"run takes {exc}, but it is called with (job) or (job, state)") from None
    try:
        timezone = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise ValueError(f"timezone {zone!r} is not known. Write a name such as Europe/Paris, or UTC") from None
    return JobFile(
        name=name,
        file=shown,
        run=run,
        schedule=checked_schedule(found.get("schedule"), timezone),
        timezone=timezone,
        **checked_numbers(found),
    )


def is_imported(value: object, found: Mapping[str, Any]) -> bool:
    """Whether a value is code from elsewhere and no setting, as after `from datetime import timezone`."""
    is_code = inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)
    return is_code and getattr(value, "__module__", None) != found.get("__name__")


def checked_schedule(schedule: Any, timezone: tzinfo) -> Sequence[str] | None:
    """Return five fields of cron, or several such, as a sequence. Raises `ValueError`."""
    if schedule is None:
        return None
    several = cast("Sequence[Any]", schedule) if isinstance(schedule, list | tuple) else (schedule,)
    if not several:
        raise ValueError('schedule is an empty list. Write five fields: "0 9 * * *", or leave it out')
    for one in several:
        try:
            if len(str(one).split()) != 5:
                raise CronSimError("five fields are required")
            next(CronSim(one, datetime.now(timezone)))
        except (CronSimError, StopIteration, AttributeError, TypeError) as exc:
            reason = str(exc) or "it never comes"
            raise ValueError(f'schedule {one!r} cannot be used: {reason}. Write five fields: "0 9 * * *"') from None
    return tuple(several)


def checked_numbers(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that a module sets, or their defaults. Raises `ValueError`."""
    numbers = {key: found.get(key, getattr(JobFile, key)) for key in ("attempts", "timeout", "grace", "at_once")}
    for key, value in numbers.items():
        if value is None and key in ("grace", "at_once"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{key} = {plain(value)} cannot be used: a number above 0 is required")
        if value > LARGEST:
            raise ValueError(f"{key} cannot be more than {LARGEST:,}")
        if key in ("attempts", "at_once") and not isinstance(value, int):
            raise ValueError(f"{key} = {plain(value)} cannot be used: a whole number above 0 is required")
    return numbers
