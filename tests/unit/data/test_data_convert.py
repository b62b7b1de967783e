"""The pipeline: shards, splits, rejects, summary."""

import json

import pyarrow.parquet as pq
import pytest
import raw_sets
from interruptions import OPTIONS, start_workers_at_once, table_of

from verl_mars.data import row_groups
from verl_mars.data import workers as workers_module
from verl_mars.data.check import check_files
from verl_mars.data.convert import TooManyRejects
from verl_mars.data.schema import ROW_GROUP_BYTES
from verl_mars.data.summary import recipe_lines
from verl_mars.errors import DataError, UsageError

# What comes out


def test_shards_rejects_and_summary(small, run, tmp_path):
    result = run("manifest", small, **OPTIONS)
    summary = json.loads((result.out / "summary.json").read_text())
    assert summary == result.summary and summary["complete"]
    rows = {split: table_of(result, split) for split in result.files}
    assert {split: len(part) for split, part in rows.items()} == {
        split: summary["splits"][split]["rows"] for split in ("train", "val")
    }
    assert result.rows == sum(map(len, rows.values())) == 57 and result.rejects == 3
    for split, part in rows.items():
        numbers = [int(row["extra_info"]["sample_id"]) for row in part]
        assert numbers == sorted(numbers)  # the order of the raw data
        assert [row["extra_info"]["index"] for row in part] == numbers
        assert all(row["extra_info"]["split"] == split for row in part)
        described = summary["splits"][split]
        assert [shard["rows"] for shard in described["shards"][:-1]] == [9] * (len(described["shards"]) - 1)
        for shard in described["shards"]:
            file = result.out / shard["file"]
            assert file.stat().st_size == shard["bytes"]
        assert described["images_per_row"] == {"2": len(part)}
        assert described["sources"] == {"depth": len(part), "rgb": len(part)}
        assert sum(described["tokens"].values()) == sum(described["answers"]["vqa"].values()) == len(part)
        assert described["changed"] == {"turbo": len(part)}
    told = [json.loads(line) for line in (result.out / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["sample_id"], reject["code"]) for reject in told] == [
        (n, "missing_image") for n in ("7", "33", "59")
    ]
    assert summary["rejects"] == {"total": 3, "share": 0.05, "by_reason": {"missing_image": 3}}
    assert summary["max_images_per_row"] == 2
    assert not list(result.out.glob("*.tmp"))


@pytest.mark.parametrize("name", ["val", "validation", "dev", "eval", "Validation", "TEST"])
def test_a_split_for_validation_is_offered_by_its_usual_names(tmp_path, name):
    lines = recipe_lines(tmp_path, {"Train": [], name: []}, 2, 100, "qwen2_5_vl")
    assert lines[:2] == ["'data.train_files=[]'", "'data.val_files=[]'"]


def test_the_recipe_lines_name_all_shards(small, run):
    result = run("manifest", small, **OPTIONS)
    lines = result.summary["recipe"]
    assert lines[0] == "'data.train_files=[" + ",".join(result.files["train"]) + "]'"
    assert lines[1] == "'data.val_files=[" + ",".join(result.files["val"]) + "]'"
    assert "++actor_rollout_ref.rollout.limit_images=2" in lines
    longest = int(next(line for line in lines if line.startswith("data.max_prompt_length")).split("=")[1])
    assert result.summary["max_prompt_tokens"] <= longest < result.summary["max_prompt_tokens"] + 64


def test_groups_stay_together_and_the_seed_moves_them(small, run, tmp_path):
    homes = {}
    for seed in (0, 1):
        result = run("manifest", small, tmp_path / str(seed), **OPTIONS, seed=seed)
        homes[seed] = {}
        for split in result.files:
            for row in table_of(result, split):
                homes[seed].setdefault(row["extra_info"]["group"], set()).add(split)
        assert all(len(splits) == 1 for splits in homes[seed].values())
        assert {"train", "val"} == {split for splits in homes[seed].values() for split in splits}
    assert homes[0] != homes[1]
    assert set(run("manifest", small, tmp_path / "none", max_reject=0.1, val_fraction=0.0).files) == {"train"}


