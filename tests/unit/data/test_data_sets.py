"""Each data set's converter on a faithful raw layout: what comes out, and what is reported."""

import json

import pyarrow.parquet as pq
import pytest
import raw_sets
from converted import by_id, rejects, rows_of, truth
from PIL import Image

from verl_mars.data.check import check_files
from verl_mars.data.convert import TooManyRejects
from verl_mars.data.schema import ARROW_SCHEMA
from verl_mars.errors import DataError, UserError


@pytest.mark.parametrize("name", raw_sets.SETS)
@pytest.mark.parametrize("images", ["path", "embed"])
def test_every_set_passes_the_checks(name, images, raw, run):
    result = run(name, raw(name), images=images)
    files = [file for part in result.files.values() for file in part]
    report = check_files(files, max_images=result.summary["max_images_per_row"])
    assert report.ok, report.text()
    assert report.rows == result.rows > 0 and result.rejects == 0
    if images == "path":
        assert all(pq.read_schema(file).equals(ARROW_SCHEMA) for file in files)
    indices = [row["extra_info"]["index"] for row in rows_of(result)]
    assert len(set(indices)) == len(indices)
    assert all(source["prompt"] for row in rows_of(result) for source in row["sources"])
    manifest = json.loads((result.out / "summary.json").read_text())
    assert manifest["licence"] and manifest["source"] and manifest["complete"]
    assert sum(part["rows"] for part in manifest["splits"].values()) == result.rows


