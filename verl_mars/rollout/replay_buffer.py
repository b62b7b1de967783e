"""verl's replay buffer with a reproducible order, a group filter that asks the method, and waits that end."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from verl_mars import store
from verl_mars.fields import FieldDict
from verl_mars.liveness.waits import WaitsThatEnd
from verl_mars.methods.base import FinishedGroups, Method
from verl_mars.rows import Key, as_list, as_rows
from verl_mars.store import Batch

POLL_KEY = "poll_interval_seconds"
"""Under ``trainer.v1.sampler.sampler_kwargs``; verl's own interval is 2 s, most of a step on a CPU."""

SEED_KEY = "order_seed"
"""Beside it: the seed of the order of rows. The recipes take ``data.seed``."""


def drawn_order(
    seed: int, step: int, index: Sequence[object], responses: Sequence[torch.Tensor], keys: Sequence[str]
) -> list[int]:
    """Numbers of rows in an order that is drawn, yet the same for the same rows.

    Args:
        seed, step: of the run; another order with each.
        index: of each row's prompt in the data set.
        responses: tokens of each row. They stand for the session: with verl's own worker it depends on chance which
            session got which response.
        keys: of the rows; they tell equal responses of a prompt apart.
    """

    def draw(row: int) -> tuple[bytes, int, int]:
        identity = f"{seed} {step} {index[row]} {responses[row].tolist()}"
        _, session, output = Key.parse(keys[row])
        return hashlib.blake2b(identity.encode(), digest_size=8).digest(), session, output

    return sorted(range(len(keys)), key=draw)


class ReproducibleOrder(ReplayBuffer):
    """Orders the rows of a sampled batch by a draw for each of them (:func:`drawn_order`).

    verl orders rows by the time at which they were written, short answers first and under random uids, so two runs with
    one seed would sum their losses in different orders. verl cuts mini-batches in row order (``actor.shuffle=false``):
    in the order of prompt indices each would be a slice of the data file, and the same prompts would always be in the
    last, most off-policy one. Validation is in the order of the data.
    """

    step: int = 0

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Batch, FieldDict]:
        """Sample verl's batch, in our order."""
        self.step = global_steps
        return super().sample(global_steps, partition_id, batch_size)

    def _materialize_batch(self, partition_id: str, *args: object, **kwargs: object) -> Batch:
        batch = super()._materialize_batch(partition_id, *args, **kwargs)
        if len(batch.keys) == 0:
            return batch
        data = store.read(batch, ["index", "responses"])
        index, responses = as_list(data["index"]), as_rows(data["responses"])
        if partition_id == "val":
            parsed = [Key.parse(key) for key in batch.keys]
            order = sorted(range(len(parsed)), key=lambda row: (str(index[row]), *parsed[row][1:]))
        else:
            seed = (self.sampler_kwargs or {}).get(SEED_KEY) or 0
            order = drawn_order(seed, self.step, index, responses, batch.keys)
        batch.reorder(order)
        return batch


@dataclass
class Verdicts:
    """A method's verdicts on finished groups of equal fused rewards, by uid."""

    method: Method
    constant: dict[str, float] = field(default_factory=dict)
    """Nothing is left to learn: the reward at which the group is constant."""
    kept: set[str] = field(default_factory=set)
    """The group still teaches, and is trained on."""


class GroupFilter(ReplayBuffer):
    """Dynamic sampling (``algorithm.filter_groups``) that asks the method before it drops a group.

    verl drops a group whose fused rewards are all equal. Under a method with a group filter, such a group is dropped
    only if the method finds nothing to learn in it. Eviction, refill and their metrics are verl's;
    ``<method>/kept_groups`` counts the groups of a sampled batch that verl alone would have dropped.
    """

    verdicts: Verdicts | None = None
    """None: verl's own filter, on the fused rewards."""

    def ask(self, method: Method | None) -> None:
        """Follow the verdicts of a method from now on, if the run filters groups at all."""
        if method is not None and self.filter_groups_metric is not None:
            self.verdicts = Verdicts(method)

    def _dapo_filtered_keys(self, partition_id: str) -> tuple[set[str], Counter]:
        equal, counts = super()._dapo_filtered_keys(partition_id)
        verdicts = self.verdicts
        if verdicts is None or partition_id == "val":
            return equal, counts
        for gone in verdicts.constant.keys() - equal:
            del verdicts.constant[gone]
        verdicts.kept &= equal
        new = equal - verdicts.constant.keys() - verdicts.kept
        if new:
            self._judge(partition_id, new, verdicts)
        return set(verdicts.constant), Counter(verdicts.constant.values())

    def _judge(self, partition_id: str, uids: set[str], verdicts: Verdicts) -> None:
        keys = [key for key in self.partitions[partition_id] if Key.parse(key).uid in uids]
        data = store.read_keys(keys, partition_id, ["rm_scores", *verdicts.method.group_fields])
        # All outputs of a group have the same reward, or verl would not have named the group.
        scores = data["rm_scores"].to_padded_tensor(0.0) if data["rm_scores"].is_nested else data["rm_scores"]
        groups = FinishedGroups([Key.parse(key).uid for key in keys], scores.sum(-1), data)
        for uid, reward in verdicts.method.verdicts(groups).items():
            if reward is None:
                verdicts.kept.add(uid)
            else:
                verdicts.constant[uid] = reward

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Batch, FieldDict]:
        """Sample verl's batch, and count the groups that it holds thanks to the method."""
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if self.verdicts is not None and partition_id != "val":
            kept = {Key.parse(key).uid for key in batch.keys} & self.verdicts.kept
            metrics[f"{self.verdicts.method.name}/kept_groups"] = len(kept)
        return batch, metrics


def set_poll_interval(buffer: ReplayBuffer) -> None:
    """Take the poll interval from the buffer's ``sampler_kwargs``.

    Raises:
        ValueError: the interval is not a positive number.
    """
    interval = (buffer.sampler_kwargs or {}).get(POLL_KEY, buffer.poll_interval)
    if isinstance(interval, bool) or not isinstance(interval, int | float) or interval <= 0:
        raise ValueError(f"trainer.v1.sampler.sampler_kwargs.{POLL_KEY} = {interval!r}: a positive number is needed")
    buffer.poll_interval = interval


class OrderedReplayBuffer(WaitsThatEnd, GroupFilter, ReproducibleOrder, ReplayBuffer):
    """For the synchronous trainer; may also be named in ``trainer.v1.sampler.custom_sampler`` of a stock run."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        set_poll_interval(self)


class OrderedReplayBufferAsync(WaitsThatEnd, GroupFilter, ReproducibleOrder, ReplayBufferAsync):
    """For the asynchronous trainers."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        set_poll_interval(self)
