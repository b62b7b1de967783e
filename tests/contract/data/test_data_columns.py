"""Columns with names that verl uses itself.

Each test first shows what stock verl makes of it, silence above all, and then that `validate` tells it or that a
conversion cannot produce it.
"""

import asyncio
import inspect
from types import SimpleNamespace

import pyarrow as pa
import pytest
from stock_verl import faults, write

from verl_mars import _compat
from verl_mars.data.row_checks import RESERVED_COLUMNS
from verl_mars.data.schema import ARROW_SCHEMA, write_rows
from verl_mars.errors import SampleError

# Columns with taken names


def trajectory_fields(row):
    """What verl stores for a trajectory of this row."""
    import transfer_queue as tq
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

    async def nothing(*_, **__):
        return None

    stored = {}

    async def put(keys, fields, tags, partition_id):
        stored.update({key: fields[key] for key in fields.keys()})

    worker = SimpleNamespace(
        _compute_score=nothing,
        _compute_teacher_logprobs=nothing,
        _compute_multi_modal_inputs=lambda *_: {},
        _compute_position_ids=lambda ids, *_: ids,
    )
    output = AgentLoopOutput(
        prompt_ids=[1, 2],
        response_ids=[3, 4],
        response_mask=[1, 1],
        response_logprobs=[0.0, 0.0],
        reward_score=0.75,
        num_turns=2,
        metrics=AgentLoopMetrics(),
        extra_fields={},
        mm_processor_kwargs={},
        mm_processor_output=[],
    )
    before = tq.async_kv_batch_put
    tq.async_kv_batch_put = put
    try:
        plain = _compat.agent_loop_worker_class()._agent_loop_postprocess
        given = {"uid": "u", "session_id": 0, "global_steps": 1, **row}
        asyncio.run(plain(worker, output, False, **given))
    finally:
        tq.async_kv_batch_put = before
    return stored


def test_a_column_of_a_trajectorys_name_replaces_what_the_model_did():
    assert trajectory_fields({})["rm_scores"].tolist() == [[0.0, 0.75]]
    assert list(trajectory_fields({"rm_scores": 9.0})["rm_scores"]) == [
        9.0
    ]  # stock verl: the row's number is the reward


def status_of(prompt):
    """How verl marks the group of this prompt after its rollouts, which do nothing here."""
    import transfer_queue as tq

    async def rollout(sampling_params, trajectory, *, agent_name, trace=True, **kwargs):
        return None

    marks = []

    async def put(key, partition_id, tag):
        marks.append(tag["status"])

    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(n=2)))
    worker = SimpleNamespace(config=config, _run_agent_loop=rollout)
    before = tq.async_kv_put
    tq.async_kv_put = put
    try:
        run = _compat.agent_loop_worker_class()._run_prompt
        asyncio.run(run(worker, {"uid": "u", "agent_name": "a", **prompt}, {}, {"validate": False}))
    finally:
        tq.async_kv_put = before
    return marks[-1]


@pytest.mark.parametrize("name", ["session_id", "trajectory", "trace", "sampling_params"])
def test_a_column_of_an_arguments_name_fails_every_rollout(name):
    assert status_of({"difficulty": 1}) == "finished"
    assert status_of({name: 1}) == "failure"  # stock verl: a line in a worker's log, and no group
    assert name in RESERVED_COLUMNS


def test_all_taken_names_are_reserved(tmp_path, make_row, stock):
    from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

    write_rows(tmp_path / "a.parquet", [make_row(0)])
    row = stock(tmp_path / "a.parquet")[0]
    added = set(row) - set(ARROW_SCHEMA.names)
    stored = set(trajectory_fields({})) - {"session_id"}
    worker = _compat.agent_loop_worker_class()
    arguments = set(inspect.signature(worker._run_agent_loop).parameters)
    arguments |= set(inspect.signature(worker._agent_loop_postprocess).parameters) | {"session_id"}
    arguments |= set(inspect.signature(SingleTurnAgentLoop.run.__wrapped__).parameters)
    arguments -= {"kwargs", "output", "agent_name", "priority"}  # verl reads the last two from rows on purpose
    missing = (added | stored | arguments) - RESERVED_COLUMNS
    assert not {name for name in missing if not name.startswith("_")}, missing  # Ray adds one of its own


@pytest.mark.parametrize("name", ["session_id", "rm_scores", "raw_prompt", "uid", "responses"])
def test_columns_of_taken_names_are_told_and_cannot_be_written(name, tmp_path, make_row):
    schema = ARROW_SCHEMA.append(pa.field(name, pa.int64()))
    file = write(tmp_path / "a.parquet", [make_row(0) | {name: 1}], schema)
    assert faults(file).counts["column"] == 1
    with pytest.raises(SampleError, match=name):
        write_rows(tmp_path / "b.parquet", [make_row(0) | {name: 1}], schema=schema)