@pytest.mark.parametrize("name", raw_sets.SETS)
def test_another_layout_is_refused_with_the_one_expected(name, run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        run(name, tmp_path / "empty")
    assert "Expected under --root" in str(caught.value) and "/" in str(caught.value)


def test_llvip(raw, run):
    root = raw("llvip")
    result = run("llvip", root)
    rows = by_id(result)
    assert {s: {r["extra_info"]["sample_id"] for r in rows_of(result, s)} for s in ("train", "test")} == {
        "train": {"010001", "010002", "020001", "020002"},
        "test": {"190001", "190002"},
    }
    for stem, boxes in raw_sets.LLVIP_BOXES.items():
        assert truth(rows[stem]) == {
            "boxes": [list(box) for box in boxes],
            "labels": ["person"] * len(boxes),
            "frame": 0,
            "size": [64, 48],
        }
        assert rows[stem]["extra_info"]["group"] == stem[:2]
        assert [s["name"] for s in rows[stem]["sources"]] == ["visible", "infrared"]
        assert rows[stem]["images"] == [
            {"image": str(root / kind / ("train" if stem < "19" else "test") / f"{stem}.jpg")}
            for kind in ("visible", "infrared")
        ]
    assert result.summary["counts"] == {"frames without a person": 1}
    assert any("infrared image alone" in text for text in result.summary["findings"])


def test_llvip_rejects_what_is_wrong_and_goes_on(raw, run):
    root = raw("llvip")
    raw_sets.voc(root / "Annotations" / "010001.xml", [(5, 5, 5, 9)], (64, 48))
    (root / "Annotations" / "010002.xml").write_text("<annotation>")
    (root / "infrared" / "train" / "020001.jpg").unlink()
    raw_sets.voc(root / "Annotations" / "020002.xml", [(5, 5, 9, 9)], (1280, 1024))
    picture = root / "visible" / "test" / "190001.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])
    raw_sets.picture(root / "visible" / "test" / "190009.jpg")
    with pytest.raises(TooManyRejects) as caught:
        run("llvip", root)
    result = caught.value.result
    assert [r["extra_info"]["sample_id"] for r in rows_of(result)] == ["190002"]
    assert {r["sample_id"]: r["code"] for r in rejects(result)} == {
        "010001": "zero_area",
        "010002": "annotation",
        "020001": "unpaired",
        "020002": "size_mismatch",
        "190001": "truncated_image",
        "190009": "unpaired",
    }
    assert all(reject["origin"] and reject["message"] for reject in rejects(result))
    assert result.summary["rejects"]["by_reason"]["unpaired"] == 2
    assert result.summary["complete"] is False


def test_llvip_reports_a_scene_in_both_splits(raw, run):
    root = raw("llvip")
    for kind in ("visible", "infrared"):
        raw_sets.picture(root / kind / "test" / "010009.jpg")
    raw_sets.voc(root / "Annotations" / "010009.xml", [], (64, 48))
    assert any("scenes or groups" in text for text in run("llvip", root).summary["findings"])


def test_m3fd(raw, run, tmp_path):
    root = raw("m3fd")
    result = run("m3fd", root, val_fraction=0.5, options={"block": "50"})
    rows = by_id(result)
    assert truth(rows["00000"])["labels"] == ["person", "car"]
    assert truth(rows["00030"])["labels"] == ["car", "bus"]
    homes = {}
    for split in result.files:
        for row in rows_of(result, split):
            homes.setdefault(row["extra_info"]["group"], set()).add(split)
            assert row["extra_info"]["group"] == f"block-{int(row['extra_info']['sample_id']) // 50}"
    assert len(homes) > 3 and all(len(splits) == 1 for splits in homes.values())
    assert {split for splits in homes.values() for split in splits} == {"train", "val"}

    official = run("m3fd", root, tmp_path / "meta", options={"split": "meta"})
    assert {name: part["rows"] for name, part in official.summary["splits"].items()} == {"train": 4, "val": 3}
    assert official.summary["counts"] == {"pairs in no list of meta/": 1}
    assert any("split by frame" in text for text in official.summary["findings"])

    raw_sets.voc(root / "Annotation" / "00000.xml", [(1, 1, 5, 5)], (64, 48), name="Horse")
    with pytest.raises(TooManyRejects, match="People, Car"):
        run("m3fd", root, tmp_path / "horse")


def test_m4_instruct(raw, run, tmp_path):
    root = raw("m4_instruct")
    result = run("m4_instruct", root, val_fraction=0.3)
    rows = by_id(result)
    views, covers = rows["nuscenes-2"], rows["ocr_vqa-1"]
    assert [s["name"] for s in views["sources"]] == [f"view_{k}" for k in range(1, 7)]
    assert truth(views) == {"answers": ["two", "2"]} and truth(rows["nuscenes-4"]) == {"answers": ["uasc", "u a s c"]}
    assert truth(covers) == {
        "letter": "C",
        "text": "Crafts, Hobbies & Home",
        "choices": ["Travel", "not the same", "Crafts, Hobbies & Home", "Children's Books"],
    }
    assert (
        "one of six cameras" in views["sources"][0]["prompt"] and "two books" not in covers["prompt"][0]["content"][:60]
    )
    assert "A. Travel\nB. not the same" in covers["prompt"][0]["content"]
    assert result.summary["counts"] == {"records of other data sets": 1}
    assert {"train", "val"} == set(result.files)


def test_m4_reports_that_not_the_same_is_never_right(raw, run):
    root = raw("m4_instruct", rows=44)
    result = run("m4_instruct", root)
    assert any("right in none" in text for text in result.summary["findings"])


def test_m4_keeps_rows_that_share_an_image_together(run, tmp_path):
    records = raw_sets.m4_records(tmp_path / "raw", rows=40)
    for number in range(2, 40, 4):  # chains: each of these shares a picture with the record two before it
        records[number]["image"][0] = records[number - 2]["image"][3]
    (tmp_path / "raw" / "m4_instruct_annotations.json").write_text(json.dumps(records))
    result = run("m4_instruct", tmp_path / "raw", val_fraction=0.5)
    homes = {}
    for split in result.files:
        for row in rows_of(result, split):
            for image in row["images"]:
                homes.setdefault(image["image"], set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values())
    assert not any("images used in" in text for text in result.summary["findings"])


def test_m4_holds_out_the_published_evaluation(raw, run, tmp_path):
    root = raw("m4_instruct")
    raw_sets.mars_eval(tmp_path / "eval")
    held = ",".join(str(tmp_path / "eval" / f"{name}_eval.json") for name in ("nuscenes", "OCR-VQA"))
    with pytest.raises(DataError, match="--allow-root"):
        run("m4_instruct", root, options={"holdout": held})
    result = run("m4_instruct", root, tmp_path / "held", options={"holdout": held}, allow_roots=(tmp_path / "eval",))
    assert {r["extra_info"]["sample_id"] for r in rows_of(result, "test")} == {
        *(f"nuscenes-{n}" for n in (0, 2, 4)),
        *(f"ocr_vqa-{n}" for n in (1, 3, 5)),
    }
    assert not any("holdout" in text for text in result.summary["findings"])


def test_m4_rejects_wrong_records(raw, run):
    root = raw("m4_instruct")
    file = root / "m4_instruct_annotations.json"
    records = json.loads(file.read_text())
    records[1]["conversations"][0]["value"] = "<image> only one tag"
    records[2]["conversations"] += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "B"}]
    records[3]["image"] = records[3]["image"][:5]
    records[4]["conversations"][1]["value"] = "F"
    records[5]["image"][0] = "../../etc/passwd"
    records[6]["conversations"][0]["value"] = raw_sets.OCR_INSTRUCTION + "<image><image> Question: same? [A. x, B. y]"
    file.write_text(json.dumps(records))
    with pytest.raises(TooManyRejects) as caught:
        run("m4_instruct", root)
    assert [(r["sample_id"], r["code"]) for r in rejects(caught.value.result)] == [
        ("nuscenes-0", "image_count"),
        ("ocr_vqa-1", "record"),
        ("nuscenes-2", "image_count"),
        ("ocr_vqa-3", "choices"),
        ("nuscenes-4", "outside_root"),
        ("ocr_vqa-5", "choices"),
    ]
    kept = run("m4_instruct", root, root / "kept", max_reject=1.0, options={"multi_turn": "first"})
    assert "ocr_vqa-1" in by_id(kept)


