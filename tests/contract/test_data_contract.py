"""verl's reader, its agent loop and the real processors, beside what verl_mars.data says about the same rows.

Each test of a fault first shows what stock verl makes of it, silence above all, and then that `validate` tells it or
that a conversion cannot produce it.
"""

import asyncio
import inspect
import io
import json
import os
import pickle
import random
import shlex
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "data"))

import raw_sets  # noqa: E402  # the raw data sets beside the unit tests

from verl_mars import _compat  # noqa: E402
from verl_mars.data.check import check_files  # noqa: E402
from verl_mars.data.cli import find_converter  # noqa: E402
from verl_mars.data.convert import convert  # noqa: E402
from verl_mars.data.faults import DataError, SampleError  # noqa: E402
from verl_mars.data.length import (  # noqa: E402
    FAMILIES,
    PromptLength,
    _first_resize,
    _second_resize,
    family_of,
    load_tokenizer,
    seen_size,
    visual_tokens,
)
from verl_mars.data.processor import load_processor, standin_processor  # noqa: E402
from verl_mars.data.rules import RESERVED_COLUMNS  # noqa: E402
from verl_mars.data.schema import ARROW_SCHEMA, arrow_schema, write_rows  # noqa: E402
from verl_mars.data.settings import settings_from  # noqa: E402
from verl_mars.data.validate import validate  # noqa: E402


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def both(request):
    return request.param, standin_processor(request.param)


@pytest.fixture(scope="module")
def processor():
    return standin_processor("qwen2_5_vl")


@pytest.fixture
def stock(processor, tmp_path, monkeypatch):
    """verl's own data set, as its trainer makes it; settings as keyword arguments."""
    _compat.define_missing_torchvision_ops()
    import datasets
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def load(*files, **config):
        own = config.pop("processor", processor)
        config = {"filter_overlong_prompts": False, "cache_dir": str(tmp_path / "verl")} | config
        return RLHFDataset([str(file) for file in files], own.tokenizer, OmegaConf.create(config), own)

    return load


def images_of(dataset, row):
    """The images as they go to the processor."""
    return dataset._process_multi_modal_info(row["raw_prompt"], dataset.image_patch_size, dataset.config)[0]


def tokens_of(dataset, row, own):
    """Tokens of the prompt, as the agent loop counts them."""
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    text = own.apply_chat_template(row["raw_prompt"], add_generation_prompt=True, tokenize=False)
    images = images_of(dataset, row)
    return build_multimodal_processor_inputs(own, text=[text], images=images)["input_ids"].shape[1]


@pytest.fixture
def pictures(tmp_path):
    return [raw_sets.picture(tmp_path / f"p{k}.jpg", (96, 64), seed=k) for k in range(2)]


@pytest.fixture
def make_row(pictures):
    return partial(raw_sets.row, pictures, (96, 64))


def write(path, rows, schema=ARROW_SCHEMA):
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return str(path)


def with_type(column, kind):
    return ARROW_SCHEMA.set(ARROW_SCHEMA.get_field_index(column), pa.field(column, kind))


def faults(file, **options):
    return validate([file] if isinstance(file, str) else file, sample=2, **options).check


# What passes loads


@pytest.mark.parametrize("name", raw_sets.SETS)
def test_every_converted_set_passes_and_loads(name, both, tmp_path, stock):
    family, own = both
    converter = find_converter(name)
    for images in ("path", "embed"):
        settings = {"root": raw_sets.make(name, tmp_path / images / "raw"), "out": tmp_path / images / "out"}
        result = convert(converter, settings_from(settings | {"images": images, "model": family}))
        files = [file for part in result.files.values() for file in part]
        report = validate(files, model=family, sample=3)
        assert report.ok, report.check.text()
        assert report.rows_loaded == result.rows and report.prompts_processed >= 3
        dataset = stock(*files, processor=own)
        row = dataset[len(dataset) - 1]
        assert isinstance(row["sources"], list) and isinstance(row["sources"][0], dict)
        assert row["index"] == row["extra_info"]["index"]
        assert result.manifest["max_prompt_tokens"] >= tokens_of(dataset, row, own)


