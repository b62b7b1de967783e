"""What passes the checks loads in verl's own reader, and its prompts are as long as computed."""

import random
import shlex
from pathlib import Path

import pyarrow as pa
import pytest
import raw_sets
from PIL import Image
from stock_verl import faults, images_of, tokens_of, write

from verl_mars import _compat
from verl_mars.data.check import check_files
from verl_mars.data.convert import convert
from verl_mars.data.processor import load_processor
from verl_mars.data.prompt_length import PromptLength, load_tokenizer
from verl_mars.data.schema import arrow_schema, write_rows
from verl_mars.data.settings import settings_from
from verl_mars.data.validate import validate
from verl_mars.data_prep import find_converter
from verl_mars.errors import DataError, SampleError
from verl_mars.vision.families import IMAGE_LIMITS
from verl_mars.vision.resize import _resized, limits_of, seen_size, visual_tokens

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
        assert result.summary["max_prompt_tokens"] >= tokens_of(dataset, row, own)


def test_the_printed_recipe_is_one_that_verl_takes(tmp_path):
    from hydra import compose, initialize_config_module

    root = raw_sets.make("llvip", tmp_path / "raw")
    out = tmp_path / 'the "first" out [1], of John\'s {two} = x\\y'
    settings = settings_from({"root": root, "out": out, "model": "qwen3_vl"})
    result = convert(find_converter("llvip"), settings)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=shlex.split(" ".join(result.summary["recipe"])))
    assert (
        list(config.data.train_files) == result.files["train"] and list(config.data.val_files) == result.files["test"]
    )
    assert config.actor_rollout_ref.rollout.limit_images == 2 and config.data.image_patch_size == 16
    assert result.summary["max_prompt_tokens"] <= config.data.max_prompt_length


def test_a_file_that_datasets_cannot_load_is_a_fault(tmp_path, stock):
    schema = pa.schema([("prompt", pa.string())])
    file = write(tmp_path / "a.parquet", [], schema)  # no row at all
    with pytest.raises(Exception, match="generating the dataset"):  # no ValueError, no OSError: a class of its own
        stock(file)
    report = faults(file)
    assert report.counts["file"] == 1 and report.counts["loading"] == 1


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
        for theirs, least_rounded, least_shrunk in ((first, factor, 0), (second, 0, factor)):
            if max(height, width) / min(height, width) > 200:
                with pytest.raises(ValueError):
                    theirs(height, width, factor, low, high)
                continue
            ours = _resized(height, width, factor, low, high, least_rounded=least_rounded, least_shrunk=least_shrunk)
            assert ours == theirs(height, width, factor, low, high)
            compared += 1
    assert compared > 20_000


def test_lengths_are_those_of_the_real_processors(both, tmp_path, stock, make_row):
    """Both resizes, over sizes that meet every branch, with and without limits of the image's own."""
    family, own = both
    model = limits_of(own.image_processor.to_dict())
    assert model == IMAGE_LIMITS[family]
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
        assert (int(grid[1]) * model.patch_size, int(grid[2]) * model.patch_size) == (height, width)
        assert visual_tokens(size, model, *limits) == int(grid.prod()) // model.merge_size**2 + 2


def test_the_text_of_a_checkpoints_tokenizer_is_counted_exactly(processor, tmp_path, make_row):
    processor.save_pretrained(tmp_path / "checkpoint")
    tokenizer = load_tokenizer(str(tmp_path / "checkpoint"))
    length = PromptLength(IMAGE_LIMITS["qwen2_5_vl"], tokenizer)
    bound = PromptLength(IMAGE_LIMITS["qwen2_5_vl"])
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
    assert result.summary["prompt_tokens_are"] == "exact"
    files = [file for part in result.files.values() for file in part]
    assert validate(files, processor=str(tmp_path / "checkpoint")).max_tokens == result.summary["max_prompt_tokens"]


def test_a_computed_length_that_is_wrong_would_be_told(tmp_path, make_row, monkeypatch):
    from verl_mars.vision import resize

    write_rows(tmp_path / "a.parquet", [make_row(0)])
    monkeypatch.setattr(resize, "seen_size", lambda size, *_: (size[0] // 28 * 28 + 28, size[1] // 28 * 28))
    visual_tokens.cache_clear()
    report = faults(str(tmp_path / "a.parquet"))
    visual_tokens.cache_clear()
    assert report.counts["length"] == 1


def test_checkpoints_that_cannot_be_loaded(tmp_path):
    (tmp_path / "empty").mkdir()
    for load, says in ((load_tokenizer, "no tokenizer"), (load_processor, "no processor")):
        with pytest.raises(DataError, match=f"{says} can be loaded from .*: there is no such folder"):
            load(str(tmp_path / "nothing"))
        with pytest.raises(DataError, match=says):
            load(str(tmp_path / "empty"))
