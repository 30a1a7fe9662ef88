"""What mkdocs does beside the pages: pages of the repository's root join the site, and so does every source file that a page links to.

On a forge the links lead to the files where they lie; on the site to copies below `source/`. A link to a file that is not
there stays as it is, and `mkdocs build --strict` refuses it.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of docs/, those of the root, and the source files that any of them links to."""
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for page in files.documentation_pages():
        for link in LINK.findall(page.content_string):
            place = _in_root(link, page.src_uri)
            if place and files.get_file_from_path(_copied(place)) is None:
                files.append(File.generated(config, _copied(place), abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links out of docs/ turned to what the site has of them."""

    def turned(found: re.Match[str]) -> str:
        place = _in_root(found[1], page.file.src_uri)
        if not place:
            within = found[1].removeprefix("docs/")
            return within if page.file.src_uri in ROOT_PAGES else found[1]
        return place if place in ROOT_PAGES else _copied(place)

    return LINK.sub(turned, markdown)


def _copied(place: str) -> str:
    """Where the site has a file of the repository: pages of the root as pages, all else as text that a browser shows."""
    return place if place in ROOT_PAGES else f"source/{place}.txt"


def _in_root(link: str, page: str) -> str:
    """The path from the repository's root of the file outside docs/ that a link means, "" where it means none."""
    folder = ROOT if page in ROOT_PAGES else ROOT / "docs"
    path = (folder / link).resolve()
    if not path.is_file() or not path.is_relative_to(ROOT) or path.is_relative_to(ROOT / "docs"):
        return ""
    return path.relative_to(ROOT).as_posix()