def test_the_printed_recipe_is_one_that_verl_takes(tmp_path):
    from hydra import compose, initialize_config_module

    root = raw_sets.make("llvip", tmp_path / "raw")
    out = tmp_path / 'the "first" out [1], of John\'s {two} = x\\y'
    settings = settings_from({"root": root, "out": out, "model": "qwen3_vl"})
    result = convert(find_converter("llvip"), settings)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=shlex.split(" ".join(result.manifest["recipe"])))
    assert (
        list(config.data.train_files) == result.files["train"] and list(config.data.val_files) == result.files["test"]
    )
    assert config.actor_rollout_ref.rollout.limit_images == 2 and config.data.image_patch_size == 16
    assert result.manifest["max_prompt_tokens"] <= config.data.max_prompt_length


def test_files_of_all_sets_and_of_write_rows_go_together(tmp_path, make_row, stock):
    files = [tmp_path / "own.parquet"]
    schema = arrow_schema(extra_info={"regime": pa.string()})
    write_rows(files[0], [make_row(0, extra={"regime": "redundant"})], schema=schema)
    for name in raw_sets.SETS:
        settings = {"root": raw_sets.make(name, tmp_path / name / "raw"), "out": tmp_path / name / "out"}
        result = convert(find_converter(name), settings_from(settings))
        files += [Path(file) for part in result.files.values() for file in part]
    dataset = stock(*files)
    assert check_files(files).rows == len(dataset) > 60
    assert dataset[0]["extra_info"]["regime"] == "redundant" and dataset[1]["extra_info"]["regime"] is None


def test_what_the_agent_loop_gets_of_a_row(tmp_path, make_row, stock):
    from verl.utils.dataset.rl_dataset import collate_fn

    write_rows(tmp_path / "a.parquet", [make_row(0), make_row(1)])
    dataset = stock(tmp_path / "a.parquet")
    batch = collate_fn([dataset[0], dataset[1]])
    assert batch["sources"][1][1] == make_row(1)["sources"][1]
    assert batch["extra_info"][1]["image_sizes"] == [[96, 64], [96, 64]]


# Prompt lengths


def test_resizes_are_those_of_the_two_libraries():
    _compat.define_missing_torchvision_ops()
    from qwen_vl_utils.vision_process import smart_resize as first
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as second

    draw = random.Random(0)
    compared = 0
    for _ in range(20_000):
        factor = draw.choice([28, 32])
        height, width = (int(10 ** draw.uniform(0.5, 4)) for _ in range(2))
        low = draw.choice([4 * factor**2, 65_536, 200_000])
        high = low * draw.choice([1, 2, 10, 100, 4096])
        for theirs, ours in ((first, _first_resize), (second, _second_resize)):
            if max(height, width) / min(height, width) > 200:
                with pytest.raises(ValueError):
                    theirs(height, width, factor, low, high)
                continue
            assert ours(height, width, factor, low, high) == theirs(height, width, factor, low, high)
            compared += 1
    assert compared > 20_000


def test_lengths_are_those_of_the_real_processors(both, tmp_path, stock, make_row):
    """Both resizes, over sizes that meet every branch, with and without limits of the image's own."""
    family, own = both
    model = family_of(own.image_processor)
    assert model == FAMILIES[family]
    length = PromptLength(model, own.tokenizer)
    draw = random.Random(1)
    sizes = [(1280, 1024), (56, 56), (20, 300), (1000, 14), (31, 47), (640, 512), (3000, 20)]
    sizes += [(draw.randint(8, 1500), draw.randint(8, 1500)) for _ in range(8)]
    rows, expected = [], []
    for number, size in enumerate(sizes):
        path = tmp_path / f"{number}.png"
        Image.new("L", size, 90).save(path)
        limits = [(None, None), (None, 30_000), (50_000, None)][number % 3]
        image = {"image": str(path), "min_pixels": limits[0], "max_pixels": limits[1]}
        extra = {"image_sizes": [list(size)] * 2}
        rows.append(make_row(number, extra=extra, images=[image, image]))
        expected.append((size, limits))
    file = write(tmp_path / "a.parquet", rows, arrow_schema(pixel_limits=True))
    dataset = stock(file, processor=own)
    for number, (size, limits) in enumerate(expected):
        row = dataset[number]
        try:
            computed = length(rows[number]["prompt"], [size] * 2, *limits)
        except SampleError as error:
            assert error.code == "aspect_ratio"
            with pytest.raises((ValueError, ZeroDivisionError)):
                tokens_of(dataset, row, own)
            continue
        assert tokens_of(dataset, row, own) == computed, (size, limits)
        shown = images_of(dataset, row)
        grid = own.image_processor(shown)["image_grid_thw"][0]
        width, height = seen_size(size, model, *limits)
        assert (int(grid[1]) * model.patch, int(grid[2]) * model.patch) == (height, width)
        assert visual_tokens(size, model, *limits) == int(grid.prod()) // model.merge**2 + 2


