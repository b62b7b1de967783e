"""A contract with verl fails with a sentence: what changed in verl, and which file of ours to look at."""

import inspect
import json
import os
import subprocess
import sys


def expect(condition, change, ours):
    """Fail with a sentence: what changed in verl, and where verl-mars depends on it."""
    assert condition, f"verl changed: {change}. Look at {ours}."


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "_ray_trace_ctx"]  # Ray adds that one


def in_fresh_process(code, **env):
    """What ``code`` prints as JSON, in a process that has imported nothing yet."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VERL_")} | env
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.strip().splitlines()[-1])
