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

from verl_mars.data.faults import DataError, SampleError
from verl_mars.data.rows import Made, RowMaker
from verl_mars.data.sample import Reject
from verl_mars.data.stream import Job
from verl_mars.data.truth import explain

CHUNK = 64
SECONDS_ALONE = 2.0
"""Work in this process before others are started, which takes about as long."""
Outcome = Made | dict[str, Any]


def outcomes(
    maker: RowMaker, pending: Iterator[Job | dict[str, Any]], workers: int
) -> Generator[tuple[Job | None, Any], None, None]:
    """(job, row or reject) in the order of ``pending``; (None, reject) for what the converter rejected.

    Raises:
        DataError: a worker process was ended from outside.
    """
    begin = time.monotonic()
    for job in pending:
        yield (job, outcome(maker, job)) if isinstance(job, Job) else (None, job)
        if workers and time.monotonic() - begin >= SECONDS_ALONE:
            break
    else:
        return
    chunks: deque[tuple[list[Job | dict[str, Any]], Future[list[Outcome]]]] = deque()
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (maker,)) as pool:
        try:
            while chunk := list(islice(pending, CHUNK)):
                chunks.append((chunk, pool.submit(_work, [job for job in chunk if isinstance(job, Job)])))
                if len(chunks) > 3 * workers:
                    yield from _joined(*chunks.popleft())
            while chunks:
                yield from _joined(*chunks.popleft())
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process ended too early. If it was killed for its memory, give the same command again with "
                "fewer --workers; finished shards are kept. If a script of your own converts, its calls must stand "
                'under `if __name__ == "__main__":`, because workers import the script'
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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


def _work(jobs: list[Job]) -> list[Made | dict[str, Any]]:
    return [outcome(_worker_maker, job) for job in jobs]