def test_the_text_of_a_checkpoints_tokenizer_is_counted_exactly(processor, tmp_path, make_row):
    processor.save_pretrained(tmp_path / "checkpoint")
    tokenizer = load_tokenizer(str(tmp_path / "checkpoint"))
    length = PromptLength(FAMILIES["qwen2_5_vl"], tokenizer)
    bound = PromptLength(FAMILIES["qwen2_5_vl"])
    chat = make_row(0)["prompt"]
    assert length(chat, [(96, 64)] * 2) < bound(chat, [(96, 64)] * 2)
    write_rows(tmp_path / "a.parquet", [make_row(0)])
    report = validate([str(tmp_path / "a.parquet")], processor=str(tmp_path / "checkpoint"))
    assert report.ok and report.exact and report.max_tokens == length(chat, [(96, 64)] * 2)
    result = convert(
        find_converter("llvip"),
        settings_from(
            {
                "root": raw_sets.make("llvip", tmp_path / "raw"),
                "out": tmp_path / "out",
                "tokenizer": str(tmp_path / "checkpoint"),
            }
        ),
    )
    assert result.manifest["prompt_tokens_are"] == "exact"
    files = [file for part in result.files.values() for file in part]
    assert validate(files, processor=str(tmp_path / "checkpoint")).max_tokens == result.manifest["max_prompt_tokens"]


