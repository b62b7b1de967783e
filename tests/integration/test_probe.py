"""The probe of the toy's own model: it sees; with its visual features zeroed it does not, and that is caught."""

from __future__ import annotations

import json

from out_of_sight import blinded
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.toy.prepare import prepare


def probe(file, model, out):
    arguments = ["probe", str(file), "--model", str(model), "--out", str(out), "--limit", "80", "--max-tokens", "12"]
    result = CliRunner().invoke(app, [*arguments, "--batch", "80", "--fail-below", "blind", "0.02"])
    return result, json.loads((out / "summary.json").read_text())


def test_a_model_that_lost_its_sight_is_caught(tmp_path):
    toy = prepare(progress=False)
    result, found = probe(toy.heldout_file, toy.model, tmp_path / "sees")
    assert result.exit_code == 0, result.output
    assert found["gains"]["blind"]["low"] > 0.2

    result, found = probe(toy.heldout_file, blinded(toy.model, tmp_path / "blinded"), tmp_path / "blind")
    assert result.exit_code == 3 and "--fail-below blind: the gain is" in result.output
    assert "do not show that the model sees its images" in found["verdict"]


def test_a_warm_start_is_misled_on_conflicting_scenes_only(tmp_path):
    """Interference is what the warm start was taught; the probe finds it there, and nowhere else."""
    toy = prepare(progress=False)
    _, found = probe(toy.heldout_file, toy.model, tmp_path / "out")
    import pyarrow.parquet as pq

    regime = {row["index"]: row["regime"] for row in pq.read_table(toy.heldout_file)["extra_info"].to_pylist()}
    lines = [json.loads(line) for line in (tmp_path / "out" / "responses.jsonl").open()]
    right = {(line["index"], line["view"]): line["ground_truth"] for line in lines}
    assert right and found["shares"]["interference"]["value"] > 0.05
    by_regime = {name: [0, 0] for name in set(regime.values())}
    for line in lines:
        if line["view"] == "fused":
            answer = json.loads(line["ground_truth"])["answers"][0]
            by_regime[regime[line["index"]]][0] += f"<answer>{answer}</answer>" in line["response"]
            by_regime[regime[line["index"]]][1] += 1
    share = {name: good / count for name, (good, count) in by_regime.items() if count}
    assert share["conflicting"] == min(share.values()) and share["redundant"] > share["conflicting"] + 0.2
