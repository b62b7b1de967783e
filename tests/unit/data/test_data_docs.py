"""docs/data-format.md: its examples convert and pass, and every kind of fault is in its table."""

import json
import re
from pathlib import Path

import data_table
import pytest
import raw_sets

from verl_mars.data.check import check_files
from verl_mars.data.cures import CURES
from verl_mars.data.schema import EXTRA_INFO_FIELDS, validated
from verl_mars.data_prep import converter_names
from verl_mars.tasks import TASKS
from verl_mars.vision.resize import ImageLimits, visual_tokens

PAGE = (Path(__file__).parents[3] / "docs" / "data-format.md").read_text(encoding="utf-8")
EXAMPLES = {
    kind: [json.loads(text) for text in re.findall(rf"<!-- {kind} -->\n```json\n(.*?)```", PAGE, re.S)]
    for kind in ("manifest", "row")
}


def test_the_examples_of_a_manifest_convert(tmp_path, run):
    root = tmp_path / "raw"
    lines = EXAMPLES["manifest"]
    assert len(lines) == 5
    for line in lines:
        for source in line["sources"]:
            images = source["images"] if isinstance(source["images"], list) else [source["images"]]
            for image in images:
                path = root / (image["path"] if isinstance(image, dict) else image)
                raw_sets.depth(path) if "depth" in str(path) else raw_sets.picture(path)
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = run("manifest", root, val_fraction=0.0)
    assert result.rows == 5 and check_files(result.files["train"]).ok


def test_the_example_of_a_row_is_right():
    (row,) = EXAMPLES["row"]
    assert validated(row).extra_info.sample_id == "yard-1"
    assert set(row["extra_info"]) == set(EXTRA_INFO_FIELDS)


@pytest.mark.parametrize("task", TASKS)
def test_the_ground_truths_of_the_table_are_right(task):
    (text,) = re.findall(rf"^\| `{task}` \| `(\{{.*?\}})`", PAGE, re.M)
    assert TASKS[task].read(text)


def test_the_python_example_runs(tmp_path, make_row, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(code, {"rows": [make_row(0)]})
    assert (tmp_path / "train.parquet").exists()


def test_the_prompt_lengths_are_right(tmp_path, run):
    result = run("llvip", raw_sets.make("llvip", tmp_path / "raw", size=(1280, 1024)))
    printed = re.findall(r"^    (\S.*) \\$", PAGE, re.M)
    assert [line.replace("/data/llvip", str(result.out)) for line in printed] == result.summary["recipe"]
    one = visual_tokens((1600, 900), ImageLimits())
    small = visual_tokens((1600, 900), ImageLimits(), None, 500_000)
    said = (
        f"camera is {one:,} tokens for Qwen2.5-VL, six are {6 * one:,}; at `--max-pixels 500000` six are {6 * small:,}"
    )
    assert said in " ".join(PAGE.split())


def test_the_figures_of_speed_are_those_that_were_measured():
    results = json.loads(data_table.RESULTS.read_text())
    assert "\n".join(data_table.table(results)) in PAGE
    held = [bound for part in results.values() for bound in part.get("holds", {}).values()]
    assert len(held) == 6 and all(all(b.values()) if isinstance(b, dict) else b for b in held)


@pytest.mark.parametrize("code", CURES)
def test_every_kind_of_fault_has_its_line(code):
    (line,) = re.findall(rf"^\| `{code}` \| .*$", PAGE.partition("## Errors and their cures")[2], re.M)
    assert line.endswith(f"| {CURES[code].replace('<', '&lt;')} |")


def test_every_data_set_has_its_line():
    for name in converter_names():
        assert f"\n| `{name}` |" in PAGE


def test_links_lead_somewhere():
    headings = re.findall(r"^## (.*)$", PAGE, re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#(.*?)\)", PAGE)) <= anchors
