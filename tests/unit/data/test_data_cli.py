"""The command line and statistics."""

import json
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import raw_sets
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.data.schema import ARROW_SCHEMA, write_rows
from verl_mars.data.stats import collect
from verl_mars.data_prep import converter_names, find_converter


@pytest.fixture
def call():
    """A function that calls ``verl-mars data ...``; it checks the exit code and returns (stdout, stderr)."""

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["data", *map(str, arguments)])
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.stdout, result.stderr

    return run


def test_help_needs_no_heavy_import():
    code = (
        "import sys, verl_mars.cli, verl_mars.data\n"
        "heavy = {'numpy', 'pyarrow', 'PIL', 'torch', 'datasets', 'transformers', 'verl', 'pydantic', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_list_names_every_data_set(call):
    out, _ = call("list")
    assert set(raw_sets.SETS) == set(converter_names())
    for name in raw_sets.SETS:
        assert name in out
        told, _ = call("list", name)
        converter = find_converter(name)
        assert converter.licence in told and "Expected under --root" in told
        for option in converter.options.model_fields:
            assert option in told
        for text in converter.caveats:
            assert " ".join(text.split()) in " ".join(told.split())


def test_convert_prints_what_to_paste(call, raw, tmp_path):
    root = raw("llvip")
    out, _ = call("convert", "llvip", "--root", root, "--out", tmp_path / "out")
    assert f"'data.train_files=[{tmp_path}/out/train-00000.parquet]' \\" in out
    assert f"'data.val_files=[{tmp_path}/out/test-00000.parquet]' \\" in out
    assert "++actor_rollout_ref.rollout.limit_images=2 \\" in out
    assert re.search(r"data\.max_prompt_length=\d+ \\", out)
    assert "frames without a person" in out and "note" in out and "licence" in out
    assert out.splitlines()[-1] == f"written  {tmp_path}/out" and "has no split" not in out
    out, _ = call("convert", "llvip", "--root", root, "--out", tmp_path / "some", "--split", "train")
    assert "this conversion has no split for data.val_files" in out


def test_convert_says_what_is_wrong(call, raw, tmp_path):
    root = raw("llvip")
    out = tmp_path / "out"
    for arguments, code, says in (
        (("convert", "llvip", "--root", tmp_path / "no", "--out", out), 2, "is no folder"),
        (("convert", "coco", "--root", root, "--out", out), 2, "allowed: llvip, m3fd"),
        (("convert", "a.b:C", "--root", root, "--out", out), 2, "no converter at a.b:C"),
        (
            ("convert", "verl_mars.data.cli:app", "--root", root, "--out", out),
            2,
            "is no verl_mars.data.sample.Converter",
        ),
        (("convert", "llvip", "--root", root, "--out", out, "--style", "x"), 2, "--style"),
        (("convert", "llvip", "--root", root, "--out", out, "--set", "x"), 2, "NAME=VALUE"),
        (("convert", "llvip", "--root", root, "--out", out, "--set", "x=1"), 2, "options of llvip: none"),
    ):
        _, error = call(*arguments, code=code)
        assert says in error and "Traceback" not in error
    (root / "infrared" / "test" / "190001.jpg").unlink()
    out_text, error = call("convert", "llvip", "--root", root, "--out", out, code=1)
    assert "1 of 6 samples were rejected (1 x unpaired)" in error and "rejects.jsonl" in error
    assert "rejected  1 (16.67%)" in out_text and "Paste" not in out_text
    assert "1 x unpaired: Add the missing file of the pair" in out_text  # the cure


def test_folders_that_cannot_be_made_are_told(call, raw, run, tmp_path):
    root = raw("llvip")
    taken = root / "Annotations" / "010001.xml"
    for out, says in ((taken, "File exists"), ("/proc/nowhere", "No such file")):
        _, error = call("convert", "llvip", "--root", root, "--out", out, code=2)
        assert f"--out {out} cannot be made: {says}" in error
        file = run("llvip", root).files["train"][0]
        _, error = call("show", file, "--out", out, code=2)
        assert f"--out {out} cannot be made: {says}" in error


def test_a_disk_error_is_a_sentence(call, raw, monkeypatch, tmp_path):
    def broken(*_):
        raise PermissionError(13, "Permission denied", "/data/7.jpg")

    monkeypatch.setattr("verl_mars.data.stats.row_batches", broken)
    (tmp_path / "a.parquet").touch()
    _, error = call("stats", tmp_path / "a.parquet", code=1)
    assert error == "error: /data/7.jpg: Permission denied\n"


@pytest.mark.slow
def test_a_file_of_another_tool(call, tmp_path):
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table({"question": ["a"], "picture": ["a.jpg"]}), file)
    _, error = call("show", file, "--out", tmp_path / "sheets", code=1)
    assert "no column prompt or images, its columns are: question, picture" in error
    out, _ = call("stats", file)
    assert "1 row; see" in out
    out, _ = call("validate", file, code=1)
    assert "prompt: no such column; the file has question, picture" in out and "1 row in 1 file, 0 read by verl" in out


