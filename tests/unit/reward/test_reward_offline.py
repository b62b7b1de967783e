"""``verl-mars score``: reading predictions, metrics with intervals, the authors' metric, the command."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.reward import cli, compute_score
from verl_mars.reward.evaluate import grouped, metrics_of
from verl_mars.reward.predictions import Defaults, PredictionError, plain_truth, read_predictions
from verl_mars.tasks.base import Hints
from verl_mars.tasks.mcq import choices_in

BOXES = [[10, 10, 50, 50], [60, 60, 90, 90]]


def tagged(answer):
    return f"<think>a</think><answer>{answer}</answer>"


def boxes_answer(*boxes):
    items = json.dumps([{"bbox_2d": box, "label": "person"} for box in boxes])
    return tagged(f"```json\n{items}\n```")


def write(path, lines):
    text = json.dumps(lines) if path.suffix == ".json" else "\n".join(map(json.dumps, lines)) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def command():
    def invoke(*arguments):
        return CliRunner().invoke(app, ["score", *map(str, arguments)], env={"COLUMNS": "200"})

    return invoke


# ---------------------------------------------------------------- reading


def test_lines_in_our_own_form(tmp_path):
    line = {
        "response": tagged("red"),
        "ground_truth": json.dumps({"answers": ["red"]}),
        "extra_info": {"task": "vqa", "index": 9},
        "source": "infrared",
    }
    (found,) = read_predictions(write(tmp_path / "p.jsonl", [line]), Defaults())
    assert (found.line, found.extra_info["index"], found.fields["source"]) == (1, 9, "infrared")
    assert compute_score("d", found.response, found.ground_truth, found.extra_info)["acc"] == 1.0


def test_a_validation_dump_of_verl(tmp_path):
    line = {"input": "?", "output": tagged("3"), "gts": '{"value": 3}', "score": 1.0, "step": 0, "uid": "a_0_0"}
    (found,) = read_predictions(write(tmp_path / "0.jsonl", [line]), Defaults(task="count"))
    assert (found.response, found.ground_truth) == (tagged("3"), '{"value": 3}')


def test_the_file_of_the_authors_inference_script_with_the_questions(tmp_path):
    question = {
        "role": "user",
        "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "Pick. [A. no, B. Cats, C. Dogs]."}],
        "ground_truth": "B",
    }
    rows = write(tmp_path / "questions.json", [question])
    path = write(tmp_path / "out.json", [{"content": [tagged("B. Cats")], "ground_truth": "B"}])
    (found,) = read_predictions(path, Defaults(task="mcq"), rows)
    assert found.ground_truth == {"letter": "B", "text": "Cats", "choices": ["no", "Cats", "Dogs"]}
    with pytest.raises(PredictionError, match="names none of 0 choices; give the choices"):
        read_predictions(path, Defaults(task="mcq"))


def test_rows_of_a_parquet_lend_what_lines_lack(tmp_path):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    truth = json.dumps({"boxes": BOXES[:1], "labels": ["person"], "frame": 0, "size": [100, 100]})
    info = {"task": "grounding", "index": 5, "image_sizes": [[100, 100]]}
    table = arrow.Table.from_pylist(
        [{"data_source": "llvip", "reward_model": {"ground_truth": truth, "style": "rule"}, "extra_info": info}]
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    path = write(tmp_path / "p.jsonl", [{"response": boxes_answer(BOXES[0])}])
    (found,) = read_predictions(path, Defaults(), tmp_path / "rows.parquet")
    assert found.extra_info["image_sizes"] == [[100, 100]] and found.fields["data_source"] == "llvip"
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(PredictionError, match="cannot be read as parquet"):
        read_predictions(path, Defaults(), tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no predictions in it"),
        ('{"response": "a", "ground_truth": {}}\n{', "line 2: not JSON"),
        ("[1]", "line 1: .* is not an object"),
        ('{"ground_truth": {}}', "none of the keys response, output, content"),
        ('{"response": 3, "ground_truth": {}}', "the response is int, text is needed"),
        ('{"response": "a"}', "none of the keys ground_truth, gts"),
        ('{"response": "a", "ground_truth": {}}', "no task in the line"),
        ('{"response": "a", "ground_truth": "many", "task": "count"}', "'many' is not one whole number"),
        ("[" * 100_000, "line 1: not JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, says):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(PredictionError, match=says):
        read_predictions(path, Defaults())


def test_many_samples_of_a_row(tmp_path, command):
    lines = [
        {"response": [tagged("red"), tagged("blue")], "ground_truth": "red"},
        {"response": [tagged("blue"), tagged("blue")], "ground_truth": "red"},
        {"response": [tagged("red"), tagged("red")], "ground_truth": "red"},
    ]
    summary = tmp_path / "s.json"
    result = command(write(tmp_path / "p.jsonl", lines), "--task", "vqa", "--summary", summary)
    assert result.exit_code == 0, result.output
    table = json.loads(summary.read_text())["tasks"]["vqa"]["all"]
    assert table["rows"] == 3
    assert table["metrics"]["acc"]["value"] == pytest.approx(3 / 6)
    assert table["metrics"]["pass@2"]["value"] == pytest.approx(2 / 3)


def test_samples_of_one_row_are_resampled_together():
    results = vqa_results(50, 50)
    alone = metrics_of("vqa", results, resamples=2000).metrics["acc"]
    together = metrics_of("vqa", results, resamples=2000, rows=[index // 10 for index in range(100)]).metrics["acc"]
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low), "ten right answers to one row are no ten rows"


def test_bad_files_are_named(tmp_path):
    with pytest.raises(PredictionError, match="none.jsonl: No such file"):
        read_predictions(tmp_path / "none.jsonl", Defaults())
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(PredictionError, match="not UTF-8"):
        read_predictions(tmp_path / "latin.jsonl", Defaults())
    (tmp_path / "object.json").write_text("{}")
    with pytest.raises(PredictionError, match="must hold a list"):
        read_predictions(tmp_path / "object.json", Defaults())
    path = write(tmp_path / "p.jsonl", [{"response": "a", "ground_truth": "x"}] * 2)
    rows = write(tmp_path / "rows.json", [{"ground_truth": "x"}])
    with pytest.raises(PredictionError, match="has 2 predictions, but .* has 1 rows"):
        read_predictions(path, Defaults(), rows)


@pytest.mark.parametrize(
    ("task", "truth", "wanted"),
    [
        ("vqa", "three or 3", {"answers": ["three", "3"]}),
        ("vqa", "Yes", {"answers": ["Yes"]}),
        ("vqa", ["a", "b"], {"answers": ["a", "b"]}),
        ("count", "zero or 0", {"value": 0}),
        ("count", 4, {"value": 4}),
        ("math", "1/2", {"answer": "1/2"}),
        ("grounding", BOXES, {"boxes": BOXES, "labels": ["person"] * 2, "frame": 0, "size": (100, 100)}),
        ("vqa", '{"answers": ["x"]}', '{"answers": ["x"]}'),
        ("vqa", 3, {"answers": ["3"]}),
        ("vqa", "Trick or Treat", {"answers": ["Trick or Treat"]}),
        ("vqa", "blue or green or teal", {"answers": ["blue", "green", "teal"]}),
        ("vqa", "red and blue or blue and red", {"answers": ["red and blue", "blue and red"]}),
        ("vqa", "<think>t</think><answer>red</answer>", {"answers": ["red"]}),
        ("ocr", "Exit 4", {"answers": ["Exit 4"]}),
        ("count", 3.0, {"value": 3}),
        ("math", "{1,2}", {"answer": "{1,2}"}),
        (
            "grounding",
            [{"bbox_2d": BOXES[0], "label": "car"}, {"bbox": BOXES[1]}],
            {"boxes": BOXES, "labels": ["car", "person"], "frame": 0, "size": (100, 100)},
        ),
    ],
)
def test_plain_ground_truths(task, truth, wanted):
    assert plain_truth(task, truth, Hints("person", (100, 100))) == wanted


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        (
            "Choice list : [A. not the same, B. Travel, C. Crafts, Hobbies & Home].",
            ["not the same", "Travel", "Crafts, Hobbies & Home"],
        ),
        ("[A. x, B. y] and later [A. 1, B. 2, C. 3]", ["1", "2", "3"]),
        ("[B. x, C. y]", []),
        ("[A. alone]", []),
        ("no list", []),
    ],
)
def test_choices_in_a_question(question, choices):
    assert choices_in(question) == choices


# ---------------------------------------------------------------- metrics


def grounding_results(*answers):
    truth = {"boxes": BOXES, "labels": ["person"] * 2, "frame": 0, "size": [100, 100]}
    return [compute_score("d", answer, truth, {"task": "grounding"}) for answer in answers]


def test_metrics_by_hand():
    results = grounding_results(boxes_answer(*BOXES), boxes_answer(BOXES[0], [0, 0, 5, 5], [5, 5, 9, 9]), "nothing")
    table = metrics_of("grounding", results)
    values = {key: estimate.value for key, estimate in table.metrics.items()}
    assert values == pytest.approx(
        {
            "acc": (1 + 2 / 5 + 0) / 3,
            "accuracy@0.5": 1 / 3,
            "mIoU": 1.5 / 3,
            "precision": 3 / 5,
            "recall": 3 / 6,
            "F1": 6 / 11,
            "score": ((4 * 1 + 3) / 7 + (4 * 0.4 + 3) / 7) / 3,
            "format": 2 / 3,
            "answered": 2 / 3,
        }
    )
    assert all(e.low <= e.value <= e.high for e in table.metrics.values())


def test_a_metric_over_nothing_is_left_out():
    results = [compute_score("d", "many", {"value": 3}, {"task": "count"})]
    assert "mean abs error" not in metrics_of("count", results).metrics
    results.append(compute_score("d", tagged("5"), {"value": 3}, {"task": "count"}))
    assert metrics_of("count", results).metrics["mean abs error"].value == 2.0
    assert "precision" not in metrics_of("grounding", grounding_results("nothing")).metrics
    with pytest.raises(ValueError, match="no rows"):
        metrics_of("vqa", [])


def vqa_results(right, wrong):
    info, truth = {"task": "vqa"}, {"answers": ["red"]}
    answers = [tagged("red")] * right + [tagged("blue")] * wrong
    return [compute_score("d", answer, truth, info) for answer in answers]


def test_intervals_are_those_of_a_share():
    estimate = metrics_of("vqa", vqa_results(240, 160), resamples=4000).metrics["acc"]
    error = 1.96 * (0.6 * 0.4 / 400) ** 0.5
    assert (estimate.low, estimate.high) == pytest.approx((0.6 - error, 0.6 + error), abs=0.006)


def test_the_same_seed_gives_the_same_interval_and_none_without_resampling():
    results = vqa_results(701, 503)
    assert metrics_of("vqa", results, seed=3) == metrics_of("vqa", results, seed=3)
    # Ends of an interval are multiples of 1/1204: two seeds may agree, eight do not.
    assert len({metrics_of("vqa", results, seed=seed).metrics["acc"] for seed in range(8)}) > 1
    assert metrics_of("vqa", results, resamples=0).metrics["acc"].low is None


def test_groups():
    results = vqa_results(2, 2)
    tables = grouped("vqa", results, ["rgb", "ir", "ir", "rgb"])
    assert [(t.name, t.rows, t.metrics["acc"].value) for t in tables] == [("ir", 2, 0.5), ("rgb", 2, 0.5)]


def test_resampling_in_chunks_changes_nothing(monkeypatch):
    results = vqa_results(30, 20)
    whole = metrics_of("vqa", results)
    monkeypatch.setattr("verl_mars.reward.evaluate._CHUNK", 500)
    assert metrics_of("vqa", results) == whole


# ---------------------------------------------------------------- the command


def llvip_file(tmp_path):
    answers = [
        (boxes_answer(*BOXES), "fused"),
        (boxes_answer(BOXES[0], *[[0, 0, 5, 5]] * 20), "fused"),
        ("I see nobody.", "infrared"),
        (boxes_answer(*BOXES), "infrared"),
    ]
    lines = [{"response": text, "ground_truth": BOXES, "source": source} for text, source in answers]
    return write(tmp_path / "p.jsonl", lines)


def test_the_command_writes_tables_scores_and_summary(tmp_path, command):
    path, out, summary = llvip_file(tmp_path), tmp_path / "scores.jsonl", tmp_path / "summary.json"
    arguments = (path, "--task", "grounding", "--label", "person", "--size", "100x100", "--authors-metric")
    result = command(*arguments, "--out", out, "--summary", summary)
    assert result.exit_code == 0, result.output
    for text in ("grounding: 4 rows", "mIoU", "grounding by source", "infrared", "the authors' metric", "0.625"):
        assert text in result.output
    report = json.loads(summary.read_text())["tasks"]["grounding"]
    assert report["all"]["metrics"]["mIoU"]["value"] == pytest.approx(2.5 / 4)
    assert {t["name"]: t["rows"] for t in report["by"]["source"]} == {"fused": 2, "infrared": 2}
    assert report["errors"] == {"no <answer>...</answer>": 1}
    theirs = report["authors_metric"]
    assert (theirs["rows_counted"], theirs["rows_left_out"]) == (3, 1)
    assert theirs["accuracy"] == pytest.approx(2 / 3) and theirs["mIoU"] == pytest.approx(2.5 / 3)
    scores = [json.loads(line) for line in out.read_text().splitlines()]
    assert [entry["line"] for entry in scores] == [1, 2, 3, 4] and scores[0]["acc"] == 1.0
    again = command(*arguments, "--summary", tmp_path / "again.json")
    assert again.exit_code == 0
    assert (tmp_path / "again.json").read_text() == summary.read_text(), "same seed, same figures"


def test_the_command_takes_frame_and_settings(tmp_path, command):
    line = {
        "response": boxes_answer([100, 100, 500, 500]),
        "ground_truth": [[10, 10, 50, 50]],
        "image_sizes": [[100, 100]],
        "task": "grounding",
    }
    path, summary = write(tmp_path / "p.jsonl", [line]), tmp_path / "s.json"

    def acc(*arguments):
        result = command(path, "--label", "person", "--summary", summary, *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(summary.read_text())["tasks"]["grounding"]["all"]["metrics"]["acc"]["value"]

    assert acc() == 0.0
    assert acc("--coordinates", "qwen3_vl") == 1.0
    assert acc("--set", "coordinates=qwen3_vl") == 1.0
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    assert acc("--model", tmp_path) == 1.0
    assert acc("--model", tmp_path, "--coordinates", "pixel") == 0.0
    assert acc("--variant", "authors") == 0.0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--task", "grounding", "--size", "big"], 2, "--size 'big': WIDTHxHEIGHT"),
        (["--task", "grounding", "--set", "weight"], 2, "--set 'weight': KEY=VALUE is needed"),
        (["--task", "grounding", "--set", "weight=1"], 1, "--set.weight: unknown key"),
        (["--task", "grounding", "--size", "20x20"], 1, "index 1.*leaves the image of 20 x 20 pixels"),
        (
            ["--task", "grounding", "--coordinates", "qwen3_vl"],
            1,
            "the frame of the boxes needs the size of their image",
        ),
        (["--task", "detect"], 1, "'detect' is no task; allowed: grounding"),
        ([], 1, "line 1: no task in the line"),
        (["--task", "grounding", "--coordinates", "qwen4"], 1, "--set.coordinates = 'qwen4': .* no frame of boxes"),
    ],
)
def test_the_command_ends_with_a_sentence(tmp_path, command, arguments, code, says):
    result = command(llvip_file(tmp_path), *arguments)
    assert result.exit_code == code
    assert re.search(says, " ".join(result.output.split())), result.output
    assert "Traceback" not in result.output


def test_mixed_tasks_have_a_table_each(tmp_path, command):
    lines = [
        {"response": tagged("red"), "ground_truth": "red", "task": "vqa", "regime": "dominant"},
        {"response": tagged("blue"), "ground_truth": "red", "task": "vqa", "regime": "redundant"},
        {"response": tagged("3"), "ground_truth": 3, "task": "count"},
    ]
    result = command(write(tmp_path / "p.jsonl", lines), "--by", "regime", "--bootstrap", "0")
    assert result.exit_code == 0, result.output
    for text in ("vqa: 2 rows", "vqa by regime", "dominant", "redundant", "count: 1 rows", "mean abs error"):
        assert text in result.output


def test_numpy_is_not_in_the_summary(tmp_path):
    settings = cli.read_settings("mars", None, None, [])
    report = cli.run(llvip_file(tmp_path), settings, defaults=Defaults("grounding", "person", (100, 100)))
    json.dumps(report, allow_nan=False)
    assert not any(isinstance(value, np.generic) for value in report["tasks"]["grounding"]["all"].values())
