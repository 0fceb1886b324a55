"""What bench/answers.py measures are right answers, on small counts. Nothing is timed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import answers
from bench.answers import Pair
from bench.chat import Ends
from bench.machine import Unfit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the bench reads Linux's /proc"),
]


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    with Ends() as ends:
        yield ends


@pytest.fixture(scope="module", params=answers.ENGINES)
def pair(request: pytest.FixtureRequest, ends: Ends) -> Iterator[Pair]:
    with answers.database_of(request.param) as url, answers.serving(ends.url, url, 120) as pair:
        yield pair


def test_every_reader_is_told_the_whole_answer(pair: Pair, ends: Ends):
    numbers = ends.run(answers.cost_of_readers(pair, streams=3, pieces=30, rate=50))
    assert list(numbers) == ["1 reader, µs", "2 readers, µs", "ratio"]


def test_an_answer_is_resumed_here_and_across(pair: Pair, ends: Ends):
    numbers = ends.run(answers.time_to_resume(pair, times=2))
    assert list(numbers) == ["here p50", "here max", "across p50", "across max"]
    assert min(numbers.values()) > 0


def test_an_answer_is_stopped_here_and_across(pair: Pair, ends: Ends):
    numbers = ends.run(answers.time_to_stop(pair, times=2))
    assert list(numbers) == ["here p50", "here max", "across p50", "across max"]


def test_followers_of_another_process_are_told_the_whole_answer(pair: Pair, ends: Ends):
    numbers = ends.run(answers.share_of_followers(pair, followers=3, seconds=0.2, pieces=100, rate=20))
    assert list(numbers) == ["the writer", "the followers"]


def test_answers_that_are_over_too_early_are_not_measured(pair: Pair, ends: Ends):
    with pytest.raises(Unfit, match="over before"):
        ends.run(answers.share_of_followers(pair, followers=1, seconds=3, pieces=2, rate=1))
