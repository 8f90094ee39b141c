"""Pages in the user's browser."""

import os
import webbrowser


def open_page(address: str) -> None:
    """Open a page where there is a desktop: without one Python would wait for a browser of the terminal."""
    if any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        webbrowser.open(address)