def test_mars_eval(raw, run):
    result = run("mars_eval", raw("mars_eval"))
    rows = by_id(result)
    assert set(result.files) == {"test"} and len(rows) == 10
    pair = rows["llvip-260044"]
    assert pair["prompt"][0]["content"].startswith("<image><image>Here are two images of the same scene.")
    assert "an image of a scene" in pair["sources"][0]["prompt"] and "two images" not in pair["sources"][0]["prompt"]
    assert truth(pair)["boxes"] == [[1, 1, 20, 30], [30, 8, 64, 48]]
    spatial = rows["spatialqa-0"]
    assert truth(spatial) == {"answers": ["No"]}
    notes = json.loads(spatial["extra_info"]["notes"])
    assert notes["rendered"]["1"]["encoding"] == "turbo"  # a 16-bit depth map would have been all white
    assert truth(rows["nuscenes-2"]) == {"answers": ["two", "2"]}
    assert truth(rows["ocr_vqa-1"])["letter"] == "C"
    assert json.loads(rows["ocr_vqa-1"]["extra_info"]["notes"]) == {"sample_id": "1"}
    assert any("right in none of 3" in text for text in result.summary["findings"])


def test_mars_eval_takes_other_folders(raw, run, tmp_path):
    root = raw("mars_eval")
    (root / "LLVIP").rename(root / "lv")
    moved = tmp_path / "moved"
    (moved / "json").mkdir(parents=True)
    for file in root.glob("*.json"):
        file.rename(moved / "json" / file.name)
    root.rename(moved / "pictures")
    options = {"folder": "json", "images": "pictures", "rename": "LLVIP:lv"}
    assert run("mars_eval", moved, options=options).rows == 10
    for wrong in ({"files": "llvip,coco"}, {"rename": "LLVIP"}, {"colour": "red"}):
        with pytest.raises(UserError):
            run("mars_eval", moved, tmp_path / "wrong", options=options | wrong)


