"""Scoring a view: how likely the old policy finds the batch's responses when it is shown another view of their prompts.

Re-viewed rows go to a TransferQueue partition of their own, verl's ``compute_log_prob`` runs on them as on any others,
and the partition is cleared whatever happens.
"""

from collections.abc import Sequence
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils

from verl_mars.views import ScoredView, Trajectory

PARTITION = "mars_views"

FIELDS = ("prompts", "responses", "response_mask", "position_ids", "old_log_probs")
"""What scoring needs of a training row. The pixels are not among it: no scored view keeps them."""


def rows_of(column: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a column as TransferQueue returns it: nested, or stacked where all have one length."""
    return list(column.unbind())


def read_trajectories(data: Any) -> list[Trajectory]:
    """The trajectories of rows read from TransferQueue (:data:`FIELDS`), without their pixels."""
    tensordict_utils.maybe_fix_3d_position_ids(data)
    prompts, responses, masks, positions = (
        rows_of(data[field]) for field in ("prompts", "responses", "response_mask", "position_ids")
    )
    return [Trajectory(*row, visual_inputs={}) for row in zip(prompts, responses, masks, positions, strict=True)]


def score_views(
    keys: Sequence[str],
    trajectories: Sequence[Trajectory],
    views: Sequence[ScoredView | None],
    old_log_probs: Sequence[torch.Tensor],
    worker_group: Any,
    temperature: float,
    multiple: int,
) -> tuple[list[torch.Tensor], int]:
    """Log-probabilities of each response under its row's view.

    Args:
        keys: (B) of the training rows.
        trajectories: (B) the rows, as the policy was fed them.
        views: (B) what to score each under; ``None``: nothing.
        old_log_probs: (B) of the rows' own view, (R,) each.
        worker_group: verl's actor workers.
        temperature: of the rollout, as for the old log-probs.
        multiple: rows are passed to the workers in a multiple of this; the last one is repeated to fill up.

    Returns:
        (B) tensors (R,) in float32, and the number of rows that the workers scored. Where a row has no view, where its
        view shows it unchanged and on tokens that the policy did not sample, these are the old log-probs.
    """
    result = [values.float().clone() for values in old_log_probs]
    shown = {
        i: seen
        for i, (view, trajectory) in enumerate(zip(views, trajectories, strict=True))
        if view is not None and (seen := view.show(trajectory)) is not None
    }
    if not shown:
        return result, 0
    scored = _compute_log_probs(
        {keys[i]: trajectory for i, trajectory in shown.items()}, worker_group, temperature, multiple
    )
    for i, trajectory in shown.items():
        sampled = trajectories[i].response_mask.bool()
        result[i][sampled] = scored[keys[i]][trajectory.response_mask.bool()]
    return result, len(shown)


def _compute_log_probs(
    rows: dict[str, Trajectory], worker_group: Any, temperature: float, multiple: int
) -> dict[str, torch.Tensor]:
    """verl's ``compute_log_prob`` of rows by key: (R,) float32 each."""
    last_key, last = list(rows.items())[-1]
    filled = {**rows, **{f"{last_key}_again{i}": last for i in range(-len(rows) % multiple)}}
    keys = list(filled)
    fields = [_fields(trajectory) for trajectory in filled.values()]
    tags = [
        {"prompt_len": len(t.prompt), "response_len": len(t.response), "seq_len": len(t.prompt) + len(t.response)}
        for t in filled.values()
    ]
    flags = {"calculate_entropy": False, "compute_loss": False, "temperature": temperature}
    try:
        tq.kv_batch_put(
            keys=keys,
            partition_id=PARTITION,
            fields=tensordict_utils.list_of_dict_to_tensordict(fields),
            tags=tags,
        )
        worker_group.compute_log_prob(KVBatchMeta(keys=keys, tags=tags, partition_id=PARTITION, extra_info=flags))
        data = tq.kv_batch_get(keys=keys, partition_id=PARTITION, select_fields=["log_probs"])
    finally:
        tq.kv_clear(keys=keys, partition_id=PARTITION)
    scored = dict(zip(keys, rows_of(data["log_probs"]), strict=True))
    # A token's log-prob stands where the token before it is.
    return {key: scored[key][-1 - len(row.response) : -1].float() for key, row in rows.items()}


def _fields(trajectory: Trajectory) -> dict[str, Any]:
    """What verl's log-prob pass reads of a row."""
    return {
        "input_ids": torch.cat((trajectory.prompt, trajectory.response)),
        "position_ids": trajectory.position_ids,
        "prompts": trajectory.prompt,
        "responses": trajectory.response,
        "response_mask": trajectory.response_mask,
        "loss_mask": trajectory.response_mask,
        "multi_modal_inputs": dict(trajectory.visual_inputs),
    }
