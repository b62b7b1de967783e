"""The converter ``manifest``: what a line may hold, what is refused and why."""

import json

import pytest
from converted import by_id, rejects, truth

from verl_mars.errors import DataError
from verl_mars.reward import compute_score


def test_manifest_of_ones_own(raw, run):
    rows = by_id(run("manifest", raw("manifest"), val_fraction=0.5))
    six, lone, pair = rows["six"], rows["mcq"], rows["unaligned"]
    assert [s["images"] for s in six["sources"]] == [[k] for k in range(6)] and truth(six) == {"value": 3}
    assert lone["sources"][0]["images"] == [0, 1] and "A. a road\nB. a yard" in lone["prompt"][0]["content"]
    assert "A. a road\nB. a yard" in lone["sources"][0]["prompt"]
    assert truth(pair)["size"] == [64, 48]
    own = json.loads(pair["sources"][1]["ground_truth"])
    assert own == {"boxes": [[4, 4, 20, 20]], "labels": ["car"], "frame": 1, "size": [40, 32]}
    assert "Is the warmest part on the left?" in rows["0"]["sources"][1]["prompt"]
    assert rows["0"]["sources"][0]["prompt"].startswith("Photograph: <image>\n")
    assert rows["0"]["data_source"] == "manifest"


GOOD = {"id": "new", "question": "q", "answer": "a", "sources": [{"name": "rgb", "images": "rgb/0.jpg"}]}


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("{", "record", "broken JSON"),
        ('"text"', "record", "Input should be"),
        ({**GOOD, "colour": 1}, "record", "colour: unknown key; allowed: answer, letter"),
        (
            {"id": "new", "qestion": "q", **{k: GOOD[k] for k in ("answer", "sources")}},
            "record",
            "did you mean 'question'?",
        ),
        ({k: GOOD[k] for k in ("id", "answer", "sources")}, "record", "question: is missing"),
        ({**GOOD, "answer": True}, "record", "answer: Input should be a valid string or a valid list, given True"),
        (
            {**GOOD, "sources": [{"name": "rgb", "image": "rgb/0.jpg"}]},
            "record",
            "sources[0].image: unknown key; did you mean 'images'?",
        ),
        ({**GOOD, "sources": ["rgb/0.jpg"]}, "record", "sources[0]: Input should be an object with"),
        (
            {**GOOD, "sources": [{"name": "rgb", "images": {"file": "rgb/0.jpg"}}]},
            "record",
            "sources[0].images.file: unknown key",
        ),
        ({**GOOD, "answer": None, "boxes": [[1, 1, 5]], "labels": "car"}, "record", "boxes[0][3]: is missing"),
        ({**GOOD, "answer": None}, "record", "answer, letter, count, boxes"),
        ({**GOOD, "count": 3}, "record", "count and vqa"),
        ({**GOOD, "question": "what is <image>?"}, "media_tag", "<image>"),
        ({**GOOD, "question": " "}, "record", "question"),
        ({**GOOD, "answer": " "}, "answer", "empty"),
        ({**GOOD, "sources": []}, "record", "sources"),
        ({**GOOD, "sources": [{"name": "rgb", "images": []}]}, "source_images", "rgb"),
        ({**GOOD, "sources": [*GOOD["sources"], *GOOD["sources"]]}, "source_name", "2 times"),
        ({**GOOD, "sources": [{"name": "rgb", "images": "no.jpg"}]}, "missing_image", "no.jpg"),
        (
            {**GOOD, "sources": [{"name": "rgb", "images": "../../../etc/hosts"}]},
            "outside_root",
            "is outside of --root",
        ),
        ({**GOOD, "sources": [{"name": "rgb", "images": "/etc/hosts"}]}, "outside_root", "outside of --root"),
        ({**GOOD, "answer": None, "boxes": [[1, 1, 1, 5]], "labels": "car"}, "zero_area", "no area"),
        ({**GOOD, "answer": None, "boxes": [[1, 1, 100, 5]], "labels": "car"}, "box", "64 x 48"),
        (
            {**GOOD, "answer": None, "boxes": [[1, 1, 5, 5]], "labels": "car", "size": [99, 99]},
            "size_mismatch",
            "99 x 99",
        ),
        ({**GOOD, "answer": None, "boxes": [[1, 1, 5, 5]], "labels": "car", "frame": 3}, "box", "image 3"),
        ({**GOOD, "answer": None, "boxes": [[1, 1, 5, 5]], "labels": ["a", "b"]}, "box", "2 labels"),
        ({**GOOD, "answer": None, "letter": "C", "choices": ["a", "b"]}, "choices", "2 choices"),
        ({**GOOD, "task": "math", "answer": ["1", "2"]}, "answer", "one answer"),
        ({**GOOD, "id": 0}, "duplicate_id", "'0'"),
        ({**GOOD, "split": "../up"}, "record", "split"),
    ],
)
def test_a_wrong_line_is_rejected_and_the_others_go_on(raw, run, line, code, says):
    root = raw("manifest")
    with open(root / "manifest.jsonl", "a") as file:
        file.write(
            (line if isinstance(line, str) else json.dumps(line)) + "\n\n" + json.dumps(GOOD | {"id": "end"}) + "\n"
        )
    result = run("manifest", root, max_reject=0.5)
    assert result.rows == 10 and "end" in by_id(result)
    (reject,) = rejects(result)
    assert reject["code"] == code and says in reject["message"], reject
    assert reject["origin"] == "manifest.jsonl, line 10"


