"""The contract tests against every release of verl that the package index has in the supported range.

    python tests/regression/matrix.py [--write | --verl CHECKOUT]

Each release is installed, without its dependencies, into a small environment on top of this one. The table goes between
the marks `versions` of README.md and README_zh.md with ``--write``, else to the screen. Exits with 1
where a release fails.

``--verl`` tries a source tree instead, of any version: a failing contract says what changed in verl and which file of
ours depends on it.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path

from packaging.specifiers import SpecifierSet

from verl_mars.register import ANY_VERL, SUPPORTED_VERL

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


def environment(requirement: str, folder: Path) -> Path:
    """An environment with that verl before everything that is installed here; returns its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    own = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # addsitedir, not a bare path: an editable installation is a .pth file of that folder.
    below = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    lines = [f"import site; site.addsitedir({path!r})" for path in below]
    (own / "below.pth").write_text("\n".join(lines) + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(own), requirement], check=True)
    return folder / "bin" / "python"


def check(name: str, requirement: str, expected: str | None = None) -> Row:
    """The row of a verl: version, result of the contract tests, day.

    Args:
        name: for its environment's folder.
        requirement: what pip installs.
        expected: its version, if that is known.
    """
    folder = ROOT / ".cache" / f"verl-{name}-environment"
    python = environment(requirement, folder)
    variables = {**os.environ, ANY_VERL: "1"} if expected is None else dict(os.environ)
    show = [str(python), "-W", "ignore", "-c", "import verl; print(verl.__version__)"]
    asked = subprocess.run(show, env=variables, **CAPTURED)
    version = (asked.stdout.strip().splitlines() or [""])[-1]
    if not version or expected not in (None, version):
        reason = (asked.stderr.strip().splitlines() or [f"it says that it is {version}"])[-1]
        return name, f"cannot be imported: {reason}", today()
    report = folder / "report.xml"
    tests = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract", f"--junitxml={report}"]
    subprocess.run(tests, cwd=ROOT, env=variables)
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
    parser.add_argument("--write", action="store_true", help="put the table into both READMEs")
    parser.add_argument("--verl", type=Path, metavar="CHECKOUT", help="a source tree of verl to try instead")
    options = parser.parse_args()
    if options.verl and options.write:
        parser.error("--write is for releases; leave out one of --write and --verl")
    if options.verl:
        rows = [check("checkout", str(options.verl.resolve(strict=True)))]
    else:
        wanted = [version for version in releases() if version in SpecifierSet(SUPPORTED_VERL)]
        rows = [check(version, f"verl=={version}", version) for version in wanted]
    print(table(rows))
    if options.write:
        for readme in (ROOT / "README.md", ROOT / "README_zh.md"):
            readme.write_text(report.exchange(readme.read_text(), "versions", table(rows)))
    return int(any(not GOOD.fullmatch(result) for _, result, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
