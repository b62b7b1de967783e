"""verl's own tests, run in a process of their own with the plugin or without; also that process's pytest plugin."""

import asyncio
import inspect
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

SHIPPED = (
    "tests/trainer",
    "tests/test_protocol_on_cpu.py",
    "tests/test_protocol_v2_on_cpu.py",
    "tests/test_base_config_on_cpu.py",
    "tests/plugin",
    "tests/experimental/fully_async_policy",
    "tests/experimental/agent_loop/test_agent_loop_extra_fields_schema_on_cpu.py",
    "tests/experimental/agent_loop/test_audio_server_contract_on_cpu.py",
    "tests/experimental/agent_loop/test_call_tool_on_cpu.py",
    "tests/experimental/agent_loop/test_multimodal_position_ids_on_cpu.py",
    "tests/experimental/agent_loop/test_tool_call_id_on_cpu.py",
    "tests/checkpoint_engine/test_global_steps_on_cpu.py",
)
"""Core algorithms, advantages, metrics, protocol, plugins and agent loop: CPU tests of verl's source distribution."""

V1 = "tests/trainer/ppo/v1"
"""Trainer and replay buffer: in verl's repository, not in its source distribution."""


def pytest_configure() -> None:
    """Before verl is imported: what both arms need on this machine, whether the plugin is loaded or not."""
    from verl_mars._compat import define_missing_torchvision_ops

    define_missing_torchvision_ops()
    import verl  # noqa: F401  the installed one, before the tests' own folder comes first


def pytest_collection_modifyitems(items: list) -> None:
    """TransferQueue takes a CPU for each of its actors and waits for ever on a machine with two."""
    if any("replay_buffer" in item.nodeid for item in items):
        import ray

        ray.init(num_cpus=32, include_dashboard=False, log_to_driver=False)


def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """verl's asynchronous tests, which otherwise need a package of their own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def source_of(version: str, cache: Path) -> Path:
    """verl's source with its tests: ``VERL_SOURCE`` where it is set, else the source distribution, by pip.

    Raises:
        OSError: it cannot be had; the message says why.
    """
    if "VERL_SOURCE" in os.environ:
        source = Path(os.environ["VERL_SOURCE"])
        if not (source / "tests").is_dir():
            raise OSError(f"VERL_SOURCE={source} has no folder tests")
        return source
    source = cache / f"verl-{version}"
    if not (source / "tests").is_dir():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "verl", f"verl=={version}"]
        pip = subprocess.run([*command, "-d", str(cache)], capture_output=True, text=True)
        if pip.returncode != 0:
            raise OSError(f"verl's source distribution cannot be downloaded: {pip.stderr.strip().splitlines()[-1]}")
        with tarfile.open(cache / f"verl-{version}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    return source


def outcomes(source: Path, tests: list[str], policy: str, report: Path) -> dict[str, str]:
    """Run the tests with ``VERL_USE_EXTERNAL_PLUGINS=policy``: the outcome of each, by its name."""
    env = dict(os.environ, VERL_USE_EXTERNAL_PLUGINS=policy, HF_HUB_OFFLINE="1")
    # This file as a script: `python -m pytest` would put verl's source before the installed verl.
    command = [sys.executable, __file__, "-q", "-p", "verls_own", "-p", "no:cacheprovider", "--rootdir", "."]
    command += ["-o", "addopts=", "--timeout", "60", "--continue-on-collection-errors", f"--junitxml={report}", *tests]
    subprocess.run(command, cwd=source, env=env, capture_output=True, text=True)
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[f"{case.get('classname')}::{case.get('name')}"] = bad[0] if bad else "passed"
    return found


if __name__ == "__main__":
    import pytest

    raise SystemExit(pytest.main(sys.argv[1:]))
