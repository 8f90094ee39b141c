"""A run that is killed again and again ends as one that was not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT

KILLS = 3  # one of each event; each costs the seconds of a start, so `make faults` does more


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """Killed after a start, an end and a record of its steps in turn, a run ends with the undisturbed one's result.

    The weights are the same bit for bit, MLflow has one pipeline run, and each step that had its record is taken over.
    """
    command = [sys.executable, "-m", "tests.faults.kills", str(KILLS), "--chain", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()[-KILLS:]]
    assert all(kill["hit"] for kill in kills)
    assert len({kill["hit"] for kill in kills}) > KILLS / 2
    assert "prepare_data" not in kills[-1]["again"]
