"""Rows out of samples, in order, in this process and in others beside it."""

import os
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any

from pydantic import ValidationError

from verl_mars.data.explain import explain
from verl_mars.data.faults import DataError, SampleError
from verl_mars.data.rows import Made, RowMaker
from verl_mars.data.sample import Reject
from verl_mars.data.stream import Job

CHUNK = 64
SECONDS_ALONE = 1.0
"""Work in this process before others are started, which use as much time to start."""
Outcome = Made | dict[str, Any]
Item = Job | dict[str, Any]
"""A sample, or a reject of the converter."""


def outcomes(maker: RowMaker, pending: Iterator[Item], workers: int) -> Generator[tuple[Job | None, Any], None, None]:
    """(job, row or reject) in the order of ``pending``; (None, reject) for what the converter rejected.

    Raises:
        DataError: a worker process was ended from outside.
    """
    if workers == 0:
        yield from _alone(maker, pending)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (maker,)) as pool:
        try:
            yield from _until_started(pool, workers, _alone(maker, pending))
            yield from _beside(pool, workers, pending)
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process ended too early. If it was killed for its memory, give the same command again with "
                "fewer --workers; finished shards are kept. If a script of your own converts, its calls must stand "
                'under `if __name__ == "__main__":`, because workers import the script'
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _alone(maker: RowMaker, pending: Iterator[Item]) -> Iterator[tuple[Job | None, Any]]:
    for job in pending:
        yield (job, outcome(maker, job)) if isinstance(job, Job) else (None, job)


def _until_started(pool: ProcessPoolExecutor, workers: int, made: Iterator[tuple[Job | None, Any]]) -> Iterator[Any]:
    """What is made in this process until another one is ready; a short conversion starts none."""
    begin = time.monotonic()
    first: list[Future[int]] = []
    for item in made:
        yield item
        if not first and time.monotonic() - begin >= SECONDS_ALONE:
            first = [pool.submit(os.getpid) for _ in range(workers)]
        if first and _any_done(first):
            return


def _any_done(futures: list[Future[int]]) -> bool:
    return any(future.done() for future in futures)


def _beside(pool: ProcessPoolExecutor, workers: int, pending: Iterator[Item]) -> Iterator[tuple[Job | None, Any]]:
    chunks: deque[tuple[list[Item], Future[list[Outcome]]]] = deque()
    while chunk := list(islice(pending, CHUNK)):
        chunks.append((chunk, pool.submit(_work, [job for job in chunk if isinstance(job, Job)])))
        if len(chunks) > 3 * workers:
            yield from _joined(*chunks.popleft())
    while chunks:
        yield from _joined(*chunks.popleft())


def outcome(maker: RowMaker, job: Job) -> Outcome:
    """The row of a sample, or its reject."""
    try:
        return maker.make(job.sample, job.split, job.index)
    except SampleError as error:
        return reject(job, error)
    except ValidationError as error:
        return reject(job, explain(error, "record"))


def reject(job: Job, error: SampleError) -> dict[str, Any]:
    """A line of ``rejects.jsonl``."""
    return {"index": job.index, **asdict(Reject.of(error, job.sample.origin, job.sample.sample_id))}


def _joined(chunk: list[Job | dict[str, Any]], future: Future[list[Outcome]]) -> Iterator[tuple[Job | None, Any]]:
    made = iter(future.result())
    for job in chunk:
        yield (job, next(made)) if isinstance(job, Job) else (None, job)


_worker_maker: RowMaker


def _start_worker(maker: RowMaker) -> None:
    global _worker_maker
    _worker_maker = maker
    parent = parent_process()
    if parent is not None:
        # A killed parent cannot end its workers, and they would wait for work for ever
        Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _work(jobs: list[Job]) -> list[Outcome]:
    return [outcome(_worker_maker, job) for job in jobs]
