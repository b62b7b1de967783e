import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from verl_mars.toy import demo as module
from verl_mars.toy.demo import DemoError, demo, train, training_command
from verl_mars.toy.prepare import ToyPaths

CONSOLE = Console(width=100)


@pytest.fixture
def paths(toy_folder: Path) -> ToyPaths:
    held = toy_folder / "heldout.parquet"
    return ToyPaths(toy_folder, toy_folder / "model", held, held, held)


def _instead_of_verl(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Runs `script` where the demo would run verl; it gets the overrides as a dictionary `given`."""
    real = training_command

    def command(*args: Any) -> list[str]:
        overrides = [part for part in real(*args) if "=" in part and not part.startswith("--")]
        given = dict(part.replace("'", "").split("=", 1) for part in overrides)
        return [sys.executable, "-c", f"given = {given!r}\n" + script]

    monkeypatch.setattr(module, "training_command", command)


TRAINS = """
import json, os, pathlib, shutil, sys, time
with open(os.environ["VERL_FILE_LOGGER_PATH"], "w") as file:
    for step in range(1, int(given["trainer.total_training_steps"]) + 1):
        file.write(json.dumps({"step": step, "data": {"critic/score/mean": 0.5}}) + "\\n")
        file.flush()
folder = pathlib.Path(given["trainer.default_local_dir"]) / "global_step_2" / "actor" / "huggingface"
shutil.copytree(given["actor_rollout_ref.model.path"], folder)
dump = pathlib.Path(given["trainer.rollout_data_dir"]) / (given["trainer.total_training_steps"] + ".jsonl")
dump.parent.mkdir()
dump.write_text(json.dumps({"input": "where?", "output": "<answer>left</answer>", "score": 1.0}))
print("trained with", given["data.train_files"])
"""


def test_the_command_can_be_read_by_hydra(tmp_path: Path) -> None:
    odd = tmp_path / "it's an odd=folder, {really}"
    command = training_command(ToyPaths.under(odd), odd / "out", 30, 7, "mars")
    assert command[1:4] == ["-m", "verl.trainer.main_ppo", "--config-name=toy_mars_grpo"]
    parsed = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(command[4:])}
    assert str(parsed["data.train_files"]).strip("'") == str(odd / "train.parquet")
    assert str(parsed["trainer.default_local_dir"]).strip("'") == str(odd / "out" / "checkpoint")
    seeds = ("data.seed", "actor_rollout_ref.actor.data_loader_seed", "actor_rollout_ref.rollout.seed")
    assert [parsed[key] for key in seeds] == [7, 7, 7]
    assert parsed["trainer.total_training_steps"] == parsed["trainer.save_freq"] == 30
    assert "hf_model" in parsed["actor_rollout_ref.actor.checkpoint.save_contents"]
    assert training_command(ToyPaths.under(odd), odd, 1, 0, "grpo")[3] == "--config-name=toy_grpo"


@pytest.mark.slow
def test_a_demo_leaves_its_results(
    tmp_path: Path, paths: ToyPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _instead_of_verl(monkeypatch, TRAINS)
    monkeypatch.setattr(module, "prepare", lambda *_: paths)
    out = tmp_path / "results"
    (out / "checkpoint" / "global_step_99" / "actor" / "huggingface").mkdir(parents=True)
    (out / "checkpoint" / "global_step_99" / "actor" / "huggingface" / "old.safetensors").touch()
    summary = demo(out, steps=2, seed=5, algorithm="grpo")
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["accuracy_before"] == summary["accuracy_after"]
    assert (summary["seed"], summary["algorithm"], summary["steps"]) == (5, "grpo", 2)
    assert "&lt;answer&gt;left" in (out / "rollouts.html").read_text()
    for name in ("metrics.jsonl", "curve.png", "samples.png", "train.log"):
        assert (out / name).stat().st_size > 0
    assert not (out / "checkpoint" / "global_step_99").exists(), "an earlier demo's checkpoint would be evaluated"
    assert "trained with" in (out / "train.log").read_text()
    assert capsys.readouterr().out.splitlines()[-1] == f"results: {out}"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_summary(tmp_path: Path, paths: ToyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    _instead_of_verl(monkeypatch, TRAINS)
    monkeypatch.setattr(module, "prepare", lambda *_: paths)
    summaries = [demo(tmp_path / name, steps=2) for name in ("one", "two")]
    for summary in summaries:
        del summary["seconds"], summary["seconds_of"]
    assert summaries[0] == summaries[1]
    assert (tmp_path / "one" / "samples.png").read_bytes() == (tmp_path / "two" / "samples.png").read_bytes()


def test_a_training_that_fails_shows_the_end_of_its_log(
    tmp_path: Path, paths: ToyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    _instead_of_verl(monkeypatch, "for n in range(100): print('line', n)\nraise SystemExit('no such estimator')")
    with pytest.raises(DemoError, match=r"exit code 1. The end of .*train.log:\n(.|\n)*no such estimator") as caught:
        train(paths, tmp_path, 2, 0, "mars", CONSOLE)
    assert "line 99" in str(caught.value) and "line 20\n" not in str(caught.value)


@pytest.mark.slow
def test_a_training_that_stalls_is_ended_with_its_children(
    tmp_path: Path, paths: ToyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    _instead_of_verl(
        monkeypatch,
        "import os, pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        "pathlib.Path(given['trainer.default_local_dir'] + '.pid').write_text(str(child.pid))\n"
        "time.sleep(300)",
    )
    monkeypatch.setattr(module, "STALLED_SECONDS", 2.0)
    with pytest.raises(DemoError, match="reported no step for 2 seconds"):
        train(paths, tmp_path, 2, 0, "mars", CONSOLE)
    _assert_ends(int((tmp_path / "checkpoint.pid").read_text()))


def _assert_ends(pid: int, seconds: float = 10.0) -> None:
    """A killed process is gone, or waits only to be collected, after a moment: the kernel does not do it at once."""
    until = time.monotonic() + seconds
    while (stat := Path(f"/proc/{pid}/stat")).exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, f"process {pid} is still running"
        time.sleep(0.05)


SLEEPS = """
import signal
import sys
from pathlib import Path
from rich.console import Console
from verl_mars.toy import demo
from verl_mars.toy.prepare import ToyPaths

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with SIGINT ignored
folder = Path(sys.argv[1])
pid = folder / "pid"
script = f"import os, time, pathlib; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(300)"
demo.training_command = lambda *_: [sys.executable, "-c", script]
demo.train(ToyPaths.under(folder), folder, 2, 0, "mars", Console())
"""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_demo_that_is_stopped_takes_its_training_along(tmp_path: Path, stop: signal.Signals) -> None:
    demo_process = subprocess.Popen([sys.executable, "-c", SLEEPS, str(tmp_path)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until, "the training did not start"
        time.sleep(0.1)
    demo_process.send_signal(stop)
    assert demo_process.wait(30) != 0
    _assert_ends(int((tmp_path / "pid").read_text()))


def test_metrics_of_an_earlier_demo_are_not_taken_for_ours(
    tmp_path: Path, paths: ToyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 40, "data": {}}\n')
    _instead_of_verl(monkeypatch, "raise SystemExit(3)")
    with pytest.raises(DemoError, match="exit code 3"):
        train(paths, tmp_path, 2, 0, "mars", CONSOLE)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm": "ppo"}, r"unknown algorithm 'ppo'; allowed: \['dapo', 'grpo', 'mars'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"track": "hard"}, "unknown toy track 'hard'"),
    ],
)
def test_impossible_arguments_are_refused_at_once(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        demo(tmp_path / "out", **given)


def test_nothing_of_the_users_in_the_folder_is_touched(
    tmp_path: Path, paths: ToyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    shutil.copytree(tmp_path, tmp_path / "mine", dirs_exist_ok=False, ignore=lambda *_: ["mine"])
    _instead_of_verl(monkeypatch, TRAINS)
    train(paths, tmp_path, 2, 0, "mars", CONSOLE)
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    assert os.listdir(tmp_path / "checkpoint") == ["global_step_2"]
