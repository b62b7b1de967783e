"""The pipeline again: over finished work, and after any kind of end."""

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
from interruptions import OPTIONS, arguments, assert_ends, in_child, killed_at, marked, start_workers_at_once, table_of

from verl_mars.data import shards
from verl_mars.data import workers as workers_module
from verl_mars.data.convert import convert
from verl_mars.data.faults import DataError

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


def test_a_conversion_that_gave_nothing_holds_no_folder(small, run):
    lines = (small / "manifest.jsonl").read_text()
    (small / "manifest.jsonl").write_text("{\n")
    for seed in (0, 1):  # other settings, and no shard that they could cost
        with pytest.raises(DataError, match="1 of 1 samples"):
            run("manifest", small, **OPTIONS, seed=seed)
    (small / "manifest.jsonl").write_text(lines)
    assert run("manifest", small, **OPTIONS, seed=2).rows == 57


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


def test_killed_at_any_write_it_ends_with_the_same_bytes(small, tmp_path):
    (tmp_path / "few").mkdir()
    small = raw_sets.large_manifest(tmp_path / "few", rows=24, wrong=(5, 23))
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


def test_a_killed_command_leaves_no_process_and_goes_on(tmp_path):
    (tmp_path / "raw").mkdir()
    root = raw_sets.large_manifest(tmp_path / "raw", rows=400)
    for k in range(5):
        raw_sets.depth(root / f"depth{k}.png", (320, 240), near=300 + 50 * k)
    script = f"import runpy, sys; sys.path.append({str(Path(__file__).parent)!r}); import interruptions as this; "
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
