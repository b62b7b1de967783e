"""A plugin that cannot be loaded: verl is silent about it, we are not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import verl_mars

TRAIN = """
import verl
from verl.trainer.ppo.v1 import get_trainer_cls
get_trainer_cls("mars_sync")(config=None)
"""
ESTIMATE = """
import verl
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
get_adv_estimator_fn("mars")()
"""
OLD_VERL = "import verl; verl.__version__ = '0.8.2'\n"


@pytest.fixture
def broken(tmp_path):
    """A function that copies the package, breaks a file of it, and returns an environment that imports the copy."""

    def make(file, text="raise ImportError('broken on purpose')\n"):
        copy = tmp_path / "verl_mars"
        shutil.copytree(Path(verl_mars.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / file).write_text(text)
        return dict(os.environ, PYTHONPATH=str(tmp_path))

    return make


def python(code, env):
    return run_python(["-c", code], env)


def doctor(env):
    return run_python(["-m", "verl_mars.cli", "doctor", "--no-ray"], env)


def run_python(arguments, env):
    command = [sys.executable, "-W", "ignore", *arguments]
    elsewhere = env.get("PYTHONPATH") or "/"  # Python puts the working directory before PYTHONPATH
    return subprocess.run(command, env=env, cwd=elsewhere, capture_output=True, text=True)


def test_another_verl_may_be_tried():
    """The check alone: whether that verl works is another matter."""
    code = OLD_VERL + "from verl_mars import register; register.check_verl_version(); print('continues')"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "VERL_MARS_ANY_VERL": "1"}, capture_output=True, text=True
    )
    assert run.stdout.splitlines()[-1] == "continues"
    assert "UserWarning: verl 0.8.2 is installed, but this verl-mars needs verl>=0.9.1,<0.10" in run.stderr


@pytest.mark.parametrize(("code", "file"), [(TRAIN, "trainer/trainer.py"), (ESTIMATE, "methods/estimator.py")])
def test_the_reason_is_raised_where_the_part_is_used(broken, code, file):
    run = python(code, broken(file))
    assert run.returncode != 0
    assert "PluginError: verl-mars could not load verl_mars." in run.stderr
    assert "ImportError: broken on purpose" in run.stderr


def test_a_verl_out_of_range_is_named_with_the_range():
    run = python(OLD_VERL + TRAIN, dict(os.environ))
    assert run.returncode != 0
    assert "verl 0.8.2 is installed, but this verl-mars needs verl>=0.9.1,<0.10" in run.stderr


def test_doctor_tells_a_part_that_cannot_be_loaded(broken):
    run = doctor(broken("trainer/trainer.py"))
    assert run.returncode == 1
    assert "fault verl-mars could not load verl_mars.trainer.modes:MarsTrainerSync" in run.stdout
    assert "broken on purpose" in run.stdout


def test_doctor_tells_why_verl_did_not_load_the_entry_point(broken):
    # torchvision beside a CPU torch is importable only where the plugin was loaded, or this was called
    fix = "from verl_mars._compat import define_missing_torchvision_ops as f; f()\n"
    run = doctor(broken("register.py", fix + "raise ImportError('broken on purpose')\n"))
    assert run.returncode == 1
    assert "verl did not load the entry point `mars`: ImportError: broken on purpose" in run.stdout


def test_doctor_tells_that_the_environment_leaves_it_out():
    run = doctor(dict(os.environ, VERL_USE_EXTERNAL_PLUGINS="none"))
    assert run.returncode == 1
    assert "VERL_USE_EXTERNAL_PLUGINS=none leaves it out" in run.stdout


def test_doctor_tells_a_verl_out_of_range():
    code = OLD_VERL + "from verl_mars.preflight.doctor import inspect_plugin\nprint(inspect_plugin().faults)"
    run = python(code, dict(os.environ))
    assert "verl 0.8.2 is installed, but this verl-mars needs verl>=0.9.1,<0.10" in run.stdout
