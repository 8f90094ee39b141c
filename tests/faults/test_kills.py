"""Runs that are killed again and again end as one that was not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT

KILLS, EACH = 12, 6  # each costs the seconds of a start, so `make faults` does more


@pytest.mark.slow
def test_runs_that_are_killed_again_and_again(tmp_path: Path) -> None:
    """Killed while the command starts and then in five of its steps, a run ends with the undisturbed one's result.

    The weights are the same bit for bit, MLflow has one pipeline run, and the registry one version.
    """
    kills = [sys.executable, "-m", "tests.faults.kills", str(KILLS), "--each", str(EACH), "--folder", str(tmp_path)]
    done = subprocess.run(kills, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    hits = [json.loads(line)["hit"] for line in done.stdout.splitlines() if line.startswith('{"kill"')]
    assert sum(map(bool, hits)) >= KILLS
    assert len({*hits} - {""}) > EACH - 1
