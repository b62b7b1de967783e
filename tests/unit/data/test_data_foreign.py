"""Data in the formats of other projects: what comes out, what is counted, what is refused."""

import base64
import io
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import raw_sets
from PIL import Image
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.data.check import check_files
from verl_mars.data.convert import TooManyRejects
from verl_mars.errors import DataError, UsageError

PAIR = ["rgb/1.png", "ir/1.png"]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "raw"
    for name, seed in (("rgb/1.png", 1), ("ir/1.png", 2), ("rgb/2.png", 3), ("ir/2.png", 4)):
        raw_sets.picture(folder / name, (64, 48), seed=seed)
    return folder


def write(path, *records):
    text = json.dumps(list(records)) if path.suffix == ".json" else "\n".join(map(json.dumps, records)) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def rows(run):
    """Convert and check: rows by sample id, and the counts."""

    def convert(name, root, **values):
        result = run(name, root, val_fraction=0.0, **values)
        files = [file for part in result.files.values() for file in part]
        report = check_files(files)
        assert report.ok, report.text()
        found = [row for file in files for row in pq.read_table(file).to_pylist()]
        return {row["extra_info"]["sample_id"]: row for row in found}, result.summary["counts"]

    return convert


def rejected(run, name, root, **values):
    try:
        result = run(name, root, val_fraction=0.0, max_reject=1.0, **values)
    except TooManyRejects as error:
        result = error.result
    return [json.loads(line)["message"] for line in (result.out / "rejects.jsonl").read_text().splitlines()]


def truth(row):
    return json.loads(row["reward_model"]["ground_truth"])


def bytes_of(path):
    return path.read_bytes()


# EasyR1, R1-V


def test_easyr1(root, rows):
    write(
        root / "train.jsonl",
        {"id": "v", "problem": "<image><image>Is it safe?", "answer": "yes", "images": PAIR},
        {"id": "c", "problem": "How many cars?", "solution": "<answer> 3 </answer>", "images": PAIR},
        {"id": "m", "problem": "Find x.", "answer": "\\frac{1}{2}", "images": PAIR},
        {"id": "b", "problem": "Which?\nChoices:\n(A) red\n(B) blue", "answer": "(B)", "images": PAIR},
        {"id": "l", "problem": "Which?", "answer": "B. blue", "options": ["A. red", "B. blue"], "images": PAIR},
        {"id": "x", "problem": "Find x.", "answer": "\\boxed{7}", "images": PAIR, "level": 3},
    )
    found, counts = rows("easyr1", root, options={"sources": "rgb=0 ir=1"})
    assert {key: row["extra_info"]["task"] for key, row in found.items()} == {
        **{"v": "vqa", "c": "count", "m": "math", "b": "mcq", "l": "mcq", "x": "math"}
    }
    assert [source["name"] for source in found["v"]["sources"]] == ["rgb", "ir"]
    assert found["v"]["extra_info"]["question"] == "Is it safe?" and truth(found["v"]) == {"answers": ["yes"]}
    assert truth(found["c"]) == {"value": 3} and truth(found["x"]) == {"answer": "7"}
    for key in "bl":
        assert truth(found[key]) == {"letter": "B", "text": "blue", "choices": ["red", "blue"]}
        assert found[key]["extra_info"]["question"] == "Which?\nA. red\nB. blue"
    assert counts == {
        "answers whose <answer> tags were removed": 1,
        "answers whose \\boxed{} was removed": 1,
        "choices that were taken from the question": 1,
        "choices whose own letters were removed": 1,
        "questions whose image tags were removed": 1,
        "records read as count": 1,
        "records read as math": 2,
        "records read as mcq": 2,
        "records read as vqa": 1,
        "records whose key 'level' is not read": 1,
    }