def test_leaks_between_splits_are_reported(small, run):
    texts = run("manifest", small, **OPTIONS).summary["findings"]
    assert any("images used in" in text for text in texts)  # the four pictures are in all splits


def test_an_answer_that_is_mostly_right_is_reported(tmp_path, run):
    root = raw_sets.large_manifest(tmp_path, 20)
    text = (root / "manifest.jsonl").read_text().replace('"answer": "2"', '"answer": "1"')
    (root / "manifest.jsonl").write_text(text)
    findings = run("manifest", root, val_fraction=0.0).summary["findings"]
    assert any("always answering '1' is right in 65%" in text for text in findings)


def test_only_some_splits_and_only_some_samples(small, run, tmp_path):
    assert set(run("manifest", small, tmp_path / "val", splits=("val",), **OPTIONS).files) == {"val"}
    assert run("manifest", small, tmp_path / "few", limit=7).rows == 7  # the eighth is wrong
    with pytest.raises(DataError, match="--split test: no sample is in it; the splits are train, val"):
        run("manifest", small, tmp_path / "none", splits=("test",), **OPTIONS)


def test_a_short_conversion_starts_no_workers(small, run, monkeypatch):
    monkeypatch.setattr(workers_module.ProcessPoolExecutor, "submit", None)
    assert run("manifest", small, workers=2, **OPTIONS).rows == 57


@pytest.mark.slow
def test_the_same_bytes_with_any_number_of_workers(small, run, tmp_path, monkeypatch):
    start_workers_at_once(monkeypatch.setattr)
    trees = []
    for workers in (0, 2):
        run("manifest", small, tmp_path / "out", workers=workers, **OPTIONS)
        trees.append(raw_sets.tree(tmp_path / "out"))
        for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert trees[0] == trees[1] and len(trees[0]) > 8


def test_embedded_images_keep_their_bytes_and_groups_stay_small(small, run, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP_BYTES", 20_000)
    result = run("manifest", small, **(OPTIONS | {"shard_rows": 1000}), images="embed")
    file = result.files["train"][0]
    for row in table_of(result, "train"):
        name = f"rgb{row['extra_info']['index'] % 4}.jpg"
        assert row["images"][0] == {"bytes": (small / name).read_bytes(), "path": name}
        assert row["images"][1]["bytes"].startswith(b"\x89PNG") and "/" not in row["images"][1]["path"]
    metadata = pq.ParquetFile(file).metadata
    groups = [metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)]
    assert len(groups) > 3 and max(groups) < 40_000 < ROW_GROUP_BYTES
    assert check_files([file]).ok


