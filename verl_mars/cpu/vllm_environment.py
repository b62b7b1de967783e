"""What an environment with vLLM's CPU build needs beside the packages: ``python -m verl_mars.cpu.vllm_environment``.

Two files in this environment's site-packages, and no patch of a running process:

- The build is distributed as ``vllm-cpu``, but verl and vLLM ask for the version of ``vllm``; vLLM takes its CPU
  platform where that version says ``cpu``. So the distribution ``vllm`` gets a metadata folder.
- vLLM asks a helper process, which imports no verl, about each model; there torchvision must be importable too (see
  ``verl_mars._compat.define_missing_torchvision_ops``). So every process of the environment starts with a hook for it.
"""

import importlib.abc
import importlib.metadata
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

BUILD = "vllm-cpu"
START = "import verl_mars.cpu.vllm_environment; verl_mars.cpu.vllm_environment.before_torchvision()\n"
# After the files that make an editable installation importable: Python reads them in the order of their names.
START_FILE = "zz_verl_mars_vllm_cpu.pth"


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Declares torchvision's operators just before it is imported, and finds nothing itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            from verl_mars.cpu.torchvision_ops import define_missing_ops

            define_missing_ops()
        return None


def before_torchvision() -> None:
    """Run by every Python process of the environment, when it starts."""
    sys.meta_path.insert(0, _BeforeTorchvision())


def prepare(site_packages: Path) -> None:
    """Write the two files.

    Raises:
        ValueError: the CPU build of vLLM is not installed here.
    """
    try:
        version = importlib.metadata.version(BUILD)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"the package {BUILD} is not installed in {sys.prefix}; see `make test-vllm`") from None
    version = version if version.endswith("+cpu") else f"{version}+cpu"
    for stale in site_packages.glob("vllm-*.dist-info"):
        if (stale / "INSTALLER").exists() and (stale / "INSTALLER").read_text().strip() != "verl-mars":
            raise ValueError(f"{stale} is there: this environment has vLLM's GPU build")
    folder = site_packages / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("verl-mars\n")
    (folder / "RECORD").write_text("")
    (site_packages / START_FILE).write_text(START)


if __name__ == "__main__":
    prepare(Path(sysconfig.get_path("purelib")))
