"""The version that is served: the one an alias points to, now and after it moves."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from components.core.registry import versions
from pipelines.serving.loading import Loaded

RETRY = 10  # polls until a version that could not be loaded is tried again
log = logging.getLogger(__name__)


@dataclass
class Following:
    """The model that answers now, and how to find the next one."""

    current: Loaded
    wanted: str  # an alias, or a version, which stays
    load: Callable[[str], Loaded]  # a version by its number
    changed: Callable[[str], None] = lambda _outcome: None  # takes each outcome: loaded, failed or unreachable

    @property
    def alias(self) -> str:
        """Return the alias that is followed; empty where it is a version."""
        return "" if self.wanted.isdecimal() else self.wanted

    async def follow(self, seconds: float) -> None:
        """Ask the registry every so many seconds; a new version answers once it is loaded and has answered its example.

        Until then, and where that fails, the one before goes on. Ends at once for a version by number.
        """
        refused, patience = "", 0
        while self.alias:
            await asyncio.sleep(seconds)
            try:
                version = await asyncio.to_thread(versions.current, self.current.name, self.wanted)
            except Exception as error:  # noqa: BLE001 - a registry that is away takes no answer from anyone
                log.warning("the registry can't be asked: %s", error)
                self.changed("unreachable")
                continue
            patience -= 1
            if version in ("", self.current.version) or (version == refused and patience > 0):
                continue
            try:
                self.current = await asyncio.to_thread(self.load, version)
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("version %s stays: version %s can't be loaded: %s", self.current.version, version, error)
                refused, patience = version, RETRY
                self.changed("failed")
            else:
                log.warning("version %s answers now", version)
                self.changed("loaded")
