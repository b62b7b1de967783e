"""Rows out of samples, in order, in this process or in worker processes."""

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from threading import Thread

from pydantic import ValidationError

from verl_mars.config import explain
from verl_mars.data.row_maker import BuiltRow, RowMaker
from verl_mars.data.sample import Reject
from verl_mars.data.splits import Job
from verl_mars.errors import DataError, SampleError
from verl_mars.fields import FieldDict

CHUNK = 64
SERIAL = 512
"""Samples of this process before workers are started: a short conversion needs none."""
Outcome = BuiltRow | FieldDict
Item = Job | FieldDict
"""A sample, or a reject of the converter."""


def outcomes(maker: RowMaker, items: Iterator[Item], workers: int) -> Generator[tuple[Job | None, Outcome], None, None]:
    """(job, row or reject) in the order of ``items``; (None, reject) for a reject of the converter.

    Raises:
        DataError: a worker process was killed.
    """
    for item in items if workers == 0 else islice(items, SERIAL):
        yield (item, outcome(maker, item)) if isinstance(item, Job) else (None, item)
    first = next(items, None)
    if first is None:
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (maker,)) as pool:
        waiting: deque[tuple[list[Item], Future[list[Outcome]]]] = deque()
        chunk = [first, *islice(items, CHUNK - 1)]
        try:
            while chunk or waiting:
                if chunk:
                    waiting.append((chunk, pool.submit(_work, [item for item in chunk if isinstance(item, Job)])))
                if not chunk or len(waiting) > 3 * workers:
                    yield from _joined(*waiting.popleft())
                chunk = list(islice(items, CHUNK))
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process ended too early. If it was killed for its memory, give the same command again with "
                "fewer --workers. If a script of yours converts, its calls must stand under "
                '`if __name__ == "__main__":`, because workers import the script'
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


def reject(job: Job, error: SampleError) -> FieldDict:
    """A line of ``rejects.jsonl``."""
    return {"index": job.index, **asdict(Reject.of(error, job.sample.origin, job.sample.sample_id))}


def _joined(chunk: list[Item], future: Future[list[Outcome]]) -> Iterator[tuple[Job | None, Outcome]]:
    results = iter(future.result())
    for item in chunk:
        yield (item, next(results)) if isinstance(item, Job) else (None, item)


_worker_maker: RowMaker


def _start_worker(maker: RowMaker) -> None:
    global _worker_maker
    _worker_maker = maker
    parent = parent_process()
    if parent is not None:  # workers of a killed parent would wait for work forever
        Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _work(jobs: list[Job]) -> list[Outcome]:
    return [outcome(_worker_maker, job) for job in jobs]