def test_a_computed_length_that_is_wrong_would_be_told(tmp_path, make_row, monkeypatch):
    from verl_mars.data import length as module

    write_rows(tmp_path / "a.parquet", [make_row(0)])
    monkeypatch.setattr(module, "_first_resize", lambda height, width, *_: (height // 28 * 28 + 28, width // 28 * 28))
    module.visual_tokens.cache_clear()
    report = faults(str(tmp_path / "a.parquet"))
    module.visual_tokens.cache_clear()
    assert report.counts["length"] == 1


def test_checkpoints_that_cannot_be_loaded(tmp_path):
    for load, says in ((load_tokenizer, "no tokenizer"), (load_processor, "no processor")):
        with pytest.raises(DataError, match=says):
            load(str(tmp_path / "nothing"))


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
    assert PromptLength(FAMILIES["qwen3_vl"], own.tokenizer)(row["prompt"], [(600, 330)] * 2) == rolled_out
    root = raw_sets.make("llvip", tmp_path / "raw")
    result = convert(
        find_converter("llvip"), settings_from({"root": root, "out": tmp_path / "out", "model": "qwen3_vl"})
    )
    assert "data.image_patch_size=16" in result.manifest["recipe"]


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


# Late: rows that verl reads and fails on at rollout


def entry(**fields):
    return pa.list_(pa.struct(list(fields.items())))


LATE = {
    "bytes are null": (entry(bytes=pa.binary(), path=pa.string()), lambda p: {"bytes": None, "path": p}, "images_type"),
    "path alone": (entry(path=pa.string()), lambda p: {"path": p}, "images_type"),
    "list of bytes": (pa.list_(pa.binary()), lambda p: Path(p).read_bytes(), "images_type"),
    "missing file": (entry(image=pa.string()), lambda p: {"image": p + ".no"}, "missing_image"),
    "truncated file": (entry(image=pa.string()), lambda p: {"image": cut(p)}, "truncated_image"),
    "no image": (entry(image=pa.string()), lambda p: {"image": overwritten(p)}, "broken_image"),
    "resized null": (
        entry(image=pa.string(), resized_height=pa.int64(), resized_width=pa.int64()),
        lambda p: {"image": p, "resized_height": None, "resized_width": None},
        "images_type",
    ),
}


def cut(path):
    other = Path(path).with_suffix(".cut.jpg")
    other.write_bytes(Path(path).read_bytes()[:-300])
    return str(other)


def overwritten(path):
    other = Path(path).with_suffix(".broken.jpg")
    other.write_bytes(b"no image")
    return str(other)


@pytest.mark.parametrize("name", LATE)
def test_images_that_fail_late(name, tmp_path, make_row, stock, pictures):
    kind, make, code = LATE[name]
    row = make_row(0, images=[make(str(path)) for path in pictures])
    file = write(tmp_path / "a.parquet", [row], with_type("images", kind))
    dataset = stock(file)
    assert len(dataset) == 1  # stock verl: loads
    with pytest.raises((OSError, ValueError, TypeError)):
        images_of(dataset, dataset[0])
    assert faults(file).counts[code] == 2


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_images(count, tmp_path, make_row, stock, pictures):
    row = make_row(0, images=[{"image": str(pictures[0])}] * count, extra={"image_sizes": None})
    file = write(tmp_path / "a.parquet", [row])
    with pytest.raises(AssertionError):
        stock(file)[0]
    assert faults(file).counts["image_count"] == 1


def test_images_as_one_text_are_counted_by_letters(tmp_path, make_row, stock, pictures):
    file = write(tmp_path / "a.parquet", [make_row(0, images=str(pictures[0]))], with_type("images", pa.string()))
    with pytest.raises(AssertionError, match=str(len(str(pictures[0])))):
        stock(file)[0]
    assert faults(file).counts["images_type"] == 1


def test_structured_content(tmp_path, make_row, stock):
    part = entry(type=pa.string(), text=pa.string())
    schema = with_type("prompt", pa.list_(pa.struct({"role": pa.string(), "content": part})))
    content = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    file = write(tmp_path / "a.parquet", [make_row(0, prompt=[{"role": "user", "content": content}])], schema)
    with pytest.raises(AssertionError):
        stock(file)[0]
    assert faults(file).counts["prompt"] == 1


@pytest.mark.parametrize("column", ["ground_truth", "index", "images", "ability"])
def test_types_that_verl_cannot_put_together(column, tmp_path, make_row, stock, pictures):
    first = write(tmp_path / "a.parquet", [make_row(0)])
    row = make_row(1)
    if column == "ground_truth":
        kind = pa.struct({"style": pa.string(), "ground_truth": pa.list_(pa.string())})
        schema, row = with_type("reward_model", kind), row | {"reward_model": {"style": "rule", "ground_truth": ["a"]}}
    elif column == "index":
        fields = [("index", pa.string()) if f.name == "index" else f for f in ARROW_SCHEMA.field("extra_info").type]
        schema, row = with_type("extra_info", pa.struct(fields)), make_row(1, extra={"index": "1"})
    elif column == "ability":
        schema = with_type("ability", pa.large_string())  # what polars and newer pandas write
    else:
        schema, row = with_type("images", pa.list_(pa.string())), make_row(1, images=[str(path) for path in pictures])
    second = write(tmp_path / "b.parquet", [row], schema)
    with pytest.raises(ValueError, match="align"):
        stock(first, second)
    report = faults([first, second])
    told = [str(fault) for fault in report.faults if fault.code == "types"]
    assert len(told) == 1 and second in told[0] and first in told[0] and column in told[0]


def test_keys_of_extra_info_may_differ(tmp_path, make_row, stock):
    first = write(tmp_path / "a.parquet", [make_row(0)])
    schema = arrow_schema(extra_info={"regime": pa.string()})
    second = write(tmp_path / "b.parquet", [make_row(1, extra={"regime": "x"})], schema)
    assert stock(first, second)[0]["extra_info"]["regime"] is None
    assert not check_files([first, second]).counts["types"]


def test_an_empty_struct_cannot_be_written(tmp_path, make_row):
    with pytest.raises(pa.ArrowNotImplementedError):
        pq.write_table(pa.table({"a": pa.array([{}], pa.struct([]))}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="tools_kwargs"):
        write_rows(tmp_path / "a.parquet", [make_row(0, extra={"tools_kwargs": {}})])


# Columns with taken names


def trajectory_fields(row):
    """What verl stores for a trajectory of this row."""
    import transfer_queue as tq
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

    async def nothing(*_, **__):
        return None

    stored = {}

    async def put(keys, fields, tags, partition_id):
        stored.update({key: fields[key] for key in fields.keys()})

    worker = SimpleNamespace(
        _compute_score=nothing,
        _compute_teacher_logprobs=nothing,
        _compute_multi_modal_inputs=lambda *_: {},
        _compute_position_ids=lambda ids, *_: ids,
    )
    output = AgentLoopOutput(
        prompt_ids=[1, 2],
        response_ids=[3, 4],
        response_mask=[1, 1],
        response_logprobs=[0.0, 0.0],
        reward_score=0.75,
        num_turns=2,
        metrics=AgentLoopMetrics(),
        extra_fields={},
        mm_processor_kwargs={},
        mm_processor_output=[],
    )
    before = tq.async_kv_batch_put
    tq.async_kv_batch_put = put
    try:
        plain = _compat.agent_loop_worker_class()._agent_loop_postprocess
        given = {"uid": "u", "session_id": 0, "global_steps": 1, **row}
        asyncio.run(plain(worker, output, False, **given))
    finally:
        tq.async_kv_batch_put = before
    return stored


def test_a_column_of_a_trajectorys_name_replaces_what_the_model_did():
    assert trajectory_fields({})["rm_scores"].tolist() == [[0.0, 0.75]]
    assert list(trajectory_fields({"rm_scores": 9.0})["rm_scores"]) == [
        9.0
    ]  # stock verl: the row's number is the reward


def status_of(prompt):
    """How verl marks the group of this prompt after its rollouts, which do nothing here."""
    import transfer_queue as tq

    async def rollout(sampling_params, trajectory, *, agent_name, trace=True, **kwargs):
        return None

    marks = []

    async def put(key, partition_id, tag):
        marks.append(tag["status"])

    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(n=2)))
    worker = SimpleNamespace(config=config, _run_agent_loop=rollout)
    before = tq.async_kv_put
    tq.async_kv_put = put
    try:
        run = _compat.agent_loop_worker_class()._run_prompt
        asyncio.run(run(worker, {"uid": "u", "agent_name": "a", **prompt}, {}, {"validate": False}))
    finally:
        tq.async_kv_put = before
    return marks[-1]


@pytest.mark.parametrize("name", ["session_id", "trajectory", "trace", "sampling_params"])
def test_a_column_of_an_arguments_name_fails_every_rollout(name):
    assert status_of({"difficulty": 1}) == "finished"
    assert status_of({name: 1}) == "failure"  # stock verl: a line in a worker's log, and no group
    assert name in RESERVED_COLUMNS


def test_all_taken_names_are_reserved(tmp_path, make_row, stock):
    from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

    write_rows(tmp_path / "a.parquet", [make_row(0)])
    row = stock(tmp_path / "a.parquet")[0]
    added = set(row) - set(ARROW_SCHEMA.names)
    stored = set(trajectory_fields({})) - {"session_id"}
    worker = _compat.agent_loop_worker_class()
    arguments = set(inspect.signature(worker._run_agent_loop).parameters)
    arguments |= set(inspect.signature(worker._agent_loop_postprocess).parameters) | {"session_id"}
    arguments |= set(inspect.signature(SingleTurnAgentLoop.run.__wrapped__).parameters)
    arguments -= {"kwargs", "output", "agent_name", "priority"}  # verl reads the last two from rows on purpose
    missing = (added | stored | arguments) - RESERVED_COLUMNS
    assert not {name for name in missing if not name.startswith("_")}, missing  # Ray adds one of its own


@pytest.mark.parametrize("name", ["session_id", "rm_scores", "raw_prompt", "uid", "responses"])
def test_columns_of_taken_names_are_told_and_cannot_be_written(name, tmp_path, make_row):
    schema = ARROW_SCHEMA.append(pa.field(name, pa.int64()))
    file = write(tmp_path / "a.parquet", [make_row(0) | {name: 1}], schema)
    assert faults(file).counts["column"] == 1
    with pytest.raises(SampleError, match=name):
        write_rows(tmp_path / "b.parquet", [make_row(0) | {name: 1}], schema=schema)


# What a row weighs


def test_a_path_weighs_nothing_and_a_picture_does(tmp_path, make_row, stock):
    import datasets

    path = raw_sets.picture(tmp_path / "large.jpg", (1280, 1024))
    row = make_row(0, images=[{"image": str(path)}] * 2)
    by_path = stock(write(tmp_path / "a.parquet", [row]))
    held = {"bytes": path.read_bytes(), "path": path.name}
    by_bytes = stock(write(tmp_path / "b.parquet", [row | {"images": [held, held]}], arrow_schema(embed=True)))
    features = datasets.Features(
        {
            "images": [datasets.Image()],
            "prompt": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
        }
    )
    own = datasets.Dataset.from_list([{"images": [held, held], "prompt": row["prompt"]}], features=features)
    own.to_parquet(tmp_path / "c.parquet")
    by_picture = stock(tmp_path / "c.parquet")
    by_picture.dataframe = by_picture.dataframe.add_column("data_source", ["x"])
    weights = [len(pickle.dumps(dataset[0]["raw_prompt"])) for dataset in (by_path, by_bytes, by_picture)]
    assert (
        weights[0] < 1000 and weights[2] > 7_000_000 and weights[1] > weights[2]
    )  # stock verl: for every rollout, twice
    report = check_files([tmp_path / "c.parquet"])
    assert any("travels as pixels" in note for note in report.notes)


# Traps of `datasets`


def test_to_parquet_leaves_the_pictures_out(tmp_path, make_row, stock, pictures):
    import datasets

    rows = [make_row(0, images=[str(path) for path in pictures])]
    dataset = datasets.Dataset.from_list(rows).cast_column("images", datasets.Sequence(datasets.Image()))
    dataset.to_parquet(tmp_path / "a.parquet")
    stored = pq.read_table(tmp_path / "a.parquet")["images"].to_pylist()[0]
    assert [image["bytes"] for image in stored] == [None, None]  # paths of this machine, nothing to move elsewhere
    assert faults(str(tmp_path / "a.parquet")).counts["images_type"] == 2


def test_bytes_beside_a_path_that_exists_are_dropped_by_datasets_and_kept_by_us(tmp_path, stock):
    import datasets

    path = raw_sets.picture(tmp_path / "a.jpg")
    example = {"bytes": b"other", "path": str(path)}
    assert datasets.Image().encode_example(example)["bytes"] is None
    root = raw_sets.make("llvip", tmp_path / "raw")
    result = convert(find_converter("llvip"), settings_from({"root": root, "out": tmp_path / "out", "images": "embed"}))
    file = result.files["train"][0]
    dataset = stock(file)
    encoded = datasets.Image().encode_example(dataset.dataframe[0]["images"][0])
    assert encoded["bytes"] == (root / "visible" / "train" / "010001.jpg").read_bytes()
    assert images_of(dataset, dataset[0])[0].size


@pytest.mark.skipif("VERL_MARS_LARGE_TESTS" not in os.environ, reason="writes 2.2 GB; set VERL_MARS_LARGE_TESTS=1")
def test_a_row_group_beyond_two_gigabytes_cannot_be_read(tmp_path, make_row, stock):
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (2600, 2600, 3), np.uint8)).save(picture, "PNG")
    held = {"bytes": picture.getvalue(), "path": "a.png"}
    schema = arrow_schema(embed=True)
    rows = [make_row(k, images=[held, held], extra={"image_sizes": [[2600, 2600]] * 2}) for k in range(4)]
    part = pa.Table.from_pylist(rows, schema=schema)
    whole = pa.concat_tables([part] * (2**31 // (8 * len(held["bytes"])) + 2))
    file = tmp_path / "a.parquet"
    pq.write_table(whole, file, row_group_size=len(whole), use_dictionary=False, compression="none")
    with pytest.raises(Exception, match="generating the dataset"):
        stock(file)
    assert check_files([file], open_images=False).counts["row_group"] == 1