def test_sources_by_name_and_one_an_image(root, rows):
    write(root / "t.jsonl", {"id": "a", "problem": "Is it?", "answer": "yes", "images": ["ir/1.png", "rgb/1.png"]})
    found, _ = rows("easyr1", root, options={"sources": "rgb=rgb/* ir=ir/*"})
    row = found["a"]
    assert [source["name"] for source in row["sources"]] == ["rgb", "ir"]
    assert row["images"][0]["image"].endswith("rgb/1.png")
    found, _ = rows("easyr1", root, out=root.parent / "each")
    assert [source["name"] for source in found["a"]["sources"]] == ["image_1", "image_2"]


@pytest.mark.parametrize(
    ("record", "sources", "says"),
    [
        ({"images": PAIR}, "rgb=0", "image 1 (ir/1.png) is no source's"),
        ({"images": PAIR}, "rgb=0 ir=0", "image 0 is rgb and ir"),
        ({"images": PAIR}, "rgb=0,1 ir=2", "no image for source ir (2)"),
        ({"images": PAIR}, "rgb", "'rgb', but NAME=POSITION"),
        ({"images": []}, "", "no image"),
        ({"images": PAIR, "problem": None}, "", "no problem or question; the record has problem, answer, images"),
        ({"images": PAIR, "problem": "<image>x"}, "", "1 image tags in the question, but 2 images"),
        ({"images": PAIR, "answer": " "}, "", "the answer is empty"),
        ({"images": PAIR, "choices": ["a", "b"], "answer": "C"}, "", "'C' is none of 2 choices"),
        ({"images": PAIR, "choices": ["a", "b"], "answer": "A. b"}, "", "but choice A is 'a'"),
        ({"images": ["https://x.org/1.png"]}, "", "is a URL (https://), not a local file"),
        ({"images": [{"bytes": "text"}]}, "", "images[0]"),
        ({"images": PAIR, "problem": "<|image_pad|>x"}, "", "<|image_pad|>"),
    ],
)
def test_what_cannot_be_read_is_refused(root, run, record, sources, says):
    write(root / "t.jsonl", {"problem": "Is it?", "answer": "yes"} | record)
    (message,) = rejected(run, "easyr1", root, options={"sources": sources} if sources else {})
    assert says in message


def test_several_files_and_broken_ones(root, run):
    write(root / "a.jsonl", {"problem": "Is it?", "answer": "yes", "images": PAIR})
    write(root / "b.jsonl", {"problem": "Is it?", "answer": "yes", "images": PAIR})
    with pytest.raises(UsageError, match=r"several files \(a.jsonl, b.jsonl\): --set file=NAME"):
        run("easyr1", root)
    assert run("easyr1", root, options={"file": "a.jsonl"}, val_fraction=0.0).rows == 1
    (root / "b.jsonl").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(DataError, match="gzip-compressed: `gunzip`"):
        run("easyr1", root, root.parent / "b", options={"file": "b.jsonl"})


def test_boxes_in_other_forms(root, rows, run):
    qwen = json.dumps([{"bbox_2d": [100, 250, 500, 750], "label": "car"}])
    write(root / "t.jsonl", {"id": "a", "problem": "Detect every car.", "answer": qwen, "images": PAIR})
    found, _ = rows("easyr1", root, options={"units": "thousandths"})
    assert truth(found["a"])["boxes"] == [[6.4, 12, 32, 36]]
    write(root / "t.jsonl", {"id": "a", "problem": "Detect every car.", "solution": [10, 10, 20, 20], "images": PAIR})
    found, _ = rows("easyr1", root, out=root.parent / "b", options={"boxes": "cxcywh", "label": "car"})
    assert truth(found["a"])["boxes"] == [[0, 0, 20, 20]]
    assert "boxes without labels: --set label=NAME" in rejected(run, "easyr1", root, out=root.parent / "c")[0]


# verl's own rows


