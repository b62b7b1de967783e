"""Check what a wheel of verl-mars holds: ``python .ci/wheel_contents.py dist/verl_mars-*.whl``."""

import re
import sys
import zipfile

REQUIRED = (
    r"verl_mars/py\.typed",
    r"verl_mars/recipes/mars_grpo\.yaml",
    r"verl_mars/recipes/dataset/llvip\.yaml",
    r"verl_mars/data_prep/llvip\.py",
    r"hydra_plugins/verl_mars_recipes/__init__\.py",
    r"verl_mars-[^/]+\.dist-info/entry_points\.txt",
    r"verl_mars-[^/]+\.dist-info/licenses/LICENSE",
)
FORBIDDEN = (
    r"(^|/)tests?/|(^|/)test_|conftest",
    r"(^|/)benchmarks/|(^|/)docs/|(^|/)\.",
    r"\.pth$|sitecustomize",  # they run in every process of the environment
    r"vllm_environment",  # writes such a file
    r"\.(pt|bin|safetensors|parquet|so|pyc)$",
)
TOP = re.compile(r"^(verl_mars|hydra_plugins|verl_mars-[^/]+\.dist-info)/")


def faults(names: list[str]) -> list[str]:
    """A sentence for everything that is missing from a wheel's files or should not be there."""
    found = [f"{pattern} is missing" for pattern in REQUIRED if not any(re.fullmatch(pattern, n) for n in names)]
    found += [f"{name} must not be packaged" for name in names if any(re.search(p, name) for p in FORBIDDEN)]
    return found + [f"{name} is outside the packages" for name in names if not TOP.match(name)]


if __name__ == "__main__":
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        wrong = faults(wheel.namelist())
    print("\n".join(wrong) or f"{sys.argv[1]}: contents as expected")
    sys.exit(bool(wrong))
