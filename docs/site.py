"""Collect the pages of the documentation's site: what the repository shows as Markdown, and the commands' reference.

`make docs` runs it, and lets MkDocs build what it collected. The pages are written to be read in the repository too, so
their links lead to files; here a link to a page of the site stays a link, and one to a source file becomes its path.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^( *```\w*\n.*?^ *```$)", re.DOTALL | re.MULTILINE)


def collect(folder: Path) -> None:
    """Write everything that the site is built from into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted((ROOT / "docs").iterdir()):
        if path.suffix in (".svg", ".png"):
            shutil.copy(path, folder)
    pages = {ROOT / name: written for name, written in PAGES.items()}
    pages |= {path: path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    notebooks = {path: path.with_suffix(".md").name for path in sorted((ROOT / "docs").glob("*.ipynb"))}
    for path, written in pages.items():
        (folder / written).write_text(_relinked(path, pages | notebooks))
    for path, written in notebooks.items():
        (folder / written).write_text(notebook(path))
    (folder / "commands.md").write_text(commands())


def notebook(path: Path) -> str:
    """Return a notebook as a page: its text, its code, and what stands below each cell."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_shown(output["data"]) for output in cell.get("outputs", []) if "data" in output]
    parts.insert(1, f"This page is the notebook `docs/{path.name}` of the repository.")
    return "\n\n".join(parts) + "\n"


def _shown(data: dict[str, str | list[str]]) -> str:
    """The richest form of an output that a page can show."""
    if picture := data.get("image/png"):
        return f'<img alt="" src="data:image/png;base64,{"".join(picture).strip()}">'
    return "".join(data["text/html"]) if "text/html" in data else f"```\n{''.join(data['text/plain'])}\n```"


def commands() -> str:
    """Return the reference of all commands, as Typer writes it from the code."""
    call = [sys.executable, "-m", "typer", "pipelines.cli", "utils", "docs", "--name", "thawline"]
    found = subprocess.run(
        call, check=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "80"}
    )
    text = re.sub(r"^# `thawline`", "# Commands", found.stdout, count=1)
    return re.sub(r"<(?=[^>\n]*>)", r"\\<", text)  # types stand in angle brackets, which Markdown takes for tags


def _relinked(page: Path, pages: dict[Path, str]) -> str:
    def link(found: re.Match[str]) -> str:
        image, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        path = (page.parent / target).resolve()
        if path in pages:
            return f"[{text}]({pages[path]}{anchor})"
        if image:
            return f"![{text}]({path.name})"
        return f"{text} (`{path.relative_to(ROOT)}`)" if text.strip("`") != path.name else f"`{path.relative_to(ROOT)}`"

    parts = FENCE.split(page.read_text())
    return "".join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="is emptied first")
    collect(parser.parse_args().folder)
