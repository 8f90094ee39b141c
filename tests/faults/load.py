"""Load on a registered model: a server among good and bad requests, and `thawline predict` on many pictures.

    python -m tests.faults.load serve MODEL --home HOME --seconds 60 FILE …
    python -m tests.faults.load predict MODEL --home HOME --pictures 2000 20000

The first prints how often each status was answered, and the server's memory after a quarter of the time and at its end;
the second the peak of the command's memory for each number of pictures.
"""

import argparse
import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.command import COMMAND, environment

JSON = "application/json"
CLIENTS = 8  # of each kind, good and bad
BAD: Sequence[tuple[str, str, bytes, str]] = (
    ("POST", "/invocations", b"", JSON),
    ("POST", "/invocations", b"{", JSON),
    ("POST", "/invocations", b"[1, 2", JSON),
    ("POST", "/invocations", b"null", JSON),
    ("POST", "/invocations", b'{"dataframe_records": []}', JSON),
    ("POST", "/invocations", b'{"dataframe_records": [{"other": "column"}]}', JSON),
    ("POST", "/invocations", b'{"inputs": ["%%%"]}', JSON),
    ("POST", "/invocations", b'{"inputs": [null, {}, [], 5, "AAAA"]}', JSON),
    ("POST", "/invocations", b'{"instances": [{"b64": "bm8gcmVjb3Jk"}]}', JSON),
    ("POST", "/invocations", b"\xff" * 1000, JSON),
    ("POST", "/invocations", b"[" * 100_000, JSON),
    ("POST", "/invocations", b"no record", ""),
    ("POST", "/invocations", b"no record", "application/pickle"),
    ("POST", "/predict", b"\x89PNG\r\n\x1a\n" + b"\0" * 5000, "image/png"),
    ("POST", "/predict", b"x" * 50_000_000, "image/png"),
    ("GET", "/../etc/passwd", b"", ""),
    ("DELETE", "/predict", b"", ""),
)


def main() -> None:
    """Measure one of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["serve", "predict"])
    parser.add_argument("model")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pictures", type=int, nargs="+", default=[2000, 20_000])
    chosen = parser.parse_args()
    if chosen.what == "serve":
        serve(chosen.home.resolve(), chosen.model, chosen.files, chosen.seconds)
    else:
        predict(chosen.home.resolve(), chosen.model, chosen.pictures)


def serve(home: Path, model: str, files: Sequence[Path], seconds: float) -> None:
    """Ask a server for a while; print statuses, memory, and whether it still lives."""
    good = [
        ("POST", "/invocations", json.dumps({"inputs": [base64.b64encode(path.read_bytes()).decode()]}).encode(), JSON)
        for path in files
    ]
    with serving(home, model) as (process, port):
        found, end = {"good": Counter[str](), "bad": Counter[str]()}, time.monotonic() + seconds
        threads = [
            threading.Thread(target=ask, args=(port, requests, number, end, found[kind]))
            for kind, requests in (("good", good), ("bad", BAD))
            for number in range(CLIENTS)
        ]
        threads.append(threading.Thread(target=break_off, args=(port, end)))
        for thread in threads:
            thread.start()
        time.sleep(seconds / 4)
        early = memory(process.pid, "VmRSS")
        for thread in threads:
            thread.join()
        late, alive = memory(process.pid, "VmRSS"), process.poll() is None
    say({"alive": alive, "MB after a quarter": early, "MB at the end": late, **found})


def ask(
    port: int, requests: Sequence[tuple[str, str, bytes, str]], first: int, end: float, found: Counter[str]
) -> None:
    """Send requests one after another, and count the statuses of the answers."""
    number = first
    while time.monotonic() < end:
        method, path, body, kind = requests[number % len(requests)]
        number += 1
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
            try:
                connection.request(method, path, body or None, {"Content-Type": kind} if kind else {})
                found[str(connection.getresponse().status)] += 1
            except (ConnectionError, http.client.HTTPException) as error:  # it answers, and reads no more
                found[type(error).__name__] += 1


def break_off(port: int, end: float) -> None:
    """Begin requests, and go away."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\nbegin"
    while time.monotonic() < end:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
            connection.sendall(head)
            time.sleep(0.05)


@contextmanager
def serving(home: Path, model: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A server, from when it answers to its end."""
    command = [COMMAND, "serve", model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(home), cwd=home) as process:
        try:
            assert process.stderr
            for line in process.stderr:
                if port := re.search(r"127\.0\.0\.1:(\d+)", line):
                    threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
                    yield process, int(port[1])
                    break
        finally:
            process.terminate()


def predict(home: Path, model: str, numbers: Sequence[int]) -> None:
    """Predict for numbers of small pictures; print each peak."""
    with tempfile.TemporaryDirectory() as place:
        folder, draw = Path(place) / "pictures", np.random.default_rng(0)
        folder.mkdir()
        written = 0
        for number in sorted(numbers):
            for written in range(written, number):  # noqa: B020 - it goes on
                pixels = draw.integers(0, 256, (48, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{written:06}.jpg")
            out = Path(place) / f"{number}.parquet"
            command = [COMMAND, "predict", "--model", model, str(folder), "--out", str(out)]
            begin = time.monotonic()
            with subprocess.Popen(command, env=environment(home), cwd=place) as process:
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            say(
                {
                    "pictures": number,
                    "status": process.returncode,
                    "peak MB": usage.ru_maxrss / 1024,
                    "s": round(time.monotonic() - begin, 1),
                    "CPU s": round(usage.ru_utime + usage.ru_stime, 1),
                }
            )


def memory(process: int, what: str) -> float:
    """MB of a process as the kernel counts it."""
    found = re.search(rf"{what}:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return round(int(found[1]) / 1024, 1) if found else 0.0


def say(facts: dict[str, object]) -> None:
    """Print a result."""
    sys.stdout.write(f"{json.dumps(facts)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
