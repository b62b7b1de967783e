"""The command line, contact sheets and statistics."""

import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import raw_sets
from PIL import Image
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.data import cli, lettering, sheets
from verl_mars.data.schema import ARROW_SCHEMA, write_rows
from verl_mars.data.stats import collect


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
        "import sys, verl_mars.data.cli, verl_mars.data\n"
        "heavy = {'numpy', 'pyarrow', 'PIL', 'torch', 'datasets', 'transformers', 'verl', 'pydantic', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_list_names_every_data_set(call):
    out, _ = call("list")
    assert set(raw_sets.SETS) == set(cli.converter_names())
    for name in raw_sets.SETS:
        assert name in out
        told, _ = call("list", name)
        converter = cli.find_converter(name)
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
    call("show", out / "train-00000.parquet", "--out", tmp_path / "sh eets")


def test_a_converter_of_ones_own(call, raw, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from verl_mars.data_prep.llvip import Llvip\nclass Mine(Llvip):\n    name = 'mine'\nCONVERTER = Mine()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    call("convert", "mine:CONVERTER", "--root", raw("llvip"), "--out", tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "train-00000.parquet")["data_source"][0].as_py() == "mine"


def test_each_converter_runs_as_a_module(raw, tmp_path):
    command = [sys.executable, "-m", "verl_mars.data_prep.sunrgbd", "--root", raw("sunrgbd"), "--out", tmp_path / "out"]
    told = subprocess.run([*map(str, command), "--workers", "0"], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    assert "data.train_files" in told.stdout and (tmp_path / "out" / "manifest.json").exists()
    for name in raw_sets.SETS:
        source = __import__(f"verl_mars.data_prep.{name}", fromlist=["CONVERTER"])
        assert source.CONVERTER.name == name and "run_converter(CONVERTER)" in open(source.__file__).read()


def test_stats(call, raw, run):
    result = run("manifest", raw("manifest"), val_fraction=0.0)
    files = result.files["train"]
    found = json.loads(call("stats", "--json", *files)[0])
    assert found["rows"] == 9 and found["tasks"] == {"vqa": 6, "count": 1, "mcq": 1, "grounding": 1}
    assert found["images_per_row"] == {"2": 8, "6": 1} and found["sources_per_row"] == {"2": 7, "6": 1, "1": 1}
    assert found["boxes_per_row"] == {"1": 1} and found["own_truths"]["thermal"] == 1
    assert found["answers"] == {"no": 3, "yes": 3, "3": 1, "B": 1}
    assert found["max_tokens"]["qwen2_5_vl"] == max(
        part["max_fused_tokens"] for part in result.manifest["splits"].values()
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


# Contact sheets


def colours(path):
    found = Image.open(path).convert("RGB").getcolors(2**24)
    return {colour for _, colour in found}


@pytest.mark.parametrize("name", raw_sets.SETS)
@pytest.mark.parametrize("images", ["path", "embed"])
def test_sheets_of_every_set(call, raw, run, tmp_path, name, images):
    result = run(name, raw(name), images=images)
    files = [file for part in result.files.values() for file in part]
    out, _ = call("show", *files, "--out", tmp_path / "sheets", "--rows", 3, "--per-sheet", 2)
    drawn = out.split()
    assert drawn == [str(tmp_path / "sheets" / f"sheet-{n:03d}.png") for n in range((min(3, result.rows) + 1) // 2)]
    found = set().union(*map(colours, drawn))
    assert len(found) > 100
    boxed = name in ("llvip", "m3fd", "sunrgbd")
    assert not boxed or sheets.BOX_COLOURS[0] in found


def test_boxes_are_drawn_where_they_are(tmp_path, make_row):
    size = [400, sheets.LARGE_CELL_HEIGHT]  # the pictures keep their size
    path = raw_sets.picture(tmp_path / "large.png", tuple(size))
    truth = {"boxes": [[100, 60, 200, 240]], "labels": ["car"], "frame": 0, "size": size}
    row = make_row(
        0,
        images=[{"image": str(path)}, {"image": str(path)}],
        extra={"task": "grounding", "image_sizes": [size] * 2},
        reward_model={"style": "rule", "ground_truth": json.dumps(truth)},
    )
    write_rows(tmp_path / "a.parquet", [row])
    (sheet,) = sheets.write_sheets([str(tmp_path / "a.parquet")], tmp_path)
    pixels = np.asarray(Image.open(sheet)).astype(int)
    green = (np.abs(pixels - sheets.BOX_COLOURS[0]).sum(-1) < 10).nonzero()
    left = sheets.MARGIN
    top = sheets.MARGIN + 2 * sheets.LINE + sheets.LINE + 2
    assert green[1].min() == left + 100 and green[0].max() == top + 240 - 1
    first = green[1][green[1] < left + 400]
    assert first.max() == left + 200 - 1
    second = green[1][green[1] > left + 400]
    assert second.min() == left + 400 + sheets.GAP + 100  # aligned: drawn thinly on the other source too


def test_labels_do_not_hide_each_other():
    def drawn(boxes, labels):
        picture = Image.new("RGB", (400, 300))
        sheets._draw_boxes(picture, sheets._Boxes(boxes, labels, 0, (400, 300)), 1.0, thin=False)
        return picture.tobytes()

    box, apart = [100, 100, 200, 200], [100, 150, 200, 200]
    assert drawn([box, box], ["car", "car"]) == drawn([box], ["car"])
    assert drawn([box, apart], ["car", "car"]) != drawn([box], ["car"])


def test_a_source_with_its_own_truth_has_its_own_boxes(raw, run, tmp_path):
    result = run("manifest", raw("manifest"), val_fraction=0.0)
    row = next(
        r for r in pq.read_table(result.files["train"][0]).to_pylist() if r["extra_info"]["sample_id"] == "unaligned"
    )
    drawn = np.asarray(sheets.draw_row(sheets.Placed("x", 0, row)))
    green = (np.abs(drawn.astype(int) - sheets.BOX_COLOURS[0]).sum(-1) < 10).nonzero()
    scale = sheets.LARGE_CELL_HEIGHT / 32
    start = sheets.MARGIN + 64 * sheets.LARGE_CELL_HEIGHT // 48 + sheets.GAP
    assert abs(green[1][green[1] > start].min() - (start + 4 * scale)) <= 1


def test_what_cannot_be_shown_is_told_on_the_sheet(tmp_path, make_row):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"x")
    rows = [
        make_row(0, images=[{"image": str(broken)}, {"image": "/missing.png"}]),
        make_row(1, images=[{"image": "https://example.org/a.png"}, {"image": None}], reward_model=None, sources=None),
        make_row(2, prompt=[{"role": "user", "content": "long " * 3000}]),
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=ARROW_SCHEMA), tmp_path / "a.parquet")
    (sheet,) = sheets.write_sheets([str(tmp_path / "a.parquet")], tmp_path)
    assert sheets.FAULT in colours(sheet) and Image.open(sheet).height < 2500


def test_long_texts_and_names_are_not_cut(tmp_path, make_row):
    """Whatever the letters' width, what is written stays on the sheet and inside its own place."""
    names = ["a_source_with_a_name_that_is_longer_than_its_picture_is_wide " * 3, "W" * 60]
    narrow = raw_sets.picture(tmp_path / "narrow.png", (10, 300))
    row = make_row(
        0,
        prompt=[{"role": "user", "content": f"<image><image>{'W' * 400} {'MMMM ' * 80} {'图' * 300}"}],
        images=[{"image": str(narrow)}] * 2,
        extra={"image_sizes": [[10, 300]] * 2, "sources": names, "sample_id": "W" * 400},
        sources=[{"name": name, "images": [k], "prompt": None, "ground_truth": None} for k, name in enumerate(names)],
    )
    write_rows(tmp_path / "a.parquet", [row])
    (sheet,) = sheets.write_sheets([str(tmp_path / "a.parquet")], tmp_path)
    pixels = np.asarray(Image.open(sheet)).astype(int)
    ruled = (pixels == sheets.RULE).all(-1)
    edge = (pixels.min(-1) < 200) & ~ruled
    assert not edge[:, : sheets.MARGIN - 1].any() and not edge[:, sheets.WIDTH - sheets.MARGIN + 1 :].any()
    between = slice(sheets.MARGIN + sheets.NAME_WIDTH + 1, sheets.TEXT_LEFT - 1)
    assert not edge[-12 * sheets.LINE :, between].any()


def test_a_narrow_picture_has_room_for_its_caption():
    for caption in ("a name", "0  " + "name" * 12, "W" * 400):
        cell = sheets._cell(Image.new("RGB", (10, 300)), caption, None, 0, 300)
        needed = lettering.length(caption, 14, bold=True) + lettering.length("10 x 300", 13)
        assert min(needed, sheets.MAX_CELL_WIDTH - 20) < cell.width <= sheets.MAX_CELL_WIDTH


def test_lines_break_between_words_and_lose_nothing():
    text = "one two three " * 40 + "W" * 300 + " " + "图" * 200
    lines = lettering.wrapped(text, 300, 15)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(lettering.length(line, 15) <= 300 for line in lines)
    assert lines[0].split()[-1] in ("one", "two", "three")
    assert lettering.wrapped("a\n\nb", 300, 15) == ["a", "", "b"]
    assert lettering.shortened("short", 300, 15) == "short"
    assert lettering.shortened("W" * 99, 100, 15).endswith("W…")


def test_letters_that_the_font_lacks_are_told_and_another_font_may_be_given(call, tmp_path, make_row):
    chinese = make_row(0, prompt=[{"role": "user", "content": "<image><image>几个人?"}])
    assert dict(sheets._lines(chinese))["font"][0].startswith("lacks 3 characters")
    assert "font" not in dict(sheets._lines(make_row(1)))
    write_rows(tmp_path / "a.parquet", [make_row(1)])
    other = lettering._file(bold=False).replace("Sans.ttf", "SansMono.ttf")
    drawn = []
    for font in (lettering._file(bold=False), other):
        (sheet,) = call("show", tmp_path / "a.parquet", "--out", tmp_path, "--font", font)[0].split()
        drawn.append(Image.open(sheet).tobytes())
    assert drawn[0] != drawn[1]
    (tmp_path / "no.ttf").write_bytes(b"no")
    _, error = call("show", tmp_path / "a.parquet", "--out", tmp_path, "--font", tmp_path / "no.ttf", code=1)
    assert "is no font" in error


def test_rows_are_picked_from_every_part(tmp_path, make_row):
    files = []
    for n in range(3):
        files.append(str(tmp_path / f"{n}.parquet"))
        write_rows(files[-1], [make_row(10 * n + k) for k in range(10)])
    picked = sheets.pick_rows(files, 6)
    assert [(placed.file, placed.number) for placed in picked] == [(file, k) for file in files for k in (0, 5)]
    assert len(sheets.pick_rows(files, 100)) == 30
