"""A method as another package would bring it, and its installation: a folder on PYTHONPATH with an entry point."""

import re
from pathlib import Path

DISTRIBUTION = "verl_mars_halved-0.1"
ENTRY_POINTS = "[verl_mars.methods]\nhalved = verl_mars_halved:Halved\n"
PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
SOURCE = re.findall(r"<!-- example: method -->\n```python\n(.*?)```", PAGE.read_text(), re.S)[0]


def install(folder: Path, source: str = SOURCE, entry_points: str = ENTRY_POINTS) -> Path:
    """Install the package into a folder that is to be on PYTHONPATH; returns it."""
    (folder / "verl_mars_halved.py").write_text(source)
    info = folder / f"{DISTRIBUTION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: verl-mars-halved\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(entry_points)
    return folder
