"""Faults without a word: pictures that the model does not see, rows that vanish, settings that do nothing.

Each test first shows what stock verl makes of it, silence above all, and then that `validate` tells it or that a
conversion cannot produce it.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import raw_sets
from PIL import Image
from stock_verl import faults, images_of, tokens_of, with_type, write

from verl_mars.data.check import check_files
from verl_mars.data.convert import convert
from verl_mars.data.processor import standin_processor
from verl_mars.data.prompt_length import PromptLength
from verl_mars.data.schema import ARROW_SCHEMA, arrow_schema
from verl_mars.data.settings import settings_from
from verl_mars.data_prep import find_converter
from verl_mars.errors import DataError
from verl_mars.vision.families import IMAGE_LIMITS

# Silence: images that the model does not see


@pytest.mark.parametrize("missing", ["empty", "null", "column", "key"])
def test_rows_without_images_train_blind(missing, tmp_path, make_row, stock, processor):
    row = make_row(0, images=[] if missing == "empty" else None if missing == "null" else make_row(0)["images"])
    schema, config = ARROW_SCHEMA, {}
    if missing == "column":
        schema = ARROW_SCHEMA.remove(ARROW_SCHEMA.get_field_index("images"))
    if missing == "key":
        config = {"image_key": "image"}  # a slip of the pen
    file = write(tmp_path / "a.parquet", [row], schema)
    dataset = stock(file, **config)
    message = dataset[0]["raw_prompt"][0]["content"]
    assert message == "<image><image>What is it?"  # stock verl: plain text, no error
    text = processor.apply_chat_template(dataset[0]["raw_prompt"], add_generation_prompt=True, tokenize=False)
    assert "<|image_pad|>" not in text
    report = check_files([file], **config) if config else faults(file)
    assert report.counts["blind"] == 1


@pytest.mark.parametrize("kind", ["16 bit", "float"])
def test_deep_images_are_all_white(kind, tmp_path, make_row, stock):
    suffix = "png" if kind == "16 bit" else "tif"
    values = np.linspace(600, 5000, 64 * 96).reshape(64, 96)
    path = tmp_path / f"depth.{suffix}"
    Image.fromarray(values.astype(np.uint16 if kind == "16 bit" else np.float32)).save(path)
    file = write(tmp_path / "a.parquet", [make_row(0, images=[{"image": str(path)}] * 2)])
    dataset = stock(file)
    shown = np.asarray(images_of(dataset, dataset[0])[0])
    assert shown.min() == 255  # stock verl: nothing but white, no error
    assert faults(file).counts["sixteen_bit"] == 2

    (tmp_path / "raw").mkdir()
    path.rename(tmp_path / "raw" / path.name)
    line = {"id": 1, "question": "q", "answer": "a", "sources": [{"name": "depth", "images": path.name}]}
    (tmp_path / "raw" / "manifest.jsonl").write_text(json.dumps(line))
    result = convert(
        find_converter("manifest"),
        settings_from({"root": tmp_path / "raw", "out": tmp_path / "out", "val_fraction": 0.0}),
    )
    dataset = stock(result.files["train"][0])
    shown = np.asarray(images_of(dataset, dataset[0])[0]).astype(int)
    assert shown.std() > 30 and shown[-1].mean(0)[2] > shown[0].mean(0)[2]  # near rows first: warm there, cold here


def test_exif_turns_are_ignored_on_one_way_and_followed_on_the_other(tmp_path, make_row, stock):
    import datasets

    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (196, 56)).save(path, exif=exif)
    file = write(tmp_path / "a.parquet", [make_row(0, images=[{"image": str(path)}] * 2)])
    dataset = stock(file)
    assert images_of(dataset, dataset[0])[0].size == (196, 56)  # stock verl by path: not turned
    feature = datasets.Image()
    assert feature.decode_example({"path": str(path), "bytes": None}).size == (56, 196)  # by `datasets`: turned
    assert faults(file).counts["exif"] == 2


def test_a_placeholder_in_a_question_moves_the_images(tmp_path, make_row, stock):
    # The author meant: one placeholder a picture, then the question 'What does <image> say?', and forgot a placeholder
    row = make_row(0, prompt=[{"role": "user", "content": "<image>What does <image> say?"}])
    dataset = stock(write(tmp_path / "a.parquet", [row]))
    kinds = [part["type"] for part in dataset[0]["raw_prompt"][0]["content"]]
    assert kinds == ["image", "text", "image", "text"]  # stock verl: the second picture stands inside the question
    (tmp_path / "raw").mkdir()
    raw_sets.picture(tmp_path / "raw" / "a.jpg")
    line = {"id": 1, "question": "What does <image> say?", "answer": "a", "sources": [{"name": "x", "images": "a.jpg"}]}
    (tmp_path / "raw" / "manifest.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match="1 x media_tag"):
        convert(find_converter("manifest"), settings_from({"root": tmp_path / "raw", "out": tmp_path / "out"}))


@pytest.mark.parametrize("tag", ["<image>", "<video>", "<audio>"])
def test_a_placeholder_too_many_stops_verl_and_is_told(tag, tmp_path, make_row, stock):
    row = make_row(0, prompt=[{"role": "user", "content": f"<image><image>What is {tag}?"}])
    file = write(tmp_path / "a.parquet", [row])
    with pytest.raises(AssertionError, match="offset"):
        stock(file)[0]
    report = faults(file)
    assert report.counts["image_count" if tag == "<image>" else "media_tag"] == 1
    assert report.counts["loading"] == 1  # verl's own words come along


# Silence: rows that vanish or merge


def test_rows_without_an_index_all_have_index_zero(tmp_path, make_row, stock):
    file = write(tmp_path / "a.parquet", [make_row(k, extra={"index": None}) for k in range(2)])
    assert [stock(file)[k]["index"] for k in range(2)] == [None, None]
    bare = ARROW_SCHEMA.field("extra_info").type
    bare = with_type("extra_info", pa.struct([field for field in bare if field.name != "index"]))
    without = write(tmp_path / "b.parquet", [make_row(k) for k in range(2)], bare)
    assert [stock(without)[k]["index"] for k in range(2)] == [0, 0]  # stock verl: one trace for all rows
    assert faults(file).counts["index"] == faults(without).counts["index"] == 2


def test_verls_filter_drops_bad_rows_without_failing(tmp_path, make_row, stock):
    bad = make_row(1, images=[{"image": "/missing.jpg"}] * 2)
    file = write(tmp_path / "a.parquet", [make_row(0), bad, make_row(2)])
    options = {"filter_overlong_prompts": True, "max_prompt_length": 4096, "filter_overlong_prompts_workers": None}
    assert len(stock(file, **options)) == 2  # stock verl: one row less, and training goes on
    every = write(tmp_path / "b.parquet", [bad])
    assert len(stock(every, **options)) == 0  # no row at all, and no exception
    assert faults(file).counts["missing_image"] == 2 and faults(every).counts["missing_image"] == 2


def test_long_prompts_are_not_cut_and_not_refused_when_they_are_read(tmp_path, make_row, stock, processor):
    file = write(tmp_path / "a.parquet", [make_row(0)])
    dataset = stock(file, max_prompt_length=16, truncation="error")
    assert tokens_of(dataset, dataset[0], processor) > 16  # stock verl: read without a word; the rollout fails later
    report = faults(file, max_prompt_length=16)
    assert report.counts["too_long"] == 3  # fused, and alone twice
    assert faults(file, max_prompt_length=200).ok


def test_more_images_than_the_engine_takes_are_read_without_a_word(tmp_path, make_row, stock):
    file = write(tmp_path / "a.parquet", [make_row(0)])
    assert len(stock(file)) == 1
    assert faults(file, max_images=1).counts["too_many_images"] == 1 and faults(file, max_images=2).ok


def test_one_picture_in_two_splits_is_nothing_to_verl(tmp_path, make_row, stock):
    files = [write(tmp_path / f"{s}.parquet", [make_row(0, extra={"split": s})]) for s in ("train", "test")]
    assert len(stock(*files)) == 2
    report = faults(files)
    assert report.counts["leak"] == 1 and "train" in str(report.faults[0])


# Silence: settings


def test_pixel_limits_of_the_data_config_do_nothing_and_those_of_the_row_do(tmp_path, make_row, stock, processor):
    plain = write(tmp_path / "a.parquet", [make_row(0)])
    limited = [{"image": image["image"], "min_pixels": 40_000} for image in make_row(0)["images"]]
    own = write(tmp_path / "b.parquet", [make_row(0, images=limited)], arrow_schema(pixel_limits=True))
    free, ignored, kept = stock(plain), stock(plain, min_pixels=40_000, max_pixels=80_000), stock(own)
    assert tokens_of(free, free[0], processor) == tokens_of(
        ignored, ignored[0], processor
    )  # stock verl: no such setting
    assert tokens_of(kept, kept[0], processor) > tokens_of(free, free[0], processor)


def test_verls_patch_size_is_not_qwen3s(tmp_path, make_row, stock):
    import verl

    defaults = (Path(verl.__file__).parent / "trainer" / "config" / "data" / "legacy_data.yaml").read_text()
    assert "image_patch_size: 14" in defaults
    own = standin_processor("qwen3_vl")
    path = raw_sets.picture(tmp_path / "a.png", (600, 330))
    row = make_row(0, images=[{"image": str(path)}] * 2, extra={"image_sizes": [[600, 330]] * 2})
    file = write(tmp_path / "a.parquet", [row])
    stocks = stock(file, processor=own, image_patch_size=14), stock(file, processor=own, image_patch_size=16)
    filtered, rolled_out = (tokens_of(dataset, dataset[0], own) for dataset in stocks)
    assert filtered != rolled_out  # stock verl: the filter counts other tokens than the agent loop
    assert PromptLength(IMAGE_LIMITS["qwen3_vl"], own.tokenizer)(row["prompt"], [(600, 330)] * 2) == rolled_out
    root = raw_sets.make("llvip", tmp_path / "raw")
    result = convert(
        find_converter("llvip"), settings_from({"root": root, "out": tmp_path / "out", "model": "qwen3_vl"})
    )
    assert "data.image_patch_size=16" in result.summary["recipe"]


def test_a_remote_file_that_was_written_again_stays_the_old_one(tmp_path, monkeypatch):
    from verl.utils import fs

    remote = {"hdfs://host/train.parquet": b"old"}
    monkeypatch.setattr(fs, "copy", lambda src, dst: Path(dst).write_bytes(remote[src]))
    first = fs.copy_to_local("hdfs://host/train.parquet", cache_dir=str(tmp_path))
    remote["hdfs://host/train.parquet"] = b"new"
    second = fs.copy_to_local("hdfs://host/train.parquet", cache_dir=str(tmp_path))
    assert first == second and Path(second).read_bytes() == b"old"  # stock verl: the rows of yesterday
    with pytest.raises(DataError, match="old rows"):
        check_files(["hdfs://host/train.parquet"])


def test_relative_paths_work_in_one_folder_only(tmp_path, make_row, stock, pictures, monkeypatch):
    file = write(tmp_path / "a.parquet", [make_row(0, images=[{"image": path.name} for path in pictures])])
    dataset = stock(file)
    monkeypatch.chdir(tmp_path)
    assert images_of(dataset, dataset[0])  # here it works; a Ray worker lives elsewhere
    monkeypatch.chdir("/")
    with pytest.raises(FileNotFoundError):
        images_of(dataset, dataset[0])
    assert faults(file).counts["relative_path"] == 2


@pytest.mark.parametrize("files", ["folder", "pattern"])
def test_folders_and_patterns_are_no_files_to_verl(files, tmp_path, make_row, stock):
    write(
        tmp_path / "only" / "a.parquet" if (tmp_path / "only").mkdir() else tmp_path / "only" / "a.parquet",
        [make_row(0)],
    )
    given = str(tmp_path / "only") if files == "folder" else str(tmp_path / "only" / "*.jsonl")
    with pytest.raises(Exception):  # noqa: B017  # ValueError or an error of `datasets`, far from its reason
        stock(given)
    with pytest.raises(DataError, match="folder" if files == "folder" else "pattern"):
        check_files([given])
