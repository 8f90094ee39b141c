"""Test accuracy on the demo photos over five splits: the same command, five salts.

`python tests/benchmarks/quality/five_salts.py .thawline/demo/stamps [--home FOLDER]` prints each accuracy and the mean.
The salt only decides which photos are tested, so the spread is that of 46 test rows; no salt is tuned for.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEMO = ["--weights", "package:efficientnet-lite0", "--image-size", "160", "--trials", "8"]


def run(source: str, salt: int, home: str) -> dict[str, object]:
    """One run of the DAG with that salt, as the command line's JSON."""
    command = [str(Path(sys.executable).with_name("thawline")), "run", source, *DEMO]
    command += ["--model", f"stamps-salt-{salt}", "--split-salt", str(salt), "--home", home, "--json", "--force"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--home", help="folder to keep the runs in; a temporary one if not given")
    parser.add_argument("--salts", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = options.home or temporary
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        found = []
        print("salt  accuracy  95% interval      promoted  seconds")
        for salt in range(options.salts):
            begin = time.monotonic()
            result = run(options.source, salt, home)
            metrics = result["metrics"]
            interval = f"[{metrics['accuracy_low']:.3f}, {metrics['accuracy_high']:.3f}]"
            seconds = time.monotonic() - begin
            print(
                f"{salt:4}  {metrics['accuracy']:8.3f}  {interval}  {result['promoted']!s:8}  {seconds:7.0f}",
                flush=True,
            )
            found.append(metrics["accuracy"])
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        print(f"mean  {statistics.mean(found):8.3f}  standard deviation {spread:.3f}")


if __name__ == "__main__":
    main()
