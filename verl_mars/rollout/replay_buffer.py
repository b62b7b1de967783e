"""verl's replay buffer: rows in a reproducible order, a filter that sees anchors, waits that end, a poll interval."""

from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from verl_mars import _compat
from verl_mars.rollout.group_filter import UnionFilter
from verl_mars.rollout.waits import WaitsThatEnd

POLL_KEY = "poll_interval_seconds"
"""Under ``trainer.v1.sampler.sampler_kwargs``; verl's own interval is 2 s, most of a step on a CPU."""


class ReproducibleOrder:
    """Orders the rows of a sampled batch by prompt index, session and output.

    verl's rows come in the order in which they happened to be written, under random uids, so that two runs with one
    seed add up their losses in another order. Mixed into verl's replay buffers.
    """

    def _materialize_batch(self, partition_id: str, *args: Any, **kwargs: Any) -> KVBatchMeta:
        batch = super()._materialize_batch(partition_id, *args, **kwargs)  # type: ignore[misc]
        if len(batch.keys) == 0:
            return batch
        fields = ["index", "responses"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=fields)
        index, responses = _compat.as_list(data["index"]), [row.tolist() for row in data["responses"].unbind()]
        # The response before the session: with verl's own worker it depends on chance which session got which.
        identity = [(str(i), r, *k.split("_")[1:]) for i, r, k in zip(index, responses, batch.keys, strict=True)]
        batch.reorder(sorted(range(len(identity)), key=identity.__getitem__))
        return batch


def set_poll_interval(buffer: ReplayBuffer) -> None:
    """Take the poll interval from the buffer's ``sampler_kwargs``.

    Raises:
        ValueError: an interval that is not a positive number.
    """
    interval = (buffer.sampler_kwargs or {}).get(POLL_KEY, buffer.poll_interval)
    if isinstance(interval, bool) or not isinstance(interval, int | float) or interval <= 0:
        raise ValueError(f"trainer.v1.sampler.sampler_kwargs.{POLL_KEY} = {interval!r}: a positive number is needed")
    buffer.poll_interval = interval


class OrderedReplayBuffer(WaitsThatEnd, UnionFilter, ReproducibleOrder, ReplayBuffer):
    """For the synchronous trainer; may also be named in ``trainer.v1.sampler.custom_sampler`` of a stock run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        set_poll_interval(self)


class OrderedReplayBufferAsync(WaitsThatEnd, UnionFilter, ReproducibleOrder, ReplayBufferAsync):
    """For the asynchronous trainers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        set_poll_interval(self)