def test_texts_in_brackets_are_no_markup(call, tmp_path, make_row):
    truth = {"style": "rule", "ground_truth": json.dumps({"answers": ["[/bold] [red]"]})}
    write_rows(tmp_path / "a.parquet", [make_row(0, data_source="[/x]", reward_model=truth)])
    out, _ = call("stats", tmp_path / "a.parquet")
    assert "[/bold] [red]: 1" in out and "[/x]: 1" in out


def test_blanks_and_other_scripts_in_paths(call, tmp_path):
    root, out = tmp_path / "räume und 图", tmp_path / "aus gabe 中"
    raw_sets.picture(root / "bild ä 1.jpg")
    raw_sets.picture(root / "红外 图.jpg")
    sources = [{"name": "可见光", "images": "bild ä 1.jpg"}, {"name": "红外", "images": "红外 图.jpg"}]
    line = {"id": "räum 1", "question": "图像中有几个人？", "count": 2, "sources": sources}
    (root / "manifest.jsonl").write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")
    call("convert", "manifest", "--root", root, "--out", out, "--val-fraction", 0)
    call("validate", out / "train-00000.parquet")
    call("show", out / "train-00000.parquet", "--out", tmp_path / "pa ge")


def test_a_converter_of_ones_own(call, raw, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from verl_mars.data_prep.llvip import Llvip\nclass Mine(Llvip):\n    name = 'mine'\nCONVERTER = Mine()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    call("convert", "mine:CONVERTER", "--root", raw("llvip"), "--out", tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "train-00000.parquet")["data_source"][0].as_py() == "mine"


def test_stats(call, raw, run):
    result = run("manifest", raw("manifest"), val_fraction=0.0)
    files = result.files["train"]
    found = json.loads(call("stats", "--json", *files)[0])
    assert found["rows"] == 9 and found["tasks"] == {"vqa": 6, "count": 1, "mcq": 1, "grounding": 1}
    assert found["images_per_row"] == {"2": 8, "6": 1} and found["sources_per_row"] == {"2": 7, "6": 1, "1": 1}
    assert found["boxes_per_row"] == {"1": 1} and found["own_truths"]["thermal"] == 1
    assert found["answers"] == {"no": 3, "yes": 3, "3": 1, "B": 1}
    assert found["max_tokens"]["qwen2_5_vl"] == max(
        part["max_fused_tokens"] for part in result.summary["splits"].values()
    )
    assert found["unreadable"] == 0
    out, _ = call("stats", *files)
    assert "source thermal" in out and "rgb" in out
    _, error = call("stats", "/no.parquet", code=1)
    assert "does not exist" in error


def test_stats_count_rows_of_another_form(tmp_path, make_row):
    rows = [make_row(0), make_row(1, reward_model={"ground_truth": "yes"})]
    pq.write_table(pa.Table.from_pylist(rows, schema=ARROW_SCHEMA), tmp_path / "a.parquet")
    assert collect([str(tmp_path / "a.parquet")]).unreadable == 1
