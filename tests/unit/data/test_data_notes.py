"""Notes of `validate`: what passes the checks and deserves a look."""

import json
import shutil

import raw_sets

from verl_mars.data.row_notes import COPY, ONE_PICTURE, SMALL_BOX, UNALIGNED, RowNotes


def grounding(box, size=(64, 48)):
    truth = {"boxes": [box], "labels": ["car"], "frame": 0, "size": list(size)}
    return {"style": "rule", "ground_truth": json.dumps(truth)}


def notes_of(*rows):
    notes = RowNotes()
    for number, row in enumerate(rows):
        notes.add(row, f"row {number}")
    return notes


def test_an_ordinary_row_has_none(make_row):
    assert notes_of(make_row(0), make_row(1)).texts() == []


def test_one_picture_as_two_sources(make_row, images):
    twice = make_row(0, images=[{"image": str(images[0])}] * 2)
    assert notes_of(make_row(1), twice, twice).texts() == [f"2 rows {ONE_PICTURE} (the first: row 1)."]


def test_boxes_below_a_pixel(make_row):
    row = make_row(0, reward_model=grounding([0.2, 0.3, 0.8, 9.0]), extra={"task": "grounding"})
    assert notes_of(row).counts == {SMALL_BOX: 1}


def test_sources_of_another_size(make_row):
    extra = {"task": "grounding", "image_sizes": [[64, 48], [32, 24]]}
    row = make_row(0, reward_model=grounding([1, 1, 9, 9]), extra=extra)
    assert notes_of(row).counts == {UNALIGNED: 1}


def test_copies_across_splits(make_row, images, tmp_path):
    shutil.copy(images[0], tmp_path / "copy.jpg")
    raw_sets.picture(tmp_path / "other.jpg", seed=9)
    kept = make_row(0)
    copied = make_row(1, images=[{"image": str(tmp_path / "copy.jpg")}, {"image": str(tmp_path / "other.jpg")}])
    assert notes_of(kept, copied).counts == {}  # the same split
    copied["extra_info"]["split"] = "val"
    assert notes_of(kept, copied).counts == {COPY: 1}
    assert notes_of(kept, kept | {"extra_info": kept["extra_info"] | {"split": "val"}}).counts == {}  # a leak: a fault
