"""Conversions that are killed, and what they leave."""

import os
import signal

import pyarrow.parquet as pq

from verl_mars.data import workers
from verl_mars.data.settings import settings_from

OPTIONS = {"shard_rows": 9, "val_fraction": 0.3, "max_reject": 0.1}


def start_workers_at_once(set_attribute):
    """Make one row alone and all others in workers, four at a time, by a function like ``setattr``."""
    set_attribute(workers, "SERIAL", 1)
    set_attribute(workers, "CHUNK", 4)


def arguments(root, out, **values):
    from verl_mars.data_prep import find_converter

    return find_converter("manifest"), settings_from({"root": root, "out": out, **OPTIONS, **values})


def in_child(work):
    """Run in a forked process; returns its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(call, calls=("replace", "fsync", "unlink")):
    """Patch ``os`` so that the process kills itself right before its n-th such call."""
    count = 0

    def wrap(function):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    for name in calls:
        setattr(os, name, wrap(getattr(os, name)))


def table_of(result, split):
    return [row for file in result.files[split] for row in pq.read_table(file).to_pylist()]
