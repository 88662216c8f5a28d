"""Work done ahead of use: its order, its errors, its end."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from offline.data.ahead import map_ahead, read_ahead


class Source:
    """0, 1, 2, ... up to `length`, an error in place of `broken`; counts what was drawn of it."""

    def __init__(self, length: int, broken: int | None = None) -> None:
        self.drawn = 0
        self.closed = False
        self.threads: set[threading.Thread] = set()
        self._length = length
        self._broken = broken

    def __iter__(self) -> Iterator[int]:
        try:
            for item in range(self._length):
                self.drawn += 1
                self.threads.add(threading.current_thread())
                if item == self._broken:
                    raise ZeroDivisionError("broken")
                yield item
        finally:
            self.closed = True

    def drawn_after(self, at_least: int) -> int:
        """How many were drawn a while after so many were; time for a thread that draws too many."""
        deadline = time.monotonic() + 10
        while self.drawn < at_least and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        return self.drawn


def received(iterator: Iterator[int]) -> tuple[list[int], bool]:
    """What came, and whether ZeroDivisionError ended it."""
    items = []
    try:
        for item in iterator:
            items.append(item)
    except ZeroDivisionError:
        return items, True
    return items, False


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


# One thread that reads ahead


@pytest.mark.parametrize("depth", [0, 1, 2, 50])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_what_is_read_ahead_keeps_its_order(length: int, depth: int) -> None:
    assert list(read_ahead(Source(length), depth)) == list(range(length))


@pytest.mark.parametrize("depth", [0, 1, 3, 50])
@pytest.mark.parametrize("broken", [0, 2, 6])
def test_an_error_comes_where_its_item_would_have(broken: int, depth: int) -> None:
    assert received(read_ahead(Source(7, broken), depth)) == (list(range(broken)), True)


def test_the_first_error_is_the_one_that_comes() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        list(read_ahead(items(), 5))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_is_drawn_ahead_than_the_depth(depth: int) -> None:
    source = Source(100)
    with closing(read_ahead(source, depth)) as items:
        for taken in range(1, 4):
            next(items)
            assert source.drawn_after(taken + depth) == taken + depth


def test_nothing_is_drawn_before_the_first_item_is_asked_for() -> None:
    source = Source(5)
    items = read_ahead(source, 2)
    assert source.drawn_after(0) == 0
    items.close()


def test_without_depth_items_are_made_when_asked_for_in_the_same_thread() -> None:
    source = Source(5)
    items = read_ahead(source, 0)
    assert [next(items), next(items)] == [0, 1]
    assert source.drawn == 2
    assert source.threads == {threading.current_thread()}
    items.close()
    assert source.closed


def test_items_are_made_while_the_one_before_is_in_use() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        made.set()
        yield 1

    with closing(read_ahead(items(), 1)) as ahead:
        next(ahead)
        assert made.wait(timeout=10)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_closing_early_stops_the_thread_and_closes_what_it_read(depth: int) -> None:
    source = Source(1000)
    with closing(read_ahead(source, depth)) as items:
        next(items)
    drawn = source.drawn
    assert drawn <= 1 + depth
    assert source.closed
    assert source.drawn_after(0) == drawn
    # The fixture sees that the thread is gone.


def test_closing_waits_for_the_item_that_is_being_made_and_no_other() -> None:
    begun, release = threading.Event(), threading.Event()
    made = []

    def items() -> Iterator[int]:
        yield 0
        begun.set()
        release.wait(timeout=10)
        for item in range(1, 10):
            made.append(item)
            yield item

    with closing(read_ahead(items(), 3)) as ahead:
        next(ahead)
        begun.wait(timeout=10)
        threading.Timer(0.1, release.set).start()
    assert made == [1]


def test_an_error_of_the_consumer_stops_the_thread() -> None:
    source = Source(1000)
    with pytest.raises(LookupError), closing(read_ahead(source, 2)) as items:
        for _ in items:
            raise LookupError
    assert source.closed


def test_an_interrupt_while_an_item_is_made_comes_out() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(read_ahead(items(), 3))


# Several threads that work on items


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("length", [0, 1, 3, 20])
def test_results_keep_the_order_of_their_items_however_long_each_takes(
    length: int, workers: int
) -> None:
    def slowly(item: int) -> int:
        time.sleep(0.004 * (item % 3))
        return item * item

    squares = [item * item for item in range(length)]
    assert list(map_ahead(slowly, range(length), workers)) == squares


@pytest.mark.parametrize("broken", [0, 2, 6])
def test_an_error_of_the_function_comes_where_its_result_would_have(broken: int) -> None:
    def invert(item: int) -> float:
        return 1 / (item - broken)

    results = map_ahead(invert, range(7), 2)
    assert [next(results) for _ in range(broken)] == [1 / (i - broken) for i in range(broken)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_in_drawing_an_item_comes_out() -> None:
    _, broken = received(map_ahead(abs, Source(7, 3), 2))
    assert broken


@pytest.mark.parametrize("workers", [1, 3])
def test_at_most_one_item_more_than_workers_is_held(workers: int) -> None:
    source = Source(100)
    with closing(map_ahead(abs, source, workers)) as results:
        for taken in range(1, 5):
            next(results)
            assert source.drawn == taken + workers


def test_items_are_drawn_in_the_calling_thread_and_worked_on_in_others() -> None:
    source = Source(10)
    workers = set(map_ahead(lambda item: threading.current_thread(), source, 2))
    assert source.threads == {threading.current_thread()}
    assert threading.current_thread() not in workers


def test_as_many_items_as_there_are_workers_are_worked_on_at_once() -> None:
    together = threading.Barrier(3, timeout=10)
    assert len(list(map_ahead(lambda item: together.wait(), range(6), 3))) == 6


def test_closing_early_leaves_items_undone_and_no_thread() -> None:
    done = []

    def work(item: int) -> int:
        time.sleep(0.02)
        done.append(item)
        return item

    with closing(map_ahead(work, itertools.count(), 2)) as results:
        next(results)
    assert len(done) <= 4  # the one taken, and at most three that were held


def test_reading_and_mapping_ahead_end_together_when_their_user_does() -> None:
    source = Source(1000)
    with (
        contextlib.suppress(LookupError),
        closing(read_ahead(source, 2)) as items,
        closing(map_ahead(abs, items, 2)) as results,
    ):
        for _ in results:
            raise LookupError
    assert source.closed
    assert source.drawn <= 1 + 2 + 1 + 2
