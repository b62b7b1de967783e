"""The pipeline again: over a finished conversion, and after any kind of end."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import raw_sets
from interruptions import OPTIONS, arguments, in_child, killed_at, start_workers_at_once, table_of

from verl_mars.data import render
from verl_mars.data.convert import convert
from verl_mars.errors import DataError
from verl_mars.interrupts import interrupts_noted

pytestmark = pytest.mark.slow  # processes that are ended

# Again


def test_a_second_run_gives_the_same_bytes_and_renders_nothing(small, run, monkeypatch):
    result = run("manifest", small, **OPTIONS)
    tree = raw_sets.tree(result.out)
    assert any(name.startswith("images/") for name in tree)
    monkeypatch.setattr(render, "encode", None)  # whatever renders depth again fails
    assert run("manifest", small, **OPTIONS).summary == result.summary
    assert raw_sets.tree(result.out) == tree


def test_a_damaged_rendered_image_is_rendered_again(small, run):
    result = run("manifest", small, **OPTIONS)
    tree = raw_sets.tree(result.out)
    for victim, keep in zip(sorted((result.out / "images").iterdir()), (0, 100, -7), strict=False):
        victim.write_bytes(victim.read_bytes()[:keep])
    run("manifest", small, **OPTIONS)
    assert raw_sets.tree(result.out) == tree


def test_other_raw_data_replace_what_was_there(small, run):
    before = run("manifest", small, **OPTIONS)
    text = (small / "manifest.jsonl").read_text()
    (small / "manifest.jsonl").write_text("".join(text.replace("40?", "forty?").splitlines(keepends=True)[30:]))
    again = run("manifest", small, **OPTIONS)
    questions = [row["extra_info"]["question"] for split in again.files for row in table_of(again, split)]
    assert "forty?" in questions and "40?" not in questions
    assert len(again.files["train"]) < len(before.files["train"])
    assert {str(file) for file in again.out.glob("*.parquet")} == {f for part in again.files.values() for f in part}


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


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_left_alone(small, run, tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.parquet").write_bytes(b"mine")
    (tmp_path / "out" / "summary.json").write_text("[]")
    with pytest.raises(DataError, match="something else"):
        run("manifest", small, overwrite=overwrite)
    assert (tmp_path / "out" / "train.parquet").read_bytes() == b"mine"


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
        for name, content in raw_sets.tree(out).items():
            assert name.endswith(".tmp") or content == whole[name]  # what has its name is complete
        convert(*arguments(small, out))
        assert raw_sets.tree(out) == whole, call
        if code == 0:
            break
    assert killed > 15 and code == 0


@pytest.mark.parametrize("images", ["path", "embed"])
@pytest.mark.parametrize(("workers", "rows"), [(0, (1, 12, 60)), (2, (13,))])
def test_killed_at_any_row_it_ends_with_the_same_bytes(small, tmp_path, monkeypatch, images, workers, rows):
    start_workers_at_once(monkeypatch.setattr)
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
    assert not list(out.glob("*.parquet")) and not (out / "summary.json").exists()
    convert(*arguments(small, out, images=images))
    assert raw_sets.tree(out) == whole


AS_IN_A_TERMINAL = """\
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with SIGINT ignored
runpy.run_module("verl_mars.cli", run_name="__main__")
"""


def test_an_interrupted_command_leaves_rendered_images_only(tmp_path):
    (tmp_path / "raw").mkdir()
    root = raw_sets.large_manifest(tmp_path / "raw", rows=12_000)
    command = [sys.executable, "-c", AS_IN_A_TERMINAL, "data", "convert", "manifest", "--root", str(root)]
    process = subprocess.Popen(
        [*command, "--shard-rows", "40", "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "out").glob("*.parquet.tmp")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].endswith("error: interrupted\n")
    # Python ends by the signal itself, which a shell shows as 130 too, if the interrupt fell into an `exec` of imports
    assert process.returncode in (130, -signal.SIGINT)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["images"]


def test_an_interrupt_that_c_code_loses_is_obeyed_at_the_next_row(small, tmp_path, interrupts):
    seen = []

    def lose_an_interrupt(rows, rejects):
        seen.append(rows + rejects)
        if len(seen) == 7:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interrupts_noted():
        convert(*arguments(small, tmp_path / "out"), lose_an_interrupt)
    assert len(seen) == 7 and not list((tmp_path / "out").glob("*.parquet*"))


def test_workers_of_a_killed_conversion_end(small, tmp_path, monkeypatch):
    start_workers_at_once(monkeypatch.setattr)
    pids = tmp_path / "pids"

    def work():
        def advance(rows, rejects):
            if rows == 20:
                pids.write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
                os.kill(os.getpid(), signal.SIGKILL)

        convert(*arguments(small, tmp_path / "out", workers=2), advance)

    assert in_child(work) == -signal.SIGKILL
    workers = pids.read_text().split()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(running(pid) for pid in workers):
        time.sleep(0.1)
    assert len(workers) == 2 and not any(running(pid) for pid in workers)


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_worker_ends_with_a_sentence(small, tmp_path, monkeypatch):
    start_workers_at_once(monkeypatch.setattr)

    def advance(rows, rejects):
        for worker in multiprocessing.active_children() if rows == 12 else ():
            worker.kill()

    with pytest.raises(DataError, match="fewer --workers"):
        convert(*arguments(small, tmp_path / "out", workers=1), advance)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert convert(*arguments(small, tmp_path / "out")).rows == 57


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
    assert not list(out.rglob("*.tmp")) and not list(out.glob("*.parquet"))
    convert(*arguments(small, out, images="embed"))
    for split, files in result.files.items():
        whole = [row for file in files for row in pq.read_table(file).to_pylist()]
        again = [row for file in sorted(out.glob(f"{split}-*")) for row in pq.read_table(file).to_pylist()]
        assert [row["images"] for row in again] == [row["images"] for row in whole]


def test_the_command_says_it_on_a_full_disk(small, tmp_path):
    out = tmp_path / "disk"
    out.mkdir()
    script = f'mount -t tmpfs -o size=128k none "{out}" && exec "$@"'
    command = [sys.executable, "-m", "verl_mars.cli", "data", "convert", "manifest", "--root", str(small)]
    command += ["--out", f"{out}/x", "--images", "embed", "--max-reject", "0.1"]
    isolated = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", *command]
    try:
        done = subprocess.run(isolated, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no right to mount")
    assert done.returncode == 1 and "error: no space left for" in done.stderr and "Traceback" not in done.stderr


def test_summary_lists_what_is_there(small, run):
    result = run("manifest", small, **OPTIONS)
    summary = json.loads((result.out / "summary.json").read_text())
    listed = {s["file"]: (s["rows"], s["bytes"]) for part in summary["splits"].values() for s in part["shards"]}
    there = {p.name: (pq.ParquetFile(p).metadata.num_rows, p.stat().st_size) for p in result.out.glob("*.parquet")}
    assert listed == there
