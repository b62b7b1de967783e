"""The pipeline: shards, splits, rejects, manifest, resuming after any kind of end."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import raw_sets

from verl_mars.data import shards, writer
from verl_mars.data import workers as workers_module
from verl_mars.data.check import check_files
from verl_mars.data.convert import TooManyRejects, convert
from verl_mars.data.faults import DataError
from verl_mars.data.files import file_hash
from verl_mars.data.schema import ROW_GROUP_BYTES
from verl_mars.data.settings import settings_from


def large_manifest(root, rows=60, wrong=()):
    """Two sources, one of them 16-bit depth, in pairs of rooms; rows in ``wrong`` miss an image."""
    for k in range(4):
        raw_sets.picture(root / f"rgb{k}.jpg", seed=k, quality=95)
    for k in range(5):
        raw_sets.depth(root / f"depth{k}.png", near=300 + 50 * k)
    lines = []
    for n in range(rows):
        rgb = "missing.jpg" if n in wrong else f"rgb{n % 4}.jpg"
        sources = [{"name": "rgb", "images": rgb}, {"name": "depth", "images": f"depth{n % 5}.png"}]
        lines.append({"id": n, "question": f"{n}?", "answer": str(n % 3), "group": f"g{n // 4}", "sources": sources})
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


@pytest.fixture
def small(tmp_path):
    (tmp_path / "raw").mkdir()
    return large_manifest(tmp_path / "raw", wrong=(7, 33, 59))


OPTIONS = {"shard_rows": 9, "val_fraction": 0.3, "max_reject": 0.1}


def table_of(result, split):
    return [row for file in result.files[split] for row in pq.read_table(file).to_pylist()]


# What comes out


def test_shards_rejects_and_manifest(small, run, tmp_path):
    result = run("manifest", small, **OPTIONS)
    manifest = json.loads((result.out / "manifest.json").read_text())
    assert manifest == result.manifest and manifest["complete"]
    rows = {split: table_of(result, split) for split in result.files}
    assert {split: len(part) for split, part in rows.items()} == {
        split: manifest["splits"][split]["rows"] for split in ("train", "val")
    }
    assert result.rows == sum(map(len, rows.values())) == 57 and result.rejects == 3
    for split, part in rows.items():
        numbers = [int(row["extra_info"]["sample_id"]) for row in part]
        assert numbers == sorted(numbers)  # the order of the raw data
        assert [row["extra_info"]["index"] for row in part] == numbers
        assert all(row["extra_info"]["split"] == split for row in part)
        described = manifest["splits"][split]
        assert [shard["rows"] for shard in described["shards"][:-1]] == [9] * (len(described["shards"]) - 1)
        for shard in described["shards"]:
            file = result.out / shard["file"]
            assert file.stat().st_size == shard["bytes"] and file_hash(file) == shard["xxh128"]
        assert described["images_per_row"] == {"2": len(part)}
        assert described["sources"] == {"depth": len(part), "rgb": len(part)}
        assert sum(described["tokens"].values()) == sum(described["answers"]["vqa"].values()) == len(part)
        assert described["changed"] == {"turbo": len(part)}
    told = [json.loads(line) for line in (result.out / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["sample_id"], reject["code"]) for reject in told] == [
        (n, "missing_image") for n in ("7", "33", "59")
    ]
    assert manifest["rejects"] == {"total": 3, "share": 0.05, "by_reason": {"missing_image": 3}}
    assert manifest["max_images_per_row"] == 2
    assert not list(result.out.glob("*.tmp")) and not (result.out / ".progress").exists()


def test_the_recipe_lines_name_all_shards(small, run):
    result = run("manifest", small, **OPTIONS)
    lines = result.manifest["recipe"]
    assert lines[0] == "'data.train_files=[" + ",".join(result.files["train"]) + "]'"
    assert lines[1] == "'data.val_files=[" + ",".join(result.files["val"]) + "]'"
    assert "++actor_rollout_ref.rollout.limit_images=2" in lines
    longest = int(next(line for line in lines if line.startswith("data.max_prompt_length")).split("=")[1])
    assert result.manifest["max_prompt_tokens"] <= longest < result.manifest["max_prompt_tokens"] + 64


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
    texts = run("manifest", small, **OPTIONS).manifest["findings"]
    assert any("images used in" in text for text in texts)  # the four pictures are in all splits


def test_an_answer_that_is_mostly_right_is_reported(tmp_path, run):
    root = large_manifest(tmp_path, 20)
    text = (root / "manifest.jsonl").read_text().replace('"answer": "2"', '"answer": "1"')
    (root / "manifest.jsonl").write_text(text)
    findings = run("manifest", root, val_fraction=0.0).manifest["findings"]
    assert any("always answering '1' is right in 65%" in text for text in findings)


def test_only_some_splits_and_only_some_samples(small, run, tmp_path):
    assert set(run("manifest", small, tmp_path / "val", splits=("val",), **OPTIONS).files) == {"val"}
    assert run("manifest", small, tmp_path / "few", limit=7).rows == 7  # the eighth is wrong


def start_workers_at_once(set_attribute):
    """Make the first row alone and all others in workers, by a function like ``setattr``."""
    set_attribute(workers_module, "SECONDS_ALONE", 0.0)
    set_attribute(workers_module, "_any_done", lambda futures: futures[0].result() > 0)


def test_a_short_conversion_starts_no_workers(small, run, monkeypatch):
    monkeypatch.setattr(workers_module.ProcessPoolExecutor, "submit", None)
    assert run("manifest", small, workers=2, **OPTIONS).rows == 57


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
    monkeypatch.setattr(writer, "EMBED_GROUP_BYTES", 20_000)
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


def test_a_picture_that_cannot_be_embedded_is_a_reject(small, run, monkeypatch):
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 8_000)
    sizes = [(small / f"rgb{k}.jpg").stat().st_size for k in range(4)]
    raw_sets.picture(small / "rgb1.jpg", (256, 192), seed=5, quality=95)
    assert max(sizes) < 4_000 < 8_000 < (small / "rgb1.jpg").stat().st_size
    result = run("manifest", small, **(OPTIONS | {"max_reject": 0.5}), images="embed")
    assert result.rows == 43 and result.manifest["rejects"]["by_reason"] == {"row_group": 14, "missing_image": 3}
    for split in result.files:
        for row in table_of(result, split):
            name = f"rgb{row['extra_info']['index'] % 4}.jpg"
            assert row["images"][0] == {"bytes": (small / name).read_bytes(), "path": name}


@pytest.mark.parametrize("change", ["gone", "shorter"])
def test_a_picture_that_changes_while_it_is_read_is_a_reject(small, run, monkeypatch, change):
    from verl_mars.data.rows import RowMaker

    make = RowMaker.make

    def make_and_change(self, sample, split, index):
        made = make(self, sample, split, index)
        if index == 30 and change == "gone":
            (small / "rgb2.jpg").unlink()
        if index == 30 and change == "shorter":
            monkeypatch.setattr(writer.os, "fstat", lambda handle: os.stat_result([10_000] * 10))
        return made

    monkeypatch.setattr(RowMaker, "make", make_and_change)
    result = run("manifest", small, **(OPTIONS | {"max_reject": 0.9}), images="embed")
    told = [json.loads(line) for line in (result.out / "rejects.jsonl").read_text().splitlines()]
    reject = next(reject for reject in told if reject["index"] == 30)
    assert reject["code"] == ("missing_image" if change == "gone" else "truncated_image")
    for split in result.files:
        for row in table_of(result, split):
            assert row["images"][0]["bytes"][:2] == b"\xff\xd8" and row["images"][1]["bytes"][:4] == b"\x89PNG"


def test_embedded_shards_end_by_size(small, run):
    result = run("manifest", small, images="embed", max_reject=0.1, val_fraction=0.0, shard_megabytes=1)
    assert len(result.files["train"]) == 1
    one = result.manifest["splits"]["train"]["shards"][0]["bytes"] / 2**20
    assert one < 1  # small pictures; a shard of many would end at the first image past a megabyte


def test_pixel_limits_are_written_and_counted(small, run, tmp_path):
    free = run("manifest", small, tmp_path / "a", **OPTIONS)
    result = run("manifest", small, tmp_path / "b", **OPTIONS, min_pixels=784, max_pixels=1568)
    row = table_of(result, "train")[0]
    assert row["images"][0]["max_pixels"] == 1568 and row["images"][0]["min_pixels"] == 784
    assert row["extra_info"]["image_sizes"] == [[64, 48]] * 2
    assert row["extra_info"]["seen_sizes"] == [[56, 56]] * 2  # the processor's own least area comes last
    assert result.manifest["max_prompt_tokens"] <= free.manifest["max_prompt_tokens"]
    assert check_files(result.files["train"]).ok
    large = run("manifest", small, tmp_path / "c", **OPTIONS, min_pixels=200_000)
    assert large.manifest["max_prompt_tokens"] > free.manifest["max_prompt_tokens"] + 400


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
    assert result.rows == 57 and result.manifest["complete"] is False
    assert (result.out / "rejects.jsonl").read_text().count("\n") == 3
    again = run("manifest", small, shard_rows=9, max_reject=0.05)  # the limit alone does not ask for a new conversion
    assert again.rows == 57 and again.manifest["complete"] is True


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
        ({"options": {"colour": "red"}}, "file, data_source"),
    ],
)
def test_wrong_settings_are_named(small, run, values, says):
    with pytest.raises(DataError, match=says):
        run("manifest", small, **values)


# Again and again


def test_a_second_run_writes_nothing_anew(small, run):
    result = run("manifest", small, **OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in result.out.glob("*.parquet")}
    tree = raw_sets.tree(result.out)
    run("manifest", small, **OPTIONS)
    assert raw_sets.tree(result.out) == tree
    assert {path: path.stat().st_mtime_ns for path in result.out.glob("*.parquet")} == before


def test_a_damaged_shard_is_written_again(small, run):
    result = run("manifest", small, **OPTIONS)
    tree = raw_sets.tree(result.out)
    victim = result.out / "train-00001.parquet"
    victim.write_bytes(victim.read_bytes()[:-7])
    (result.out / "val-00000.parquet").unlink()
    run("manifest", small, **OPTIONS)
    assert raw_sets.tree(result.out) == tree


def test_other_raw_data_are_converted_again_from_there_on(small, run):
    result = run("manifest", small, **OPTIONS)
    first = (result.out / "train-00000.parquet").stat().st_mtime_ns
    text = (small / "manifest.jsonl").read_text()
    (small / "manifest.jsonl").write_text(text.replace('"question": "40?"', '"question": "forty?"'))
    again = run("manifest", small, **OPTIONS)
    questions = [row["extra_info"]["question"] for split in again.files for row in table_of(again, split)]
    assert "forty?" in questions and "40?" not in questions
    assert (result.out / "train-00000.parquet").stat().st_mtime_ns == first
    raw_sets.picture(small / "rgb0.jpg", (128, 96), seed=77)  # another picture under the same name
    sizes = [row["extra_info"]["image_sizes"][0] for row in table_of(run("manifest", small, **OPTIONS), "train")]
    assert [128, 96] in sizes


def test_other_settings_ask_for_another_folder_or_overwrite(small, run):
    result = run("manifest", small, **OPTIONS)
    tree = raw_sets.tree(result.out)
    with pytest.raises(DataError, match="shard_rows: 9 then, 5 now"):
        run("manifest", small, **(OPTIONS | {"shard_rows": 5}))
    assert raw_sets.tree(result.out) == tree
    again = run("manifest", small, **(OPTIONS | {"shard_rows": 30}), overwrite=True)
    assert set(result.out.glob("*.parquet")) == {Path(file) for part in again.files.values() for file in part}


def test_a_folder_with_other_files_is_left_alone(small, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.parquet").write_bytes(b"mine")
    with pytest.raises(DataError, match="something else"):
        run("manifest", small, overwrite=True)
    assert (tmp_path / "out" / "train.parquet").read_bytes() == b"mine"


def test_two_conversions_into_one_folder(small, run, tmp_path):
    with shards.locked(tmp_path / "out"), pytest.raises(DataError, match="another conversion"):
        run("manifest", small)


def test_a_damaged_manifest_is_told(small, run, tmp_path):
    run("manifest", small, **OPTIONS)
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        run("manifest", small, **OPTIONS)


# Killed


def in_child(work):
    """Run in a forked process; returns its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(call, calls=("replace", "fsync", "unlink", "rmdir")):
    """Patch ``os`` so that the process kills itself right before its n-th such call."""
    count = 0

    def wrap(function):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    for name in calls:
        setattr(os, name, wrap(getattr(os, name)))


