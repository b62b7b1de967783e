"""The worked examples of docs/extend.md do what the page says."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
EXAMPLES = dict(re.findall(r"<!-- example: ([\w ]+) -->\n```python\n(.*?)```", PAGE.read_text(), re.S))


def run(name):
    """What an example defines."""
    module = {"__name__": "example"}
    exec(compile(EXAMPLES[name], f"{PAGE.name}: {name}", "exec"), module)
    return SimpleNamespace(**module)


def test_the_page_has_an_example_of_each():
    assert list(EXAMPLES) == ["method", "task", "data set", "family"]


def test_the_method_keeps_a_share_of_the_advantage():
    from verl_mars.methods import Inputs

    method = run("method").Halved({"halved": {"share": 0.25}})
    inputs = Inputs(
        real=torch.tensor([True, True]),
        last_output=torch.arange(2),
        log_probs=torch.tensor([[-1.0, -2.0], [-1.0, -1.0]]),
        view_log_probs=torch.tensor([[-2.0, -1.0], [-1.0, -0.5]]),
        rewards=torch.zeros(2, 2),
        response_mask=torch.ones(2, 2),
        index=["a", "a"],
        config=None,
    )
    result = method.reshape(torch.tensor([[4.0, 4.0], [-4.0, -4.0]]), inputs)
    assert result.advantages.tolist() == [[4.0, 1.0], [-4.0, -1.0]]
    assert method.own_metrics(inputs, result.details) == {"halved/share": 0.5}


def test_the_method_refuses_what_its_settings_do_not_allow():
    with pytest.raises(ValueError, match="algorithm.halved.share = 2"):
        run("method").Halved({"halved": {"share": 2}})


def test_the_task_is_scored_like_any_other(monkeypatch):
    from verl_mars.reward import compute_score
    from verl_mars.tasks import TASKS

    monkeypatch.setitem(TASKS, "yes_no", run("task").YesNo())

    def score(answer, truth='{"answer": "yes"}'):
        response = f"<think>I look.</think><answer>{answer}</answer>"
        return compute_score("my_set", response, truth, {"task": "yes_no", "index": 0})

    assert (score("Yes.")["acc"], score("no")["acc"]) == (1.0, 0.0)
    assert score("perhaps")["error"] == "the answer is neither yes nor no"
    with pytest.raises(ValueError, match="yes_no needs"):
        score("yes", '{"answer": "maybe"}')


def test_the_data_set_is_converted(tmp_path):
    import pyarrow.parquet as pq

    from verl_mars.data.convert import convert
    from verl_mars.data.settings import ConvertSettings

    raw = tmp_path / "raw"
    for folder in ("visible", "thermal"):
        (raw / folder).mkdir(parents=True)
        for number in (1, 2):
            Image.new("RGB", (64, 48), (number, 0, 0)).save(raw / folder / f"{number}.png")
    (raw / "counts.txt").write_text("1 3\n2 0\n3 1\n")  # of 3 there is no picture
    settings = ConvertSettings(root=raw, out=tmp_path / "out", max_reject=0.5)
    result = convert(run("data set").CONVERTER, settings)
    assert (result.rows, result.rejects) == (2, 1)
    rows = pq.read_table(next((tmp_path / "out").glob("*.parquet"))).to_pylist()
    assert [json.loads(row["reward_model"]["ground_truth"]) for row in rows] == [{"value": 3}, {"value": 0}]
    assert [source["name"] for source in rows[0]["sources"]] == ["visible", "thermal"]


def test_the_family_has_a_frame(monkeypatch):
    from verl_mars.vision import families

    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    run("family")
    assert families.frame_named("my_vl").scale((2000, 500), families.FAMILIES["my_vl"].limits) == (2.0, 0.5)
