"""Read damaged inputs for a while, and keep those that end in an error that nobody expects.

    python -m tests.fuzz.run [SECONDS [TARGET …]]

SECONDS are of each target (60). With atheris (`pip install atheris`, in an environment of its own: it is no dependency)
the damage is guided by the Python code that it reaches; without it, it is drawn at random. What fails is written to
`tests/fuzz/corpus/TARGET/`, which the tests read from then on.
"""

import hashlib
import importlib.util
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutations import CORPUS, SLOW_SECONDS, mutated
from tests.fuzz.targets import TARGETS, Target


def main(seconds: float, names: list[str]) -> None:
    """Run every target; exit with 1 if one of them failed."""
    failed = 0
    for name in names or TARGETS:
        if importlib.util.find_spec("atheris"):
            command = [sys.executable, "-m", "tests.fuzz.guided", name, str(seconds)]
            failed += subprocess.run(command, check=False).returncode > 0
            continue
        inputs, found = drawn(name, TARGETS[name], seconds)
        print(f"{name}: {inputs:,} inputs in {seconds:.0f} s, {found} failed", flush=True)
        failed += found
    raise SystemExit(failed > 0)


def drawn(name: str, target: Target, seconds: float) -> tuple[int, int]:
    """Read inputs with random damage; return how many there were and how many failed."""
    draw, seeds = random.Random(time.time_ns()), target.seeds()
    for seed in seeds:  # imports take their time
        target.read(seed)
    end, inputs, kinds = time.monotonic() + seconds, 0, set[str]()
    while time.monotonic() < end:
        content = mutated(draw.choice(seeds), seeds, draw)
        inputs += 1
        if (fault := fault_of(target, content)) and fault not in kinds:
            kinds.add(fault)
            keep(name, content, fault)
    return inputs, len(kinds)


def fault_of(target: Target, content: bytes) -> str:
    """Return where an input ends in an error, or that it takes too long; nothing of a good one."""
    begin = time.process_time()
    try:
        target.read(content)
    except Exception as error:  # noqa: BLE001 - that there is any is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return "" if time.process_time() - begin < SLOW_SECONDS else "slow"


def keep(name: str, content: bytes, fault: str) -> None:
    """Write an input that failed into the corpus."""
    path = CORPUS / name / hashlib.sha256(content).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{name}: {path.name}: {fault}", flush=True)


if __name__ == "__main__":
    time_of_each = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    main(time_of_each, sys.argv[2:])
