"""The contract tests against every release of verl that the package index has in the supported range.

    python tests/regression/matrix.py [--write]

Each release is installed, without its dependencies, into a small environment on top of this one. The table goes between
the marks `versions` of README.md with ``--write``, else to the screen. Exits with 1 where a release fails.
"""

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path

from packaging.specifiers import SpecifierSet

from verl_mars.register import SUPPORTED_VERL

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import report  # noqa: E402

GOOD = re.compile(r"\d+ passed(, \d+ skipped)?")
Row = tuple[str, str, str]


def releases() -> list[str]:
    """Versions of verl on the index, newest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", "verl", "--disable-pip-version-check"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Available versions: (.*)", told)
    if found is None:
        raise RuntimeError(f"pip index told no versions of verl:\n{told}")
    return [version.strip() for version in found.group(1).split(",")]


def environment(version: str, folder: Path) -> Path:
    """An environment with that release before everything that is installed here; returns its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    own = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # addsitedir, not a bare path: an editable installation is a .pth file of that folder.
    below = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    lines = [f"import site; site.addsitedir({path!r})" for path in below]
    (own / "below.pth").write_text("\n".join(lines) + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(own), f"verl=={version}"], check=True)
    return folder / "bin" / "python"


def check(version: str) -> Row:
    """The row of a release: version, result of the contract tests, day."""
    folder = ROOT / ".cache" / f"verl-{version}-environment"
    python = environment(version, folder)
    asked = subprocess.run([str(python), "-W", "ignore", "-c", "import verl; print(verl.__version__)"], **CAPTURED)
    if asked.stdout.strip().splitlines()[-1:] != [version]:
        return version, f"cannot be imported: {asked.stderr.strip().splitlines()[-1]}", today()
    report = folder / "report.xml"
    tests = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract", f"--junitxml={report}"]
    subprocess.run(tests, cwd=ROOT)
    counts = outcomes(next(ElementTree.parse(report).iter("testsuite")))
    shutil.rmtree(folder)
    return version, counts, today()


def outcomes(suite: ElementTree.Element) -> str:
    """How many tests passed, failed and were skipped, without those of which there are none."""
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    skipped = int(suite.get("skipped", 0))
    counts = {"passed": int(suite.get("tests", 0)) - failed - skipped, "failed": failed, "skipped": skipped}
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)


CAPTURED = {"capture_output": True, "text": True}


def today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def table(rows: list[Row]) -> str:
    lines = ["| verl | contract tests | on |", "|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    write = parser.parse_args().write
    wanted = [version for version in releases() if version in SpecifierSet(SUPPORTED_VERL)]
    rows = [check(version) for version in wanted]
    print(table(rows))
    if write:
        readme = ROOT / "README.md"
        readme.write_text(report.exchange(readme.read_text(), "versions", table(rows)))
    return int(any(not GOOD.fullmatch(result) for _, result, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
