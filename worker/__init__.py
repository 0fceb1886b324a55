"""Durable work: one table of due rows, claimed by one process at a time, retried, and kept when they fail for good.

A row is put in a transaction before anybody is told that it will be done. To run it, a process claims it for the
length of a lease and renews that while it works; a lease that lapses is just a due row again, so a process that
died needs no cleaning up after. Scheduled jobs are rows like any other: each tick stores the next occurrence of
every schedule under an id that is the same in every process, so that however many are ticked, one starts it.

| file | what it is |
|---|---|
| `files.py` | a file of jobs/, read and checked |
| `table.py` | the states of a row, and who may change them; `put` |
| `operator.py` | what an operator sees and does: overview, run, cancel, replay, delete |
| `claims.py` | which rows a process takes, and how it keeps them |
| `claimed.py` | what this process has claimed: claims renewed, ends written down |
| `runs.py` | a claimed row while it runs: its task or thread, its time |
| `ends.py` | how a run ended, and what becomes of its row |
| `schedules.py` | the occurrences of schedules |
| `steps.py` | parts of a job that are not done again |
| `loop.py` | the loop that all of it goes through |
"""

from worker.ends import GiveUp, Retry
from worker.files import Job, JobFile, job_file, load_jobs
from worker.loop import Worker
from worker.operator import Impossible
from worker.steps import step

__all__ = ["GiveUp", "Impossible", "Job", "JobFile", "Retry", "Worker", "job_file", "load_jobs", "step"]