def test_verl_parquet_with_bytes(root, rows):
    row = {
        "data_source": "hiyouga/geometry3k",
        "prompt": [{"role": "user", "content": "<image>Find x. You FIRST think about the reasoning process."}],
        "images": [{"bytes": bytes_of(root / "rgb/1.png"), "path": None}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2\\sqrt{3}"},
        "extra_info": {"split": "train", "index": 4, "answer": "2\\sqrt{3}", "question": "<image>Find x."},
    }
    pq.write_table(pa.Table.from_pylist([row]), root / "train.parquet")
    found, counts = rows("verl_parquet", root)
    converted = found["train-4"]
    assert converted["extra_info"]["question"] == "Find x." and converted["extra_info"]["task"] == "math"
    assert converted["data_source"] == "hiyouga/geometry3k" and converted["extra_info"]["split"] == "train"
    with open(converted["images"][0]["image"], "rb") as file:
        assert file.read() == bytes_of(root / "rgb/1.png")
    assert counts["records read as math"] == 1


# Hugging Face


@pytest.mark.parametrize("form", ["disk", "parquet"])
def test_hugging_face_folders(root, rows, form):
    import datasets

    data = datasets.Dataset.from_dict(
        {
            "question": ["Is it safe?"],
            "answer": ["yes"],
            "rgb": [str(root / "rgb/1.png")],
            "depth": [str(root / "ir/1.png")],
        }
    )
    data = data.cast_column("rgb", datasets.Image()).cast_column("depth", datasets.Image())
    folder = root / "hf"
    if form == "disk":
        datasets.DatasetDict({"train": data, "validation": data}).save_to_disk(str(folder))
    else:
        (folder / "data").mkdir(parents=True)
        for split in ("train", "validation"):
            embedded = [
                {
                    **{"question": "Is it safe?", "answer": "yes"},
                    "rgb": {"bytes": bytes_of(root / "rgb/1.png"), "path": "1.png"},
                    "depth": {"bytes": bytes_of(root / "ir/1.png"), "path": "1.png"},
                }
            ]
            pq.write_table(pa.Table.from_pylist(embedded), folder / "data" / f"{split}-00000-of-00001.parquet")
    options = {"images": "rgb,depth", "sources": "rgb=0 depth=1", "file": "hf"}
    found, _ = rows("hf_datasets", root, options=options, allow_roots=(root,))
    assert {row["extra_info"]["split"] for row in found.values()} == {"train", "validation"} and len(found) == 2
    assert [source["name"] for source in found["train-0"]["sources"]] == ["rgb", "depth"]


# ms-swift, LLaVA


def test_ms_swift(root, rows, run):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "<image><image>Is it safe?"}]
    write(
        root / "train.jsonl",
        {"id": "s", "messages": messages, "images": PAIR, "solution": "<answer>yes</answer>"},
        {"id": "a", "messages": [*messages, {"role": "assistant", "content": "no"}], "images": PAIR},
        {
            "id": "o",
            "messages": [{"role": "user", "content": "<image><image>Find <ref-object> at <bbox>"}],
            "images": PAIR,
            "objects": {"ref": ["car"], "bbox": [[0, 0, 500, 500]], "bbox_type": "norm1000"},
        },
    )
    found, counts = rows("ms_swift", root)
    assert truth(found["s"]) == {"answers": ["yes"]} and truth(found["a"]) == {"answers": ["no"]}
    assert truth(found["o"])["boxes"] == [[0, 0, 32, 24]] and truth(found["o"])["labels"] == ["car"]
    assert counts["system messages left out"] == 2
    write(root / "train.jsonl", {"messages": [*messages, *messages], "images": PAIR, "solution": "yes"})
    assert "2 turns, one is read" in rejected(run, "ms_swift", root, out=root.parent / "b")[0]


def test_llava(root, rows, run):
    turns = [{"from": "human", "value": "<image>\n<image>\nIs it safe?"}, {"from": "gpt", "value": "yes"}]
    write(
        root / "train.json",
        {"id": "1", "image": PAIR, "conversations": turns},
        {"id": "2", "images": PAIR, "conversations": turns * 2},
    )
    assert "2 turns; --set multi_turn=first" in rejected(run, "llava", root)[0]
    found, counts = rows("llava", root, out=root.parent / "b", options={"multi_turn": "first", "sources": "a=0 b=1"})
    assert found["2"]["extra_info"]["question"] == "Is it safe?" and truth(found["1"]) == {"answers": ["yes"]}
    assert counts["records with more than one turn, of which the first was taken"] == 1