def test_long_texts_fill_a_row_group_too(small, run, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP_BYTES", 8_000)
    file = run("manifest", small, max_reject=0.1, val_fraction=0.0).files["train"][0]
    metadata = pq.ParquetFile(file).metadata
    assert metadata.num_rows == 57 and 3 < metadata.num_row_groups < 20


def test_a_picture_that_cannot_be_embedded_is_a_reject(small, run, monkeypatch):
    monkeypatch.setattr(row_groups, "ROW_GROUP_BYTES", 8_000)
    sizes = [(small / f"rgb{k}.jpg").stat().st_size for k in range(4)]
    raw_sets.picture(small / "rgb1.jpg", (256, 192), seed=5, quality=95)
    assert max(sizes) < 4_000 < 8_000 < (small / "rgb1.jpg").stat().st_size
    result = run("manifest", small, **(OPTIONS | {"max_reject": 0.5}), images="embed")
    assert result.rows == 43 and result.summary["rejects"]["by_reason"] == {"row_group": 14, "missing_image": 3}
    for split in result.files:
        for row in table_of(result, split):
            name = f"rgb{row['extra_info']['index'] % 4}.jpg"
            assert row["images"][0] == {"bytes": (small / name).read_bytes(), "path": name}


def test_a_picture_that_is_gone_when_it_is_embedded_is_a_reject(small, run, monkeypatch):
    from verl_mars.data.row_maker import RowMaker

    make = RowMaker.make

    def make_and_remove(self, sample, split, index):
        made = make(self, sample, split, index)
        if index == 30:
            (small / "rgb2.jpg").unlink()
        return made

    monkeypatch.setattr(RowMaker, "make", make_and_remove)
    result = run("manifest", small, **(OPTIONS | {"max_reject": 0.9}), images="embed")
    rejects = [json.loads(line) for line in (result.out / "rejects.jsonl").read_text().splitlines()]
    assert next(reject for reject in rejects if reject["index"] == 30)["code"] == "missing_image"
    for split in result.files:
        for row in table_of(result, split):
            assert row["images"][0]["bytes"][:2] == b"\xff\xd8" and row["images"][1]["bytes"][:4] == b"\x89PNG"


def test_embedded_shards_end_by_size(small, run):
    result = run("manifest", small, images="embed", max_reject=0.1, val_fraction=0.0, shard_megabytes=1)
    assert len(result.files["train"]) == 1
    one = result.summary["splits"]["train"]["shards"][0]["bytes"] / 2**20
    assert one < 1  # small pictures; a shard of many would end at the first image past a megabyte


def test_pixel_limits_are_written_and_counted(small, run, tmp_path):
    free = run("manifest", small, tmp_path / "a", **OPTIONS)
    result = run("manifest", small, tmp_path / "b", **OPTIONS, min_pixels=784, max_pixels=1568)
    row = table_of(result, "train")[0]
    assert row["images"][0]["max_pixels"] == 1568 and row["images"][0]["min_pixels"] == 784
    assert row["extra_info"]["image_sizes"] == [[64, 48]] * 2
    assert row["extra_info"]["seen_sizes"] == [[56, 56]] * 2  # the processor's own least area comes last
    assert result.summary["max_prompt_tokens"] <= free.summary["max_prompt_tokens"]
    assert check_files(result.files["train"]).ok
    large = run("manifest", small, tmp_path / "c", **OPTIONS, min_pixels=200_000)
    assert large.summary["max_prompt_tokens"] > free.summary["max_prompt_tokens"] + 400


def test_long_prompts_are_rejected(small, run):
    with pytest.raises(TooManyRejects, match="too_long"):
        run("manifest", small, max_prompt_length=100)


@pytest.mark.parametrize("style", ["labelled", "plain", "official"])
@pytest.mark.parametrize("mono", ["own", "repeat"])
def test_styles(small, run, style, mono):
    result = run("manifest", small, style=style, mono=mono, **OPTIONS)
    row = table_of(result, "train")[0]
    assert row["prompt"][0]["content"].count("<image>") == 2
    assert [source["prompt"] is None for source in row["sources"]] == [mono == "repeat"] * 2
    assert check_files(result.files["train"]).ok


# Rejects


def test_too_many_rejects_fail_after_everything_is_written(small, run):
    with pytest.raises(TooManyRejects, match=r"3 of 60 samples were rejected \(3 x missing_image\)") as caught:
        run("manifest", small, shard_rows=9)
    result = caught.value.result
    assert result.rows == 57 and result.summary["complete"] is False
    assert (result.out / "rejects.jsonl").read_text().count("\n") == 3
    again = run("manifest", small, shard_rows=9, max_reject=0.05)  # the limit alone does not ask for a new conversion
    assert again.rows == 57 and again.summary["complete"] is True


def test_everything_rejected_is_a_failure_whatever_is_allowed(small, run):
    for image in small.glob("rgb*.jpg"):
        image.unlink()
    with pytest.raises(TooManyRejects):
        run("manifest", small, max_reject=1.0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"images": "inside"}, "--images"),
        ({"depth_encoding": "jet"}, "--depth-encoding"),
        ({"max_reject": 2}, "--max-reject"),
        ({"shard_rows": 0}, "--shard-rows"),
        ({"model": "llava"}, "qwen2_5_vl, qwen3_vl"),
        ({"style": "nice"}, "--style"),
        ({"colour": 1}, "--colour"),
        ({"min_pixels": 900, "max_pixels": 800}, "--min-pixels 900 is more than --max-pixels 800"),
        ({"options": {"colour": "red"}}, "file, data_source"),
    ],
)
def test_wrong_settings_are_named(small, run, values, says):
    with pytest.raises(UsageError, match=says):
        run("manifest", small, **values)
