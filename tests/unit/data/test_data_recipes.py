"""The command in the comment of each data overlay writes the files that the overlay names."""

import re
import shlex
from pathlib import Path

import pytest
import raw_sets
import yaml
from typer.testing import CliRunner

from verl_mars.cli import app

FOLDER = Path(__file__).parents[3] / "recipes" / "dataset"
MAKERS = {
    "LLVIP": raw_sets.llvip,
    "SpatialQA": raw_sets.spatialqa,
    "SpatialBench": raw_sets.spatialbench,
    "SUNRGBD": raw_sets.sunrgbd,
    "M4-Instruct": lambda root: raw_sets.m4_instruct(root, rows=200),  # enough for a share of 5% to have a row
    "raw": lambda root: raw_sets.manifest(root, rows=60),
}
OVERLAYS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "toy")


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_command_of_an_overlay_writes_the_files_that_it_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (FOLDER / f"{name}.yaml").read_text()
    commands = re.findall(r"^#   verl-mars (data convert .*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        _, _, converter, *arguments = shlex.split(command.replace("CONVERSATIONS.json", "spatialqa.json"))
        root = tmp_path / arguments[arguments.index("--root") + 1]
        if not root.exists():
            root.mkdir()
            MAKERS[root.name](root)
        result = CliRunner().invoke(app, ["data", "convert", converter, *arguments, "--max-reject", "1.0"])
        assert result.exit_code == 0, result.output
    data = yaml.safe_load(text)["data"]
    for file in data["train_files"] + data["val_files"]:
        assert Path(file.replace("${data.root}", data["root"])).is_file(), file