def test_a_manifest_that_is_no_text(raw, run):
    root = raw("manifest")
    (root / "manifest.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match="UTF-8"):
        run("manifest", root)


def test_a_manifest_that_is_one_list_is_told_how_to_become_lines(raw, run):
    root = raw("manifest")
    (root / "manifest.jsonl").write_text(json.dumps([GOOD], indent=1))
    with pytest.raises(DataError, match="one object a line is needed: `jq"):
        run("manifest", root)


CHOICES = ["Travel", "Cooking"]
BOX = {"question": "Detect every car.", "boxes": [[1, 2, 30, 40]], "labels": "car"}


def line(**changes):
    given = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return {**given, "sources": changes.get("sources", GOOD["sources"])}


@pytest.mark.parametrize(
    ("changes", "earns"),
    [
        ({"answer": 3}, "three"),
        ({"answer": 3.5}, "3.5"),
        ({"answer": "<answer> 3 </answer>"}, "3"),
        ({"answer": "<answer>3"}, "3"),
        ({"answer": "<think>x</think><answer>3</answer>"}, "3"),
        ({"answer": "#### 3"}, "3"),
        ({"answer": "The answer is 3"}, "3"),
        ({"answer": "$D$"}, "D"),
        ({"answer": ["<answer>3</answer>", "three"]}, "3"),
        ({"task": "math", "answer": "<answer>$\\boxed{5}$</answer>"}, "5"),
        ({"answer": None, "letter": "(B)", "choices": CHOICES}, "Cooking"),
        ({"answer": None, "letter": "<answer>b</answer>", "choices": CHOICES}, "B"),
        ({"answer": None, "letter": "B", "choices": ["(a) Standing", "(b) Sitting"]}, "Sitting"),
        ({"answer": "Cooking", "choices": CHOICES}, "B"),
    ],
)
def test_answers_in_the_markup_of_other_formats(raw, run, changes, earns):
    root = raw("manifest")
    (root / "manifest.jsonl").write_text(json.dumps(line(**changes)) + "\n")
    row = by_id(run("manifest", root, val_fraction=0.0))["new"]
    response = f"<think>t</think><answer>{earns}</answer>"
    assert compute_score("d", response, row["reward_model"]["ground_truth"], row["extra_info"])["acc"] == 1.0
    assert "(a)" not in row["prompt"][0]["content"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"answer": "yes <|im_end|>"}, "<|im_end|>"),
        ({"answer": "yes <image>"}, "<image>"),
        ({**BOX, "answer": None, "labels": ["<|image_pad|>"]}, "<|image_pad|>"),
        ({"sources": [{"name": "<|image_pad|>", "images": "rgb/0.jpg"}]}, "<|image_pad|>"),
        ({**BOX, "answer": None, "boxes": [["1", "2", "30", "40"]]}, "a number is needed"),
        ({**BOX, "answer": None, "frame": True}, "frame"),
        ({"answer": ""}, "not empty"),
        ({"answer": 1, "choices": CHOICES}, "'1' is none of 2 choices"),
    ],
)
def test_what_no_row_may_hold(raw, run, changes, says):
    root = raw("manifest")
    lines = [line(**changes), line(id="right")]
    (root / "manifest.jsonl").write_text("".join(json.dumps(item) + "\n" for item in lines))
    (reject,) = rejects(run("manifest", root, val_fraction=0.0, max_reject=0.5))
    assert reject["sample_id"] in ("new", None) and says in reject["message"]
