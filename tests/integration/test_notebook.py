"""examples/two_images.ipynb runs from its first cell to its last, and shows what its text says."""

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.recipes]

NOTEBOOK = Path(__file__).parents[2] / "examples" / "two_images.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The folder where it ran, and what each cell printed."""
    import nbformat
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(folder)}}).execute()
    printed = ["".join(output.get("text", "") for output in cell.get("outputs", [])) for cell in notebook.cells]
    return folder / "two_images", printed


def test_it_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


def test_rows_report_and_step_are_there(executed):
    work, printed = executed
    assert (work / "data" / "train-00000.parquet").exists() and (work / "probe" / "report.html").exists()
    assert json.loads((work / "probe" / "summary.json").read_text())["accuracy"]["fused"]["rows"] == 8
    assert any("8 rows in 1 file" in text and "rejected  0" in text and "no faults" in text for text in printed)


def test_one_step_trains_with_an_anchor_of_each_source(executed):
    work, printed = executed
    (line,) = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    assert line["step"] == 1 and line["data"]["mars/missing_anchors"] == 0
    assert {"mars/anchor_score/rgb", "mars/anchor_score/infrared"} <= line["data"].keys()
    assert line["data"]["actor/grad_norm"] > 0
    assert "mars/info_gain" in printed[-2]


def test_rgb_misleads_where_the_text_says_so(executed):
    """Half of the scenes have a glow around an object that is not hot: infrared alone sees that, RGB alone does not."""
    work, _ = executed
    truths = [json.loads(line)["answer"] for line in (work / "raw" / "manifest.jsonl").read_text().splitlines()]
    right = {"rgb": 0, "infrared": 0}
    for answer in map(json.loads, (work / "probe" / "responses.jsonl").read_text().splitlines()):
        if answer["view"] in right and answer["index"] % 2:
            right[answer["view"]] += f"<answer>{truths[answer['index']]}</answer>" in answer["response"]
    assert right["infrared"] >= 3 and right["rgb"] <= 1
