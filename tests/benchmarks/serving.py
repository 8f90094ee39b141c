"""Requests a second and their times: `thawline serve` beside `mlflow models serve`, by turns in one run.

    python -m tests.benchmarks.serving MODEL PICTURE … [--home HOME] [--clients 32] [--seconds 15] [--rounds 3]
        [--beside litserve=FOLDER] [--beside mlserver=FOLDER]

Each of the clients sends one picture after another, as base64 in JSON, and waits for each answer. The servers run with
all CPUs, one at a time, and see the same pictures. `--beside` adds LitServe or MLServer, whose packages are in FOLDER
(`pip install --target FOLDER litserve`): both run what answers in `thawline serve`, with the same limits of a batch
(`tests/benchmarks/servers`), so that only the servers differ. Prints a Markdown row for each server and round, and how
the first answers compare.
"""

import argparse
import base64
import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
PORT = 5077


@dataclass(frozen=True)
class Server:
    """How a server is started and asked."""

    command: Sequence[str]
    bodies: Sequence[bytes]
    path: str = "/invocations"
    ready: str = "/ping"
    packages: Sequence[str] = field(default=())  # folders of packages, before those of this environment


@contextmanager
def running(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it answers to its end."""
    paths = [str(ROOT), *server.packages, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        server.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    try:
        while True:
            assert process.poll() is None, "the server ended"
            try:
                connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
                connection.request("GET", server.ready)
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.2)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        with suppress(OSError):  # MLflow's workers outlive it, and would answer for the next server
            while True:
                socket.create_connection(("127.0.0.1", PORT), timeout=5).close()
                time.sleep(0.2)


def measured(server: Server, clients: int, seconds: float) -> tuple[list[float], list[int]]:
    """Seconds of each request that was answered in time, and the other statuses."""
    times: list[float] = []
    others: list[int] = []
    end = time.monotonic() + seconds

    def ask(first: int) -> None:
        connection, number = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120), first
        while time.monotonic() < end:
            begin = time.monotonic()
            body = server.bodies[number % len(server.bodies)]
            connection.request("POST", server.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                others.append(answer.status)
            elif time.monotonic() < end:
                times.append(time.monotonic() - begin)
            number += 1

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, others


def cpu_seconds(group: int) -> float:
    """CPU seconds of a server's processes so far: beside other work they say more than the clock."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        if int(fields[2]) == group:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def first_answer(server: Server) -> Any:
    """What the server says of the first picture."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    connection.request("POST", server.path, server.bodies[0], {"Content-Type": "application/json"})
    found = json.loads(connection.getresponse().read())
    return found["predictions"][0] if "predictions" in found else json.loads(found["outputs"][0]["data"][0])


def compared(asked: argparse.Namespace, home: Path, copy: Path, contents: Sequence[str]) -> dict[str, Server]:
    """The servers by name."""
    bodies = [json.dumps({"dataframe_records": [{asked.column: one}]}).encode() for one in contents]
    ours = [str(BIN / "thawline"), "serve", asked.model, "--home", str(home), "--port", str(PORT), *asked.serve.split()]
    theirs = [str(BIN / "mlflow"), "models", "serve", "-m", str(copy), "--env-manager", "local"]
    theirs += ["--host", "127.0.0.1", "--port", str(PORT)]
    found = {"mlflow": Server(theirs, bodies)} if "mlflow" not in asked.without else {}
    found["thawline"] = Server(ours, bodies)
    for name, _, folder in (one.partition("=") for one in asked.beside):
        module = f"tests.benchmarks.servers.{name}_app"
        command = [sys.executable, "-m", module, asked.model, str(PORT), str(home / "benchmark-mlserver")]
        found[name] = Server(command, bodies, packages=[folder])
        if name == "mlserver":  # it batches only what comes in the protocol of KServe
            tensor = {"name": asked.column, "shape": [1], "datatype": "BYTES"}
            several = [json.dumps({"inputs": [{**tensor, "data": [one]}]}).encode() for one in contents]
            found[name] = Server(
                command, several, "/v2/models/model/infer", "/v2/models/model/ready", packages=[folder]
            )
    return found


def main() -> None:
    """Measure the servers by turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--home", default=os.environ.get("THAWLINE_HOME", ".thawline"))
    parser.add_argument("--column", default="image")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", action="append", default=[], choices=["mlflow"])
    parser.add_argument("--beside", action="append", default=[], metavar="litserve|mlserver=FOLDER")
    parser.add_argument("--serve", default="", help="more options of `thawline serve`")
    asked = parser.parse_args()
    home = Path(asked.home).resolve()
    os.environ |= {"THAWLINE_HOME": str(home)}
    os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    copy = home / "benchmark-served"
    download = [str(BIN / "mlflow"), "artifacts", "download", "-u", f"models:/{asked.model}@champion", "-d", str(copy)]
    subprocess.run(download, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    contents = [base64.b64encode(path.read_bytes()).decode() for path in asked.pictures]
    servers = compared(asked, home, copy, contents)
    said, rates = {}, {name: list[float]() for name in servers}
    print("| server | requests/s | median ms | p99 ms | CPU ms/request | other statuses |\n|---|---|---|---|---|---|")
    for _ in range(asked.rounds):
        for name, server in servers.items():
            with running(server) as process:
                measured(server, asked.clients, asked.seconds / 3)  # warm
                before = cpu_seconds(process.pid)
                times, others = measured(server, asked.clients, asked.seconds)
                used = (cpu_seconds(process.pid) - before) / max(1, len(times)) * 1000
                said[name] = first_answer(server)
            rates[name].append(len(times) / asked.seconds)
            median, p99 = np.percentile(times or [math.nan], [50, 99]) * 1000
            print(
                f"| {name} | {rates[name][-1]:.0f} | {median:.0f} | {p99:.0f} | {used:.1f} | {len(others)} |",
                flush=True,
            )
    ours = np.median(rates["thawline"])
    for name in servers:
        print(
            f"\n{name}: thawline answers {ours / np.median(rates[name]):.2f} times as many; first answer {said[name]}"
        )


if __name__ == "__main__":
    main()
