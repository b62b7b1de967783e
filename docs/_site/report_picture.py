"""A report of the probe as a picture for the documentation.

``python docs/_site/report_picture.py REPORT.html OUT.png`` takes the top of the page as headless Chromium shows it,
in 64 colours.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1320, 1110
COLOURS = 64


def picture(report: Path, out: Path, height: int = HEIGHT) -> None:
    """Write the picture.

    Raises:
        SystemExit: there is no Chromium.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(names)} is installed")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}"]
        command = [browser, *options, f"--window-size={WIDTH},{height}", f"--screenshot={shot}"]
        subprocess.run([*command, report.resolve().as_uri()], check=True, capture_output=True, timeout=240)
        with Image.open(shot) as taken:
            taken.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--height", type=int, default=HEIGHT)
    given = parser.parse_args()
    picture(given.report, given.out, given.height)
