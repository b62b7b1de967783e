"""Lines that other projects write, as ``verl-mars score`` reads them."""

import json

import pytest

from verl_mars.reward import compute_score
from verl_mars.reward.predictions import Defaults, PredictionError, plain_truth, read_predictions
from verl_mars.tasks.base import Hints


def tagged(answer):
    return f"<think>a</think><answer>{answer}</answer>"


def write(path, lines):
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("truth", ["B", "(B)", "b.", "B. Cooking", "Cooking"])
def test_a_choice_as_truth_may_be_letter_or_text(truth):
    wanted = {"letter": "B", "text": "Cooking", "choices": ["Travel", "Cooking"]}
    assert plain_truth("mcq", truth, Hints(choices=["Travel", "Cooking"])) == wanted


BOX = '[{"bbox_2d": [1, 2, 30, 40], "label": "car"}]'


@pytest.mark.parametrize(
    "truth",
    [[1, 2, 30, 40], [[1, 2, 30, 40]], json.loads(BOX), json.loads(BOX)[0], BOX, f"<answer>{BOX}</answer>"]
    + [f"```json\n{BOX}\n```"],
)
def test_boxes_as_truth_in_the_forms_of_answers(truth):
    """Without a label any label matches; with one, no other does."""
    read = json.dumps(plain_truth("grounding", truth, Hints(Defaults().label)))
    assert compute_score("d", tagged(BOX), read, {"task": "grounding"})["acc"] == 1.0
    other = compute_score("d", tagged(BOX.replace("car", "dog")), read, {"task": "grounding"})["acc"]
    assert other == (0.0 if "label" in str(truth) else 1.0)


@pytest.mark.parametrize(
    ("task", "truth", "answer"),
    [
        ("math", 3, "3"),
        ("math", 0.5, "1/2"),
        ("mcq", "$B$", "B"),
        ("count", "$3$", "3"),
        ("vqa", "\\boxed{yes}", "yes"),
    ],
)
def test_numbers_and_markup_as_truth(task, truth, answer):
    read = json.dumps(plain_truth(task, truth, Hints("*", None, ["Travel", "Cooking"])))
    assert compute_score("d", tagged(answer), read, {"task": task})["acc"] == 1.0


@pytest.mark.parametrize(
    ("content", "says"),
    [("yes".encode("utf-16"), "UTF-16"), (b"\x1f\x8b\x08", "gzip"), ("{}".encode("utf-16-le"), "byte order mark")],
)
def test_files_of_another_kind_are_named(tmp_path, content, says):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(PredictionError, match=says):
        read_predictions(tmp_path / "p.jsonl", Defaults("vqa"))


LINES = {
    "lmms-eval": {"doc_id": 0, "target": "red", "resps": [[tagged("red")]], "filtered_resps": [tagged("red")]},
    "ms-swift": {"response": tagged("red"), "labels": "red", "messages": [], "images": ["a.jpg"]},
    "EasyR1": {"prompt": "?", "predict": tagged("red"), "ground_truth": "red", "score": 1.0},
    "verl": {"input": "?", "output": tagged("red"), "gts": '{"answers": ["red"]}', "score": 1.0, "step": 3},
    "R1-V": {"problem": "?", "prediction": tagged("red"), "solution": "<answer> red </answer>"},
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_lines_of_other_projects(tmp_path, line):
    (found,) = read_predictions(write(tmp_path / "p.jsonl", [line]), Defaults(task="vqa"))
    assert compute_score("d", found.response, found.ground_truth, found.extra_info)["acc"] == 1.0


def test_tables_and_files_with_a_byte_order_mark(tmp_path):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    line = {"response": tagged("red"), "labels": "red"}
    parquet.write_table(arrow.Table.from_pylist([line]), tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text(f"response,answer\n{tagged('red')},red\n", encoding="utf-8-sig")
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(line).encode() + b"\r\n")
    for name in ("p.parquet", "p.csv", "p.jsonl"):
        (found,) = read_predictions(tmp_path / name, Defaults(task="vqa"))
        assert (found.line, found.response, found.ground_truth) == (1, tagged("red"), {"answers": ["red"]}), name


def test_keys_may_be_named(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"mine": tagged("red"), "yours": "red", "response": "no", "answer": "no"}])
    (found,) = read_predictions(path, Defaults("vqa", response_key="mine", truth_key="yours"))
    assert (found.response, found.ground_truth) == (tagged("red"), {"answers": ["red"]})
    with pytest.raises(PredictionError, match="none of the keys ours"):
        read_predictions(path, Defaults("vqa", response_key="ours"))
