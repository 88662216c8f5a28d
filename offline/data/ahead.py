"""Work done ahead of use, in threads: reading, decompressing and copying let Python's lock go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The items in their order, made by a thread that is up to `depth` of them ahead; 0 has none.

    An error in making one is raised where that item would have come. Closing the iterator, as a
    loop that ends early does, stops the thread after the item that it is making.
    """
    if depth == 0:
        yield from items
        return
    iterator = iter(items)
    end = object()

    def following() -> T | object:
        return next(iterator, end)

    pending: deque[Future[T | object]] = deque()
    with ThreadPoolExecutor(1) as thread:
        try:
            pending.extend(thread.submit(following) for _ in range(depth))
            while (item := pending.popleft().result()) is not end:
                pending.append(thread.submit(following))
                yield item  # type: ignore[misc]
        finally:
            for future in pending:
                future.cancel()


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], workers: int
) -> Generator[R, None, None]:
    """`function` of each item, in their order, with `workers` threads at work.

    One item more than there are workers is held at a time. Items are drawn in the calling thread.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for item in items:
                pending.append(threads.submit(function, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
