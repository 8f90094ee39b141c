"""Requests a second and their times: `thawline serve` beside `mlflow models serve`, by turns in one run.

    python -m tests.benchmarks.serving MODEL PICTURE … [--home HOME] [--clients 32] [--seconds 15] [--rounds 3]

Each of the clients sends one picture after another, as base64 in the JSON that both servers take, and waits for each
answer. Both servers run with all CPUs, one at a time, and see the same pictures. Prints a Markdown row for each server
and round, and how the answers of the two compare.
"""

import argparse
import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

BIN = Path(sys.executable).parent
PORT = 5077


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it answers to its end."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    try:
        while True:
            assert process.poll() is None, "the server ended"
            try:
                connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
                connection.request("GET", "/ping")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.2)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        with suppress(OSError):  # MLflow's workers outlive it, and would answer for the next server
            while True:
                socket.create_connection(("127.0.0.1", PORT), timeout=5).close()
                time.sleep(0.2)


def measured(bodies: Sequence[bytes], clients: int, seconds: float) -> tuple[list[float], list[int]]:
    """Seconds of each request that was answered in time, and the other statuses."""
    times: list[float] = []
    others: list[int] = []
    end = time.monotonic() + seconds

    def ask(first: int) -> None:
        connection, number = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120), first
        while time.monotonic() < end:
            begin = time.monotonic()
            body = bodies[number % len(bodies)]
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
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


def answers(bodies: Sequence[bytes]) -> list[Any]:
    """What the server says of each picture."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    found = []
    for body in bodies:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        found.append(json.loads(connection.getresponse().read())["predictions"][0])
    return found


def main() -> None:
    """Measure both servers by turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--home", default=os.environ.get("THAWLINE_HOME", ".thawline"))
    parser.add_argument("--column", default="image")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", default="", help="more options of `thawline serve`")
    asked = parser.parse_args()
    home = Path(asked.home).resolve()
    os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    copy = home / "benchmark-served"
    download = [str(BIN / "mlflow"), "artifacts", "download", "-u", f"models:/{asked.model}@champion", "-d", str(copy)]
    subprocess.run(download, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    contents = [base64.b64encode(path.read_bytes()).decode() for path in asked.pictures]
    bodies = [json.dumps({"dataframe_records": [{asked.column: one}]}).encode() for one in contents]
    ours = [str(BIN / "thawline"), "serve", asked.model, "--home", str(home), "--port", str(PORT), *asked.serve.split()]
    theirs = [str(BIN / "mlflow"), "models", "serve", "-m", str(copy), "--env-manager", "local"]
    theirs += ["--host", "127.0.0.1", "--port", str(PORT)]
    said, rates = {}, {"mlflow": list[float](), "thawline": list[float]()}
    print("| server | requests/s | median ms | p99 ms | CPU ms/request | other statuses |\n|---|---|---|---|---|---|")
    for _ in range(asked.rounds):
        for name, command in (("mlflow", theirs), ("thawline", ours)):
            with running(command) as server:
                measured(bodies, asked.clients, asked.seconds / 3)  # warm
                before = cpu_seconds(server.pid)
                times, others = measured(bodies, asked.clients, asked.seconds)
                used = (cpu_seconds(server.pid) - before) / max(1, len(times)) * 1000
                said[name] = answers(bodies[:8])
            rates[name].append(len(times) / asked.seconds)
            median, p99 = np.percentile(times, [50, 99]) * 1000
            print(
                f"| {name} | {rates[name][-1]:.0f} | {median:.0f} | {p99:.0f} | {used:.1f} | {len(others)} |",
                flush=True,
            )
    print(f"\nratio of the medians of the rounds: {np.median(rates['thawline']) / np.median(rates['mlflow']):.2f}")
    print(f"first answers: {said['mlflow'][0]} and {said['thawline'][0]}")


if __name__ == "__main__":
    main()
