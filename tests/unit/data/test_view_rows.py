"""Views of a data set as rows: what is shown, under which name, and that stock readers take them."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.data.row_checks import RowRules
from verl_mars.data.schema import write_rows
from verl_mars.data.view_rows import KINDS, ViewedRows, parse_kinds, view_row
from verl_mars.errors import DataError, UsageError
from verl_mars.reward import compute_score


def row(folder, number, names=("rgb", "ir"), prompts=(None, "In infrared: <image> what?"), group=None):
    paths = []
    for name in names:
        paths.append(str(folder / f"{number}_{name}.png"))
        Image.new("RGB", (8, 8), (number, len(paths), 0)).save(paths[-1])
    prompts = [*prompts, *[None] * len(names)]
    return {
        "data_source": "set",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A <image>" * len(names)}],
        "images": [{"image": path} for path in paths],
        "ability": "vqa",
        "reward_model": {"style": "rule", "ground_truth": '{"answers": ["fused"]}'},
        "extra_info": {
            "index": number,
            "split": "test",
            "sample_id": f"s{number}",
            "task": "vqa",
            "sources": list(names),
            "image_sizes": [[8, 8]] * len(names),
            "group": group,
        },
        "sources": [
            {"name": name, "images": [i], "prompt": prompts[i], "ground_truth": '{"answers": ["own"]}' if i else None}
            for i, name in enumerate(names)
        ],
    }


def plain(entry):
    """Without the nulls that Parquet fills in."""
    extra = {key: value for key, value in entry["extra_info"].items() if value is not None}
    return {**entry, "extra_info": extra}


def boxed(folder):
    """A row whose infrared boxes are in pixels of the second image."""
    truths = [json.dumps({"boxes": [[0, 0, 4, 4]], "labels": ["person"], "frame": i, "size": [8, 8]}) for i in (0, 1)]
    made = row(folder, 7)
    made["extra_info"]["task"] = "grounding"
    made["reward_model"]["ground_truth"] = truths[0]
    made["sources"][0]["ground_truth"], made["sources"][1]["ground_truth"] = None, truths[1]
    return made


def images(messages):
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return [Path(part["image"]).stem for part in parts if part["type"] == "image"]


def text(messages):
    content = messages[-1]["content"]
    parts = [content] if isinstance(content, str) else [part.get("text", "*") for part in content]
    return "".join(parts)


def test_what_each_view_shows(tmp_path):
    rows = [row(tmp_path, number) for number in range(3)]
    views = {view.name: view for view in ViewedRows(rows, KINDS).views(0)}
    shown = {name: (images(view.messages), text(view.messages)) for name, view in views.items()}
    other = shown.pop("shuffled")
    assert shown == {
        "fused": (["0_rgb", "0_ir"], "A *A *"),
        "rgb": (["0_rgb", "0_rgb"], "A *A *"),
        "ir": (["0_ir"], "In infrared: * what?"),
        "blind": ([], "A A "),
        "without_rgb": (["0_ir"], "A A *"),
        "without_ir": (["0_rgb"], "A *A "),
        "repeat_rgb": (["0_rgb", "0_rgb"], "A *A *"),
        "repeat_ir": (["0_ir", "0_ir"], "A *A *"),
    }
    assert other in [(["1_rgb", "1_ir"], "A *A *"), (["2_rgb", "2_ir"], "A *A *")]
    assert views["ir"].ground_truth == '{"answers": ["own"]}' == views["repeat_ir"].ground_truth
    assert {views[name].ground_truth for name in ("rgb", "blind", "without_rgb")} == {'{"answers": ["fused"]}'}
    assert views["without_rgb"].sources == ("ir",) and views["blind"].sources == ()


def test_subsets_complete_what_shapley_values_need(tmp_path):
    rows = [row(tmp_path, 0, ("a", "b", "c", "d"), ())]
    kinds = ("fused", "mono", "blind", "leave_one_out", "subsets")
    shown = [frozenset(view.sources) for view in ViewedRows(rows, kinds).views(0)]
    assert len(shown) == len(set(shown)) == 2**4


def test_shuffled_images_come_from_another_scene(tmp_path):
    rows = [row(tmp_path, number, group=f"scene {number // 2}") for number in range(6)]
    viewed = ViewedRows(rows, ("shuffled",))
    for number in range(6):
        (view,) = viewed.views(number)
        assert int(images(view.messages)[0][0]) // 2 != number // 2
    alone = ViewedRows([row(tmp_path, number, group="one") for number in range(3)], ("shuffled",))
    assert not list(alone.views(0)) and alone.left_out == {"shuffled": 1}
    again = ViewedRows(rows, ("shuffled",))
    assert [list(again.views(n))[0].messages for n in range(6)] == [list(viewed.views(n))[0].messages for n in range(6)]


def test_views_are_rows_that_stock_readers_take(tmp_path):
    write_rows(tmp_path / "set.parquet", [row(tmp_path, number) for number in range(3)])
    out = tmp_path / "made" / "views.parquet"
    arguments = ["data", "views", str(tmp_path / "set.parquet"), "--out", str(out), "--views", ",".join(KINDS)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 3 * 9 and "without_ir  3 rows" in result.output
    rules = RowRules(need_sources=False)
    assert [problem for entry in rows for problem in rules.problems(plain(entry))] == []
    assert {entry["data_source"] for entry in rows} >= {
        "set@fused",
        "set@rgb",
        "set@ir",
        "set@blind",
        "set@without_rgb",
    }
    assert [entry["extra_info"]["index"] for entry in rows] == list(range(27))
    assert len({entry["extra_info"]["sample_id"] for entry in rows}) == 27
    for entry in rows:
        tags = sum(message["content"].count("<image>") for message in entry["prompt"])
        assert tags == len(entry["images"])
    infrared = next(entry for entry in rows if entry["data_source"] == "set@ir")
    assert infrared["prompt"][-1]["content"] == "In infrared: <image> what?"
    assert infrared["reward_model"]["ground_truth"] == '{"answers": ["own"]}'
    assert infrared["extra_info"]["row"] == 0 and infrared["extra_info"]["view"] == "ir"
    assert CliRunner().invoke(app, arguments).exit_code == 1  # nothing is overwritten


def test_boxes_stay_scorable(tmp_path):
    made = boxed(tmp_path)
    viewed = ViewedRows([made, row(tmp_path, 8)], ("fused", "mono", "blind", "leave_one_out", "repeat", "shuffled"))
    for index, view in enumerate(viewed.views(0)):
        entry = view_row(made, view, index)
        problems = [p.message for p in RowRules(need_sources=False).problems(plain(entry))]
        assert problems == ([] if view.sources else ["image 0 is the boxes' frame, allowed: none"]), view.name
        truth = entry["reward_model"]["ground_truth"]
        answer = '<answer>[{"bbox_2d": [0, 0, 4, 4], "label": "person"}]</answer>'
        assert compute_score("set", answer, truth, entry["extra_info"])["acc"] == 1.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sources": []}, r"row 1 \(s1\): the row has no `sources`"),
        ({"images": []}, "no images, so there is nothing to leave out"),
        ({"sources": [{"name": "blind", "images": [0], "prompt": None, "ground_truth": None}]}, "the name of a view"),
        ({"prompt": [{"role": "user", "content": "no image"}]}, "has 0 <image>, but the row has 2"),
        ({"sources": [{"name": "x", "images": [7], "prompt": None, "ground_truth": None}]}, "names image 7"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, sentence):
    rows = [row(tmp_path, 0), {**row(tmp_path, 1), **change}]
    with pytest.raises(DataError, match=sentence):
        list(ViewedRows(rows, ("fused", "mono")).views(1))


def test_unknown_views_are_refused():
    with pytest.raises(UsageError, match="view 'thermal' is unknown, allowed: fused, mono"):
        parse_kinds("fused,thermal")
    with pytest.raises(UsageError, match="no view is given"):
        parse_kinds(" , ")
    assert parse_kinds("blind, fused") == ("fused", "blind")
