"""Rows with boxes, and a model whose frame of boxes is unknown: refused before the model loads."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from verl_mars.preflight.data import frame_faults


def test_rows_with_boxes_are_refused_where_the_frame_is_unknown(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    files = {}
    for name, task in (("boxes", "grounding"), ("words", "vqa")):
        files[name] = str(tmp_path / f"{name}.parquet")
        pq.write_table(
            pa.Table.from_pylist([{"extra_info": {"task": "vqa"}}, {"extra_info": {"task": task}}]), files[name]
        )

    def faults(file, settings=None, path=None):
        reward = {
            "reward_manager": {"name": "mars"},
            "reward_kwargs": settings,
            "custom_reward_function": {"path": path},
        }
        model = {"actor_rollout_ref": {"model": {"path": str(tmp_path)}}, "data": {"train_files": [files[file]]}}
        return frame_faults(OmegaConf.create({"reward": reward, **model}))

    (fault,) = faults("boxes")
    assert "boxes.parquet has rows of the task grounding" in fault and "'llava'" in fault
    assert "reward.reward_kwargs.coordinates" in fault
    assert faults("words") == []
    assert faults("boxes", {"coordinates": "thousandths"}) == []
    assert faults("boxes", path="/a/reward.py") == []
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "glm4v"}))
    assert faults("boxes") == []
