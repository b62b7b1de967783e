"""Whatever raw data hold: a sample becomes a right row or a reject, and the others go on."""

import json
import os
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import raw_sets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verl_mars.data.check import check_files
from verl_mars.data.convert import convert
from verl_mars.data.cures import CURES
from verl_mars.data.sample import Boxes, Converter, ImageRef, Sample, SourceSample
from verl_mars.data.settings import settings_from
from verl_mars.data_prep.manifest import CONVERTER as MANIFEST
from verl_mars.errors import UsageError
from verl_mars.tasks.vqa import VqaTruth

HALF = "half \ud800"
RGB = SourceSample("rgb", (ImageRef("0.jpg"),))
GOOD = Sample("good", "vqa", "What is it?", VqaTruth(answers=["a road"]), (RGB,), "line 1")


class Given(Converter):
    """Yields the samples it was given."""

    name, title, licence, url, layout = "given", "given samples", "none", "none", "0.jpg"

    def __init__(self, samples):
        self.given = samples

    def samples(self, root, options, findings):
        yield from self.given


@pytest.fixture
def convert_samples(tmp_path):
    raw_sets.picture(tmp_path / "raw" / "0.jpg")

    def run(*samples):
        values = {"root": tmp_path / "raw", "out": tmp_path / "out", "val_fraction": 0.0, "max_reject": 0.9}
        return convert(Given(samples), settings_from(values))

    return run


def boxes(*box, size=None, labels=("car",), **others):
    return {"task": "grounding", "truth": Boxes((box,), labels, size=size, **others)}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sample_id": HALF}, "record"),
        ({"question": HALF}, "record"),
        ({"group": HALF, "split": "train"}, "record"),
        ({"ability": HALF}, "record"),
        ({"data_source": HALF}, "record"),
        ({"notes": (("camera", HALF),)}, "record"),
        ({"sources": (replace(RGB, name=HALF),)}, "record"),
        ({"sources": (replace(RGB, label=HALF),)}, "record"),
        ({"sources": (replace(RGB, question=HALF),)}, "record"),
        ({"sources": (replace(RGB, images=(ImageRef(f"{HALF}.jpg"),)),)}, "record"),
        ({"sources": ()}, "source_images"),
        ({"sources": (replace(RGB, images=()),)}, "source_images"),
        ({"sources": (replace(RGB, name=" "),)}, "record"),
        ({"sources": (replace(RGB, name=" ", label="RGB"),)}, "source_name"),
        ({"ability": 7}, "record"),
        ({"sample_id": 7}, "record"),
        ({"task": "paint"}, "task"),
        ({"task": "count"}, "ground_truth"),
        (boxes(1, 1, 5, 5, labels=(HALF,)), "answer"),
        (boxes(1, 1, float("nan"), 5), "record"),
        (boxes(1, 1, float("inf"), 5), "record"),
        (boxes(1, 1, 1e300, 5), "box"),
        (boxes(1, 1, 5, 5, frame=-1), "box"),
        (boxes(1, 1, 5, 5, labels=()), "box"),
        (boxes(5, 5, 1, 1), "box"),
        (boxes(0.1, 0.1, 0.1, 0.5, fractions=True), "zero_area"),
    ],
)
def test_a_sample_that_cannot_be_a_row_is_a_reject(convert_samples, change, code):
    wrong = replace(GOOD, **{"sample_id": "wrong", **change})
    result = convert_samples(replace(GOOD, sample_id="before"), wrong, replace(GOOD, sample_id="after"))
    assert result.summary["rejects"]["by_reason"] == {code: 1}
    rows = pq.read_table(result.files["train"][0]).to_pylist()
    assert [row["extra_info"]["sample_id"] for row in rows] == ["before", "after"]
    (reject,) = (json.loads(line) for line in (result.out / "rejects.jsonl").read_text().splitlines())
    assert reject["sample_id"] == wrong.sample_id and reject["origin"] == "line 1"
    again = convert_samples(replace(GOOD, sample_id="before"), wrong, replace(GOOD, sample_id="after"))
    assert again.summary == result.summary


def test_a_file_whose_name_is_no_text_is_a_reject(raw, run):
    root = raw("llvip")
    for folder in ("visible", "infrared"):
        path = os.fsencode(root / folder / "train")
        os.link(os.path.join(path, b"010001.jpg"), os.path.join(path, b"01000\xff.jpg"))
    os.link(root / "Annotations" / "010001.xml", os.path.join(os.fsencode(root), b"Annotations/01000\xff.xml"))
    result = run("llvip", root, max_reject=0.5)
    assert result.summary["rejects"]["by_reason"] == {"record": 1}
    assert "010001" in str(pq.read_table(result.files["train"][0]).to_pylist())


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(folder)
    for name in ("root", "out"):
        with pytest.raises(UsageError, match=f"--{name}.*UTF-8"):
            settings_from({"root": tmp_path, "out": tmp_path / "out", name: folder})


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("0.jpg"))
ANY = st.recursive(PLAIN, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3))
LINE = {"id": 1, "question": "q", "answer": "a", "sources": [{"name": "rgb", "images": "0.jpg"}]}
KEYS = ["id", "question", "answer", "letter", "choices", "count", "boxes", "labels", "frame", "size", "task", "split"]
KEYS += ["group", "ability", "data_source", "notes", "sources"]
CHANGED = st.dictionaries(st.sampled_from(KEYS), ANY, max_size=3).map(lambda change: json.dumps(LINE | change))
SOURCE = st.dictionaries(st.sampled_from(["name", "images", "label", "question", *KEYS]), ANY, max_size=3)
IN_SOURCE = SOURCE.map(lambda change: json.dumps(LINE | {"sources": [LINE["sources"][0] | change]}))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGED | IN_SOURCE | st.text(max_size=20), max_size=30))
@pytest.mark.slow
def test_a_manifest_of_any_lines_gives_right_rows_and_rejects(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("any")
    raw_sets.picture(folder / "raw" / "0.jpg")
    good = [json.dumps(LINE | {"id": f"good {number}"}) for number in range(2)]
    text = "\n".join([good[0], *lines, good[1]])
    (folder / "raw" / "manifest.jsonl").write_bytes(text.encode(errors="replace"))
    values = {"root": folder / "raw", "out": folder / "out", "max_reject": 1.0}
    result = convert(MANIFEST, settings_from(values))
    files = [file for part in result.files.values() for file in part]
    report = check_files(files)
    assert report.ok, report.text()
    assert report.rows == result.rows >= 2
    assert set(result.summary["rejects"]["by_reason"]) <= set(CURES)
