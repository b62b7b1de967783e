"""Real samples, where they are: LLVIP pairs with their boxes, RoadScene pairs, the four evaluation files."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import raw_sets
from PIL import Image

from verl_mars.data.check import check_files
from verl_mars.data.convert import TooManyRejects
from verl_mars.reports.rows import write_rows_page

REAL = os.environ.get("VERL_MARS_REAL_DATA")
pytestmark = pytest.mark.skipif(REAL is None, reason="VERL_MARS_REAL_DATA names no folder with real samples")
ROWS = {"mars_llvip": 3463, "mars_spatialqa": 80, "mars_nuscenes": 100, "mars_ocr_vqa": 73}


@pytest.fixture
def page_folder(tmp_path):
    """Where pages go: a folder to look into afterwards, if VERL_MARS_PAGES names one."""
    return lambda name: Path(os.environ.get("VERL_MARS_PAGES", tmp_path)) / name


def rows_of(result):
    return [row for part in result.files.values() for file in part for row in pq.read_table(file).to_pylist()]


def test_llvip_pairs_in_llvips_own_layout(tmp_path, run, page_folder):
    root = tmp_path / "raw"
    evaluation = json.loads((Path(REAL) / "mars_eval" / "llvip_eval.json").read_text())
    boxes = {Path(item["content"][0]["image"]).stem: item["ground_truth"] for item in evaluation}
    stems = sorted(path.stem for path in (Path(REAL) / "llvip" / "visible" / "test").glob("*.jpg"))
    assert len(stems) == 6
    for stem in stems:
        for kind in ("visible", "infrared"):
            target = root / kind / "test" / f"{stem}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(REAL) / "llvip" / kind / "test" / f"{stem}.jpg")
        raw_sets.voc(root / "Annotations" / f"{stem}.xml", boxes[stem], (1280, 1024))
    result = run("llvip", root, allow_roots=(Path(REAL),))
    files = result.files["test"]
    assert result.rows == 6 and check_files(files).ok
    for row in rows_of(result):
        assert json.loads(row["reward_model"]["ground_truth"])["boxes"] == boxes[row["extra_info"]["sample_id"]]
        assert row["extra_info"]["image_sizes"] == [[1280, 1024]] * 2
    text = 2 * 1704  # two images of 1702 tokens and two more each
    assert text < result.summary["splits"]["test"]["max_fused_tokens"] < text + 800
    assert write_rows_page(files, page_folder("llvip") / "rows.html", rows=6)


def test_the_llvip_pairs_of_the_evaluation_file(run, page_folder, tmp_path):
    options = {"folder": "mars_eval", "files": "llvip", "rename": "LLVIP:llvip"}
    with pytest.raises(TooManyRejects) as caught:
        run("mars_eval", REAL, options=options)
    assert caught.value.result.summary["rejects"]["by_reason"] == {"missing_image": 3457}
    result = run("mars_eval", REAL, options=options, max_reject=1.0)
    assert result.rows == 6 and check_files(result.files["test"]).ok
    assert write_rows_page(result.files["test"], page_folder("mars_eval") / "rows.html", rows=6)


def test_all_four_evaluation_files_with_pictures_of_their_sizes(tmp_path, run):
    root = tmp_path / "raw"
    root.mkdir()
    pictures = {
        "LLVIP": raw_sets.picture(tmp_path / "1280.jpg", (1280, 1024), quality=60),
        "other": raw_sets.picture(tmp_path / "other.jpg", (64, 48)),
        "depth": raw_sets.depth(tmp_path / "depth.png"),
    }
    for file in (Path(REAL) / "mars_eval").glob("*.json"):
        (root / file.name).symlink_to(file)
        for item in json.loads(file.read_text()):
            for part in item["content"]:
                if part["type"] == "image":
                    target = root / part["image"].removeprefix("data/images/")
                    if not target.exists():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        kind = "depth" if target.suffix == ".png" else "LLVIP" if "LLVIP" in str(target) else "other"
                        os.link(pictures[kind], target)
    result = run("mars_eval", root, allow_roots=(Path(REAL),))
    rows = rows_of(result)
    assert result.rejects == 0 and Counter(row["data_source"] for row in rows) == ROWS
    assert check_files(result.files["test"], max_images=6).ok
    boxes = [
        len(json.loads(r["reward_model"]["ground_truth"])["boxes"]) for r in rows if r["data_source"] == "mars_llvip"
    ]
    assert sum(boxes) == 8302 and max(boxes) == 11
    truths = {row["extra_info"]["sample_id"]: json.loads(row["reward_model"]["ground_truth"]) for row in rows}
    letters = Counter(truth["letter"] for truth in truths.values() if "letter" in truth)
    assert letters == {"A": 18, "B": 22, "C": 17, "D": 16}
    assert all(len(t["choices"]) == 4 and "not the same" in t["choices"] for t in truths.values() if "letter" in t)
    views = [truth["answers"] for key, truth in truths.items() if key.startswith("nuscenes")]
    assert sum(len(answers) > 1 for answers in views) >= 30 and ["uasc", "u a s c"] in views
    assert not any(" or " in answer for answers in views for answer in answers)
    assert any("right in none of 73" in text for text in result.summary["findings"])
    fused = {r["prompt"][0]["content"].replace("<image>", "") for r in rows if r["data_source"] == "mars_llvip"}
    assert len(fused) == 1 and "“bbox_2d”" in fused.pop()


def test_roadscene_pairs_by_a_manifest_of_ones_own(tmp_path, run, page_folder):
    """The pairs have no labels, but pixels answer a question about themselves: where is it hottest?"""
    lines = []
    names = ("upper left", "upper right", "lower left", "lower right")
    for path in sorted((Path(REAL) / "roadscene" / "infrared").glob("*.jpg")):
        heat = np.asarray(Image.open(path).convert("L")).astype(float)
        h, w = heat.shape
        quarters = [
            heat[: h // 2, : w // 2],
            heat[: h // 2, w // 2 :],
            heat[h // 2 :, : w // 2],
            heat[h // 2 :, w // 2 :],
        ]
        hottest = int(np.argmax([quarter.mean() for quarter in quarters]))
        lines.append(
            {
                "id": path.stem,
                "question": "Which quarter of the scene is the hottest on average?",
                "letter": "ABCD"[hottest],
                "choices": list(names),
                "group": str(int(path.stem.split("_")[1]) // 200),
                "sources": [
                    {"name": "visible", "images": f"visible/{path.name}", "question": "Which quarter is the hottest?"},
                    {
                        "name": "infrared",
                        "images": f"infrared/{path.name}",
                        "question": "Which quarter is the hottest?",
                    },
                ],
            }
        )
    assert len(lines) == 120
    root = tmp_path / "raw"
    root.mkdir()
    for kind in ("visible", "infrared"):
        (root / kind).symlink_to(Path(REAL) / "roadscene" / kind)
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = run("manifest", root, allow_roots=(Path(REAL),), val_fraction=0.2, options={"data_source": "roadscene"})
    files = [file for part in result.files.values() for file in part]
    assert result.rows == 120 and set(result.files) == {"train", "val"} and check_files(files).ok
    assert write_rows_page(files, page_folder("roadscene") / "rows.html", rows=6)