# COCO, YOLO

COCO = {
    "images": [
        {"id": 7, "file_name": "1.png", "width": 64, "height": 48},
        {"id": 8, "file_name": "2.png", "width": 64, "height": 48},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    "annotations": [
        {"image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 30], "iscrowd": 0},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 4, 4]},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 64, 48], "iscrowd": 1},
    ],
}


def test_coco(root, rows):
    (root / "annotations.json").write_text(json.dumps(COCO))
    options = {"folder": "rgb", "sources": "rgb={file} ir=ir/{stem}.png"}
    found, counts = rows("coco", root, options=options)
    assert truth(found["rgb/1.png"]) == {
        **{"boxes": [[10, 5, 30, 35], [0, 0, 4, 4]], "labels": ["car", "person"], "frame": 0, "size": [64, 48]}
    }
    assert truth(found["rgb/2.png"])["boxes"] == [] and counts["images without a box"] == 1
    assert counts["annotations of crowds, left out"] == 1
    assert [source["name"] for source in found["rgb/1.png"]["sources"]] == ["rgb", "ir"]
    found, counts = rows("coco", root, out=root.parent / "b", options=options | {"classes": "car"})
    assert found["rgb/1.png"]["extra_info"]["question"] == "Detect every car in the scene."
    assert truth(found["rgb/1.png"])["labels"] == ["car"] and counts["boxes of other classes, left out"] == 1


def test_coco_is_refused_by_name(root, run):
    (root / "annotations.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match="is no COCO file: annotations: is missing"):
        run("coco", root)
    (root / "annotations.json").write_text(json.dumps(COCO))
    with pytest.raises(UsageError, match="--set classes: 'dog' is unknown, allowed: person, car"):
        run("coco", root, options={"classes": "dog"})
    wrong = {
        **COCO,
        "annotations": [{"image_id": 7, "category_id": 9, "bbox": [0, 0, 1, 1]}, {"image_id": 99, "category_id": 1}],
    }
    (root / "annotations.json").write_text(json.dumps(wrong))
    assert rejected(run, "coco", root, options={"folder": "rgb"}) == [
        "category_id: category 9 is not in `categories`",
        "image 99 is not in `images`",
    ]


def test_yolo(root, rows, run):
    for split, name in (("train", "1"), ("val", "2")):
        (root / "images" / split).mkdir(parents=True)
        (root / "rgb" / f"{name}.png").rename(root / "images" / split / f"{name}.png")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "1.txt").write_text("1 0.5 0.5 0.5 0.25\n0 0.1 0.1 0.2 0.2\n")
    (root / "data.yaml").write_text("names:\n  0: person\n  1: car\n")
    found, counts = rows("yolo", root, options={"sources": "rgb={file} ir=ir/{stem}.png"})
    first = found["images/train/1.png"]
    assert truth(first)["boxes"] == [[16, 18, 48, 30], [0, 0, 12.8, 9.6]] and truth(first)["labels"] == [
        "car",
        "person",
    ]
    assert found["images/val/2.png"]["extra_info"]["split"] == "val"
    assert counts["images without a text file, taken as empty"] == 1
    (root / "labels" / "train" / "1.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n")
    assert "oriented boxes and polygons are not read" in rejected(run, "yolo", root, out=root.parent / "b")[0]
    (root / "labels" / "train" / "1.txt").write_text("5 0.1 0.1 0.2 0.2\n")
    assert "class 5, but there are 2 names" in rejected(run, "yolo", root, out=root.parent / "c")[0]
    (root / "labels" / "train" / "1.txt").write_text("0 100 100 20 20\n")
    assert "the unit is fractions" in rejected(run, "yolo", root, out=root.parent / "d")[0]


# The command


def test_sources_and_dry_run_on_the_command_line(root, tmp_path):
    write(root / "t.jsonl", *({"problem": "Is it?", "answer": "yes", "images": PAIR} for _ in range(5)))
    command = ["data", "convert", "easyr1", "--root", str(root), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--sources", "rgb=0", "ir=1", "--dry-run", "2"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("truth: ") == 2 and "  ir: " in result.stdout and "nothing was written" in result.stdout
    assert "counted  2 records read as vqa" in result.stdout and not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, [*command, "--sources", "rgb=0", "ir"])
    assert result.exit_code == 2 and "'ir' is no argument" in result.stderr
    result = CliRunner().invoke(app, [*command, "ir=1"])
    assert result.exit_code == 2 and "'ir=1' is no argument" in result.stderr


# Depth


def test_numpy_depth_and_scale(root, run):
    depth = np.linspace(1000, 50_000, 64 * 48, dtype=np.float64).reshape(48, 64)
    np.save(root / "d.npy", depth)
    source = {"name": "depth", "images": {"path": "d.npy", "kind": "depth", "scale": 0.2}}
    line = {"id": 1, "question": "Is it?", "answer": "yes", "sources": [{"name": "rgb", "images": "rgb/1.png"}, source]}
    write(root / "manifest.jsonl", line)
    result = run("manifest", root, val_fraction=0.0)
    row = pq.read_table(result.files["train"][0]).to_pylist()[0]
    note = json.loads(row["extra_info"]["notes"])["rendered"]["1"]
    assert row["extra_info"]["image_sizes"][1] == [64, 48] and 200 < note["near"] < 600 and 9000 < note["far"] < 10_000
    np.save(root / "d.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "no NumPy array that can be read" in rejected(run, "manifest", root, out=root.parent / "b")[0]
    np.save(root / "d.npy", np.zeros((2, 3, 4)))
    assert "shape (H, W)" in rejected(run, "manifest", root, out=root.parent / "c")[0]


def exr(path, **channels):
    openexr = pytest.importorskip("OpenEXR")
    openexr.File({"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}, channels).write(str(path))


def test_openexr_depth(root, run, monkeypatch):
    depth = np.linspace(1, 5, 64 * 48, dtype=np.float32).reshape(48, 64)
    exr(root / "d.exr", Z=depth, Y=np.zeros_like(depth))
    source = {"name": "depth", "images": {"path": "d.exr", "kind": "depth", "unit": "m"}}
    line = {"id": 1, "question": "Is it?", "answer": "yes", "sources": [{"name": "rgb", "images": "rgb/1.png"}, source]}
    write(root / "manifest.jsonl", line)
    result = run("manifest", root, val_fraction=0.0)
    row = pq.read_table(result.files["train"][0]).to_pylist()[0]
    note = json.loads(row["extra_info"]["notes"])["rendered"]["1"]
    assert row["extra_info"]["image_sizes"][1] == [64, 48] and 1000 < note["near"] < 1200 and 4000 < note["far"] < 5000
    exr(root / "d.exr", R=depth, G=depth, B=depth)
    assert "channels B, G, R; one channel is needed" in rejected(run, "manifest", root, out=root.parent / "b")[0]
    whole = (root / "d.exr").read_bytes()
    for number, content in enumerate((whole[:-40], whole[:60], b"no image", b"")):
        (root / "d.exr").write_bytes(content)
        assert "no OpenEXR image" in rejected(run, "manifest", root, out=root.parent / f"broken{number}")[0]
    (root / "d.exr").write_bytes(whole)
    monkeypatch.setitem(sys.modules, "OpenEXR", None)  # as where the extra is not installed
    assert 'pip install "OpenEXR>=3.3"' in rejected(run, "manifest", root, out=root.parent / "d")[0]


def test_data_urls_of_records_are_read(root, rows):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (9, 9, 9)).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    write(root / "t.jsonl", {"id": "a", "problem": "Is it?", "answer": "yes", "images": [url]})
    found, _ = rows("easyr1", root)
    assert Image.open(found["a"]["images"][0]["image"]).getpixel((0, 0)) == (9, 9, 9)
