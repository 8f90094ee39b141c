"""The pictures of the pages, taken anew: `python -m tests.support.screenshots HOME [FOLDER]`, after `make run`, twice.

HOME holds the demo's run and one that was skipped. MLflow's pages come from `thawline ui`, in a headless Chromium.
"""

import argparse
import subprocess
from pathlib import Path

from PIL import Image

from tests.services.servers import free_port
from tests.support.browser import Page, browser
from tests.support.command import COMMAND, ROOT, environment

COLORS = 64  # keeps the files small
CLOSE = "document.querySelector('[data-component-id=\"mlflow.assistant.chat_panel.close\"]')"
ROW = "[...document.querySelectorAll('.ag-cell')].find(one => one.innerText.includes('{}'))"


def keep(page: Page, path: Path) -> None:
    """Photograph the window in few colors."""
    page.photograph(path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def tracking_pages(page: Page, address: str, folder: Path) -> None:
    """Photograph the runs of a model, the steps and trials open, and the run that trained it."""
    page.open(address, width=1280, height=820, until=CLOSE)
    page.value(f"{CLOSE}.click()")  # MLflow's assistant, which opens in a new browser
    for name in ("version 1", "search"):
        page.wait(f"{ROW.format(name)}?.querySelector('button')")
        page.value(f"{ROW.format(name)}.querySelector('button').click()")
    page.wait(ROW.format("trial 0"))
    keep(page, folder / "mlflow-tree.png")
    run = page.value("[...document.querySelectorAll('a')].find(one => one.innerText.startsWith('version 1')).href")
    shown = "['Metrics (', 'detect_changes'].every(one => document.body.innerText.includes(one))"
    page.open(f"{run}?workflowType=machine_learning", width=1400, height=860, until=shown)
    page.value("[...document.querySelectorAll('button')].find(one => one.innerText === 'Show more').click()")
    keep(page, folder / "mlflow-run.png")


def main() -> None:
    """Write report.png, mlflow-tree.png and mlflow-run.png."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("home", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs")
    asked = parser.parse_args()
    env = {**environment(asked.home), "BROWSER": "true"}
    ask, serve = [COMMAND, "report", "stamps", "--path"], [COMMAND, "ui", "stamps", "--port", str(free_port())]
    report = Path(subprocess.run(ask, env=env, check=True, capture_output=True, text=True).stdout.strip())
    with browser() as page:
        page.open(report.absolute().as_uri(), width=1160, height=1000)
        keep(page, asked.folder / "report.png")
        with subprocess.Popen(serve, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
            try:
                assert server.stderr
                ready = next(line for line in server.stderr if "is ready: " in line)
                tracking_pages(page, ready.partition("is ready: ")[2].split()[0], asked.folder)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