def test_spatialbench(raw, run, tmp_path):
    root = raw("spatialbench")
    result = run("spatialbench", root)
    rows = by_id(result)
    assert truth(rows["counting-0"]) == {"value": 3} and rows["counting-0"]["extra_info"]["task"] == "count"
    assert truth(rows["grounding-grounding_0-0"]) == {
        "boxes": [[4, 5, 30, 40]],
        "labels": ["object"],
        "frame": 0,
        "size": [64, 48],
    }
    assert rows["reach-reach_0"]["extra_info"]["group"] == rows["reach-reach_1"]["extra_info"]["group"]
    assert set(result.files) == {"test"} and result.summary["splits"]["test"]["changed"] == {"turbo": 9}
    split = run("spatialbench", root, tmp_path / "auto", val_fraction=0.5, options={"split": "auto"})
    homes = {}
    for name in split.files:
        for row in rows_of(split, name):
            homes.setdefault(row["extra_info"]["group"], set()).add(name)
    assert all(len(names) == 1 for names in homes.values()) and len(split.files) == 2


def test_spatialqa_conversations(run, tmp_path):
    root = raw_sets.spatialqa(tmp_path / "raw")
    with pytest.raises(TooManyRejects) as caught:
        run("spatialbench", root, options={"file": "spatialqa.json"})
    assert [(r["sample_id"], r["code"]) for r in rejects(caught.value.result)] == [("q3", "record")]
    result = run("spatialbench", root, tmp_path / "first", options={"file": "spatialqa.json", "multi_turn": "first"})
    rows = by_id(result)
    assert set(rows) == {"spatialqa-q0", "spatialqa-q1", "spatialqa-q3"}
    assert rows["spatialqa-q0"]["extra_info"]["question"] == "Is the cup near?"
    assert result.summary["counts"] == {"answers of more than 5 words, left out": 1}


def test_sunrgbd(raw, run, tmp_path):
    root = raw("sunrgbd")
    result = run("sunrgbd", root)
    rows = by_id(result)
    assert {name: part["rows"] for name, part in result.summary["splits"].items()} == {"test": 1, "train": 2}
    bed = rows["kv1/NYUdata/NYU0001"]
    assert truth(bed)["boxes"] == [[5.5, 6, 35.5, 31]] and truth(bed)["labels"] == ["bed"]
    stand = rows["xtion/sun3ddata/home/ha_1/0001"]
    assert truth(stand)["boxes"] == [[50, 30, 64, 48]] and truth(stand)["labels"] == ["night stand"]
    assert stand["extra_info"]["split"] == "test"
    assert result.summary["splits"]["test"]["changed"] == {"boxes cut at the edge": 1, "turbo": 1}
    assert result.summary["counts"] == {"frames that show none of the classes": 1}
    note = json.loads(bed["extra_info"]["notes"])["rendered"]["1"]
    assert 450 < note["near"] < 700 and 4000 < note["far"] < 5100  # so the rotation was undone
    assert Image.open(bed["images"][1]["image"]).mode == "RGB"
    every = run("sunrgbd", root, tmp_path / "all", options={"keep_empty": "true", "classes": "lamp", "split": "hash"})
    assert every.rows == 4 and truth(by_id(every)["kv1/NYUdata/NYU0001"])["labels"] == ["lamp"]


def test_sunrgbd_files_that_are_no_matlab(raw, run):
    root = raw("sunrgbd")
    (root / "SUNRGBDMeta2DBB_v2.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(200))
    with pytest.raises(DataError, match="MATLAB"):
        run("sunrgbd", root)


def test_broken_json_files_say_where(raw, run):
    root = raw("mars_eval")
    file = root / "nuscenes_eval.json"
    file.write_text(file.read_text()[:-200])
    with pytest.raises(DataError, match="nuscenes_eval.json: broken JSON after 2 records"):
        run("mars_eval", root)
