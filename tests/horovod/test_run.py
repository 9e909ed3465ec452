"""The launcher: the same job as horovodrun's, without what its launcher prints."""

import subprocess
import sys


def launch(code):
    return subprocess.run(
        [sys.executable, "-m", "tf_lars.horovod.run", "-np", "2", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_only_the_workers_are_heard():
    result = launch("import os; print('rank', os.environ['HOROVOD_RANK'])")
    assert result.returncode == 0
    assert sorted(result.stdout.split("\n")) == ["", "[0]<stdout>:rank 0", "[1]<stdout>:rank 1"]
    assert result.stderr == ""


def test_a_failed_job_ends_with_its_reason_its_exit_code_and_no_traceback():
    result = launch("import os, sys; sys.exit(3 * (os.environ['HOROVOD_RANK'] == '1'))")
    assert result.returncode == 3
    assert "Process name: 1\nExit code: 3" in result.stderr
    assert "Traceback" not in result.stderr
