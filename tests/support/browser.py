"""A headless Chromium, driven through the DevTools protocol: pages are waited for, measured and photographed.

    python -m tests.support.browser ADDRESS FILE.png [--width 1400] [--height 900] [--dark] [--until EXPRESSION]

`chromium --screenshot` takes its picture before a page that asks a server has drawn anything.
"""

import argparse
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import websocket

from tests.support.command import ROOT

CHROMIUM = shutil.which("chromium")
AXE = ROOT / "build/axe/axe_playwright_python/axe.min.js"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
SECONDS = 120.0  # that a page may take on a busy machine
LOADED = "document.readyState === 'complete'"


class Page:
    """A page of a browser."""

    def __init__(self, connection: websocket.WebSocket) -> None:
        self._connection, self._number = connection, 0

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, address: str, *, width: int, height: int, dark: bool = False, until: str = LOADED) -> None:
        """Open an address in a window of a size, and wait until an expression of the page is true."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.enable")
        self.ask("Page.navigate", url=address)
        self.wait(until)

    def wait(self, until: str) -> None:
        """Wait until an expression of the page is true."""
        end = time.monotonic() + SECONDS
        while not self.value(f"{LOADED} && Boolean({until})"):
            assert time.monotonic() < end, f"never: {until}"
            time.sleep(0.2)

    def violations(self) -> list[str]:
        """What axe-core finds wrong for keyboards and screen readers: rule, impact and element, one line each."""
        from tests.services.servers import missing  # not above: pytest loads it as a plugin, and has to be first

        if not AXE.exists():
            missing(f"axe-core is not there (make {AXE.relative_to(ROOT)})")
        self.value(f"{AXE.read_text()}; true")
        found = self.value("axe.run().then(({violations}) => violations)")
        return [f"{one['id']} ({one['impact']}): {node['html']}" for one in found for node in one["nodes"]]

    def photograph(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A page of a new browser, which ends with it."""
    from tests.services.servers import missing  # not above: pytest loads it as a plugin, and has to be first

    if CHROMIUM is None:
        missing("There is no browser (Debian: apt-get install chromium)")
    # processes of Chromium's own may still write into the profile when it has ended
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as user, contextlib.ExitStack() as ends:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={user}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ends.callback(process.wait)
        ends.callback(process.terminate)
        port, end = Path(user, "DevToolsActivePort"), time.monotonic() + SECONDS
        while not port.exists() or not port.read_text():
            assert process.poll() is None, "chromium ended"
            assert time.monotonic() < end, "chromium did not start"
            time.sleep(0.1)
        pages = requests.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list", timeout=SECONDS).json()
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        connection = websocket.create_connection(address, timeout=SECONDS, suppress_origin=True)
        ends.callback(connection.close)
        yield Page(connection)


def main() -> None:
    """Photograph a page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("address")
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--until", default="true", help="JavaScript that becomes true")
    asked = parser.parse_args()
    with browser() as page:
        page.open(asked.address, width=asked.width, height=asked.height, dark=asked.dark, until=asked.until)
        page.photograph(asked.file)


if __name__ == "__main__":
    main()