def arguments(root, out, **values):
    from verl_mars.data.cli import find_converter

    return find_converter("manifest"), settings_from({"root": root, "out": out, **OPTIONS, **values})


def test_killed_at_any_write_it_ends_with_the_same_bytes(small, tmp_path):
    (tmp_path / "few").mkdir()
    small = large_manifest(tmp_path / "few", rows=24, wrong=(5, 23))
    out = tmp_path / "out"
    convert(*arguments(small, out))
    whole = raw_sets.tree(out)
    assert len(whole) == 10
    killed = 0
    for call in range(1, 400):
        for path in sorted(out.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        code = in_child(lambda call=call: (killed_at(call), convert(*arguments(small, out))))
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        for shard in out.glob("*.parquet"):
            assert raw_sets.tree(out)[shard.name] == whole[shard.name]  # what has its name is whole
        convert(*arguments(small, out))
        assert raw_sets.tree(out) == whole, call
        if code == 0:
            break
    assert killed > 30 and code == 0


@pytest.mark.parametrize("images", ["path", "embed"])
@pytest.mark.parametrize(("workers", "rows"), [(0, (5, 12, 13, 30, 31, 44, 59, 60)), (2, (2, 13, 31, 60))])
def test_killed_many_times_it_ends_with_the_same_bytes(small, tmp_path, monkeypatch, images, workers, rows):
    start_workers_at_once(monkeypatch.setattr)
    monkeypatch.setenv("VERL_MARS_TEST_MARK", str(tmp_path))
    out = tmp_path / "out"
    convert(*arguments(small, out, images=images))
    whole = raw_sets.tree(out)
    for path in sorted(out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()

    def run_until(row):
        def advance(rows, rejects):
            if rows + rejects >= row:
                os.kill(os.getpid(), signal.SIGKILL)

        convert(*arguments(small, out, images=images, workers=workers), advance)

    codes = [in_child(lambda row=row: run_until(row)) for row in rows]
    assert set(codes) == {-signal.SIGKILL}
    convert(*arguments(small, out, images=images))
    assert raw_sets.tree(out) == whole
    assert_ends(str(tmp_path))


def assert_ends(mark):
    """All processes with this mark end by themselves, soon."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and marked(mark):
        time.sleep(0.1)
    assert not marked(mark)


def test_a_killed_command_leaves_no_process_and_goes_on(tmp_path):
    (tmp_path / "raw").mkdir()
    root = large_manifest(tmp_path / "raw", rows=400)
    for k in range(5):
        raw_sets.depth(root / f"depth{k}.png", (320, 240), near=300 + 50 * k)
    script = f"import runpy, sys; sys.path.append({str(Path(__file__).parent)!r}); import test_data_convert as this; "
    script += "this.start_workers_at_once(setattr); "
    script += "runpy.run_module('verl_mars.data_prep.manifest', run_name='__main__')"
    command = [sys.executable, "-c", script, "--root", str(root), "--shard-rows", "40"]
    command += ["--workers", "2", "--decode", "--out"]
    environment = dict(os.environ, VERL_MARS_TEST_MARK=str(tmp_path))
    process = subprocess.Popen([*command, str(tmp_path / "out")], env=environment, start_new_session=True)
    while not list((tmp_path / "out").glob("train-00003.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    assert len(marked(str(tmp_path))) >= 3  # two workers and their parent
    process.kill()
    process.wait()
    assert_ends(str(tmp_path))
    finished = list((tmp_path / "out").glob("train-0000[0-2].parquet"))
    times = {path: path.stat().st_mtime_ns for path in finished}
    again = subprocess.run(
        [*command, str(tmp_path / "out")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == times and len(times) == 3
    config = json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]
    assert config["decode"] is True
    convert(*arguments(root, tmp_path / "whole", shard_rows=40, decode=True, val_fraction=0.05))
    whole, resumed = raw_sets.tree(tmp_path / "whole"), raw_sets.tree(tmp_path / "out")
    assert set(whole) == set(resumed)
    images = {name: digest for name, digest in whole.items() if name.startswith("images/")}
    assert images and all(resumed[name] == digest for name, digest in images.items())
    for split in ("train", "val"):  # paths of rendered images differ, the rest is equal
        for a, b in zip(
            sorted((tmp_path / "whole").glob(f"{split}-*")), sorted((tmp_path / "out").glob(f"{split}-*")), strict=True
        ):
            rows = [pq.read_table(file).drop_columns(["images"]).to_pylist() for file in (a, b)]
            assert rows[0] == rows[1]


def marked(mark):
    """Processes that were started with this mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"VERL_MARS_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_a_killed_worker_ends_with_a_sentence(small, tmp_path, monkeypatch):
    start_workers_at_once(monkeypatch.setattr)
    monkeypatch.setattr(workers_module, "CHUNK", 4)

    def advance(rows, rejects):
        for worker in multiprocessing.active_children() if rows == 12 else ():
            worker.kill()

    with pytest.raises(DataError, match="fewer --workers"):
        convert(*arguments(small, tmp_path / "out", workers=1), advance)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    convert(*arguments(small, tmp_path / "out"))
    whole = raw_sets.tree(tmp_path / "out")
    assert {"manifest.json", "rejects.jsonl", "train-00000.parquet"} < set(whole)


# A full disk


def without_room(limit, root, out):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        convert(*arguments(root, out, images="embed"))
    except DataError as error:
        os._exit(3 if "no space left" in str(error) and "same command" in str(error) else 4)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_a_file_that_cannot_grow_ends_with_a_sentence(small, tmp_path, share):
    out = tmp_path / "out"
    result = convert(*arguments(small, tmp_path / "whole", images="embed"))
    limit = int(share * max(Path(file).stat().st_size for part in result.files.values() for file in part))
    assert in_child(lambda: without_room(limit, small, out)) == 3
    assert not list(out.rglob("*.tmp"))
    for shard in out.glob("*.parquet"):
        pq.read_table(shard)
    convert(*arguments(small, out, images="embed"))
    for split, files in result.files.items():
        whole = [row for file in files for row in pq.read_table(file).to_pylist()]
        resumed = [row for file in sorted(out.glob(f"{split}-*")) for row in pq.read_table(file).to_pylist()]
        assert [row["images"] for row in resumed] == [row["images"] for row in whole]


FULL_DISK = """
import sys
from pathlib import Path
from verl_mars.data.cli import find_converter
from verl_mars.data.convert import convert
from verl_mars.data.faults import DataError
from verl_mars.data.settings import settings_from
root, out, images = sys.argv[1:]
settings = settings_from(dict(root=root, out=out, images=images, shard_rows=9, max_reject=0.1))
try:
    convert(find_converter("manifest"), settings)
except DataError as error:
    print(error)
print(sorted(path.name for path in Path(out).rglob("*") if path.is_file() and path.suffix == ".tmp"))
"""


@pytest.mark.parametrize(("images", "size"), [("embed", "128k"), ("path", "20k"), ("path", "40k")])
def test_a_full_disk_ends_with_a_sentence(small, tmp_path, images, size):
    out = tmp_path / "disk"
    out.mkdir()
    script = (
        f'mount -t tmpfs -o size={size} none "{out}" && exec "{sys.executable}" -c "$0" "{small}" "{out}/x" {images}'
    )
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, FULL_DISK]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no `unshare` here to make a small disk with")
    if "mount" in result.stderr or "unshare" in result.stderr:
        pytest.skip(f"no small disk can be made here: {result.stderr.strip()}")
    assert not result.stderr
    sentence, left = result.stdout.splitlines()
    assert "no space left" in sentence and "same command" in sentence and left == "[]"
