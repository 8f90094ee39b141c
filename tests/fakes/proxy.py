"""A bad network in front of a real server: it drops, delays, cuts off and answers itself, connection by connection."""

import contextlib
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """What happens to one connection.

    Args:
        drop: It is closed as soon as it is there.
        delay: Seconds before the answer's first byte.
        cut: Bytes of the answer, headers included, after which it is closed.
        stall: Seconds of silence before that.
        answer: Sent in place of the server's.
    """

    drop: bool = False
    delay: float = 0.0
    cut: int = 1 << 62
    stall: float = 0.0
    answer: bytes = b""


class Proxy:
    """Passes connections to a server; `faults` happen to the next ones in their order, `always` to all after them."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.faults: deque[Fault] = deque()
        self.always = Fault()
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Be a server that is gone."""
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                fault = self.faults.popleft() if self.faults else self.always
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: Fault) -> None:
        if fault.drop:
            # a reset, not a polite end
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return
        with contextlib.suppress(OSError):
            if fault.answer:
                client.recv(1 << 16)
                client.sendall(fault.answer)
                client.shutdown(socket.SHUT_RDWR)
                return
            with socket.create_connection(self._target) as server:
                self._open.append(server)
                threading.Thread(target=_pump, args=(client, server), daemon=True).start()
                threading.Event().wait(fault.delay)  # a test may have made time.sleep return at once
                _pump(server, client, fault.cut, fault.stall)
        client.close()


def _pump(source: socket.socket, target: socket.socket, most: int = 1 << 62, stall: float = 0.0) -> None:
    """Pass bytes on until one side ends, or `most` have gone."""
    with contextlib.suppress(OSError):
        while most > 0 and (block := source.recv(min(most, 1 << 16))):
            target.sendall(block)
            most -= len(block)
        threading.Event().wait(stall)
        for end in (source, target):
            end.shutdown(socket.SHUT_RDWR)
