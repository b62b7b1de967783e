"""mkdocs hooks: pages that lie elsewhere in the repository, and links to them.

The site has three kinds of pages: those of ``docs/``, files of the repository's root (:data:`ROOT_PAGES`), and the
reference that ``generate.py`` wrote to ``build/reference``. Links between the first two are written as in the
repository, so that they work there too, and are translated here.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "build" / "reference"
ROOT_PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
}
"""Path in the repository, and the page of the site that shows it."""

LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


def translated(markdown: str, where: str) -> str:
    """Translate the links of a file from repository paths to site paths.

    Args:
        markdown: text of the file.
        where: path of the file in the repository.
    """
    page = ROOT_PAGES.get(where, where.removeprefix("docs/"))

    def site_path(match: re.Match[str]) -> str:
        target = normpath(str(PurePosixPath(where).parent / match[2]))
        if target in ROOT_PAGES:
            target = ROOT_PAGES[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif not target.startswith("reference/"):
            return match[0]
        return match[1] + relpath(target, str(PurePosixPath(page).parent))

    return LINK.sub(site_path, markdown)


def on_files(files: Files, config: "MkDocsConfig") -> Files:
    """Add the pages that do not lie under ``docs/``."""
    if not REFERENCE.is_dir():
        raise PluginError(f"{REFERENCE} is missing: build the site with `make docs`, which generates the reference")
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=translated((ROOT / name).read_text(), name)))
    for path in sorted(REFERENCE.rglob("*.md")):
        page = f"reference/{path.relative_to(REFERENCE).as_posix()}"
        files.append(File.generated(config, page, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """Translate the links of a page of ``docs/``; the other pages are translated already."""
    uri = page.file.src_uri
    return markdown if page.file.generated_by else translated(markdown, f"docs/{uri}")
