"""docs/your-data.md: each format on the page converts with the commands there, and prints what the page shows."""

import re
import shlex
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import raw_sets
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.data.check import check_files

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
SECTIONS = {
    title: body for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S) if "```bash" in body
}


def make_files(body):
    """The files that a section shows, and the pictures beside them."""
    for name, content in re.findall(r"<!-- file: (.*?) -->\n```\w+\n(.*?)```", body, re.S):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    root = Path(re.search(r"--root (\S+)", body)[1])
    for number in (1, 2):
        for folder in ("rgb", "ir"):
            raw_sets.picture(root / folder / f"{number}.jpg", (64, 48), seed=number)
    if root.name == "yolo":
        (root / "images" / "train").mkdir(parents=True)
        (root / "rgb" / "1.jpg").rename(root / "images" / "train" / "1.jpg")
    if root.name == "geo3k":
        row = {
            "data_source": "hiyouga/geometry3k",
            "prompt": [{"role": "user", "content": "<image>Find x."}],
            "images": [{"bytes": (root / "rgb" / "1.jpg").read_bytes(), "path": None}],
            "reward_model": {"style": "rule", "ground_truth": "2\\sqrt{3}"},
            "extra_info": {"split": "train", "index": 0, "question": "<image>Find x."},
        }
        pq.write_table(pa.Table.from_pylist([row]), root / "train.parquet")
    if root.name == "hf":
        images = {"rgb": [str(root / "rgb/1.jpg")], "depth": [str(root / "ir/1.jpg")]}
        data = datasets.Dataset.from_dict({"question": ["Is it?"], "answer": ["yes"], **images})
        data = data.cast_column("rgb", datasets.Image()).cast_column("depth", datasets.Image())
        datasets.DatasetDict({"train": data, "validation": data}).save_to_disk("saved")
        for folder in ("rgb", "ir"):
            shutil.rmtree(root / folder)
        Path("saved").rename("hf-saved")
        root.rmdir()
        Path("hf-saved").rename(root)


def test_every_format_of_the_table_has_a_section():
    named = set(re.findall(r"^\| .* \| `(\w+)` \|", PAGE, re.M)) - {"manifest"}
    assert named == {re.search(r"data convert (\w+)", body)[1] for body in SECTIONS.values()} and len(named) == 7


@pytest.mark.parametrize("title", SECTIONS)
def test_the_commands_of_a_section_work(tmp_path, monkeypatch, title):
    monkeypatch.chdir(tmp_path)
    body = SECTIONS[title]
    make_files(body)
    commands = [shlex.split(line) for line in re.findall(r"```bash\n(.*?)```", body, re.S)[0].strip().splitlines()]
    assert [command[:3] for command in commands] == [
        ["verl-mars", "data", "convert"],
        ["verl-mars", "data", "validate"],
        ["python", "-m", "verl.trainer.main_ppo"],
    ]
    result = CliRunner().invoke(app, commands[0][1:], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    shown = re.findall(r"```text\n(.*?)```", body, re.S)[-1].strip().splitlines()
    assert shown and [line for line in shown if line not in result.stdout] == []
    files = commands[1][3:]
    assert check_files(files).ok
    recipe = next(part.split("=")[1] for part in commands[2] if part.startswith("--config-name="))
    assert (ROOT / "recipes" / f"{recipe}.yaml").exists()
    trained = [name for part in commands[2] for name in re.findall(r"_files=\[(.*?)\]", part)]
    assert trained and set(trained) <= set(files)
    for name in trained:
        assert str(Path(name).resolve()) in result.stdout  # the lines to paste name the same files
