"""A headless Chromium that opens a page and tells what became of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
)


@dataclass(frozen=True)
class Opened:
    """A page after its scripts ran."""

    html: str
    console: tuple[str, ...]
    """Lines of the console, refusals of the page's policy included."""
    told: str
    """What the driving script wrote."""


def open_page(page: Path, profile: Path, drive: str = "") -> Opened:
    """Open a page without a network and run a script in it, whose ``tell(text)`` is handed back.

    The script is put into a copy of the page whose policy admits it: the page's own policy would not.
    """
    text = page.read_text(encoding="utf-8")
    if drive:
        policy = r"(default-src 'none')(.*?)(; script-src '[^']*')?\""
        text = re.sub(policy, r"\1; script-src 'unsafe-inline'\2" + '"', text, count=1)
        begin, end = "const told = []; const tell = t => told.push(t);", "document.title = told.join('|');"
        text = text.replace("</body>", f"<script>{begin}\n{drive}\n{end}</script></body>")
    copy = profile / "page.html"
    profile.mkdir()
    copy.write_text(text, encoding="utf-8")
    command = [str(CHROMIUM), *_QUIET, f"--user-data-dir={profile / 'data'}", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    lines = tuple(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    return Opened(done.stdout, lines, unescape(title[1]) if title else "")
