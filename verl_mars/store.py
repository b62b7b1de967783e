"""verl's data plane behind a handful of functions, so that another one changes this file only.

TransferQueue holds a batch's fields by key in a partition (``train``, ``val``, ...); a batch itself is a list of keys
with their tags (:class:`Batch`). Columns come back as tensors, nested where rows differ in length, or as lists of any
values (:func:`verl_mars.rows.as_list`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import transfer_queue as tq
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta as Batch

from verl_mars.fields import Columns, Fields

if TYPE_CHECKING:
    from verl.experimental.agent_loop import AgentLoopManager

__all__ = [
    "Batch",
    "add_texts",
    "clear",
    "drop",
    "keep",
    "keep_all",
    "keys_of",
    "mark_failed",
    "objects",
    "read",
    "read_keys",
    "run_on_rows",
    "submit_validation",
    "write",
]

_OBJECT = "object"
"""The only field of a partition of objects."""


def read(batch: Batch, fields: Sequence[str]) -> TensorDict:
    """The named columns of a batch, rows in the order of its keys."""
    return read_keys(batch.keys, batch.partition_id, fields)


def read_keys(keys: Sequence[str], partition: str, fields: Sequence[str]) -> TensorDict:
    """The named columns of rows that are not a batch yet."""
    return tq.kv_batch_get(keys=list(keys), partition_id=partition, select_fields=list(fields))


def write(batch: Batch, columns: Columns) -> None:
    """Add columns to the rows of a batch: a list of tensors, one a row, becomes a nested tensor; others stay values."""
    fields = {name: _column(rows) for name, rows in columns.items()}
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, len(batch)))


async def mark_failed(uid: str) -> None:
    """Publish that a training prompt failed, so that the replay buffer does not wait for it."""
    await tq.async_kv_put(key=uid, partition_id="train", tag={"status": "failure"})


async def keep(partition: str, key: str, value: object) -> None:
    """Store one object, such as a mapping of tensors, under a key of a separate partition. Tensors are not copied on
    their way out: nobody may write to them."""
    fields = TensorDict({_OBJECT: NonTensorStack(value)}, 1)
    await tq.async_kv_batch_put(keys=[key], partition_id=partition, fields=fields, tags=[{}])


def keep_all(partition: str, values: Fields) -> None:
    """:func:`keep` for several objects by key, in one request; returns once they are stored."""
    if values:
        fields = TensorDict({_OBJECT: NonTensorStack(*values.values())}, len(values))
        tq.kv_batch_put(keys=list(values), partition_id=partition, fields=fields, tags=[{}] * len(values))


def objects(partition: str, keys: Sequence[str]) -> list[Any]:
    """The objects under these keys, in one request."""
    column = read_keys(keys, partition, [_OBJECT])[_OBJECT]
    return [getattr(value, "data", value) for value in column]


def keys_of(partition: str) -> list[str]:
    """All keys of a partition; none if it does not exist."""
    return list((tq.kv_list(partition) or {}).get(partition, {}))


def drop(partition: str, keys: Sequence[str]) -> None:
    """Free the objects under these keys."""
    if keys:
        tq.kv_clear(keys=list(keys), partition_id=partition)


def clear(batch: Batch) -> None:
    """Forget the rows of a batch."""
    tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)


def submit_validation(prompts: Fields, step: int, agent_loops: "AgentLoopManager") -> None:
    """Have prompts rolled out as validation does, into the partition ``val``.

    Args:
        prompts: the columns of a collated batch, ``uid`` among them.
        step: global step of the weights.
        agent_loops: verl's manager of agent loops.
    """
    from verl.utils import tensordict_utils

    batch = tensordict_utils.get_tensordict(dict(prompts))
    tensordict_utils.assign_non_tensor_data(batch, "global_steps", step)
    tensordict_utils.assign_non_tensor_data(batch, "validate", True)
    tag = {"is_prompt": True, "status": "pending", "global_steps": step}
    tq.kv_batch_put(keys=list(prompts["uid"]), partition_id="val", tags=[dict(tag) for _ in prompts["uid"]])
    agent_loops.generate_sequences(batch)


def run_on_rows(
    partition: str,
    rows: Mapping[str, Fields],
    tags: Sequence[Fields],
    run: Callable[[Batch], None],
    results: Sequence[str],
) -> dict[str, dict[str, torch.Tensor]]:
    """Write rows to a separate partition, run workers on them, read columns back and clear the partition.

    Args:
        partition: used by nobody else.
        rows: fields of each row by key.
        tags: of each row.
        run: calls the workers.
        results: columns that the workers add.

    Returns:
        For each result the rows by key. The partition is cleared even if the workers fail.
    """
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    keys = list(rows)
    try:
        fields = list_of_dict_to_tensordict([dict(row) for row in rows.values()])
        tq.kv_batch_put(keys=keys, partition_id=partition, fields=fields, tags=list(tags))
        run(Batch(keys=keys, tags=list(tags), partition_id=partition))
        data = read_keys(keys, partition, results)
    finally:
        tq.kv_clear(keys=keys, partition_id=partition)
    return {name: dict(zip(keys, data[name].unbind(), strict=True)) for name in results}


def add_texts(prompts: TensorDict, name: str, values: list[str]) -> None:
    """Add a text for each prompt of a batch on its way to the agent loops, in the form that verl's workers take."""
    from verl.utils.tensordict_utils import assign_non_tensor_stack

    assign_non_tensor_stack(prompts, name, values)


def _column(rows: Sequence[Any]) -> Any:
    if rows and isinstance(rows[0], torch.Tensor):
        return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)
    return NonTensorStack(*rows)
