"""Real `horovodrun` jobs for the tests: start them, collect what each rank reports, never hang.

Most tests are checks: functions that every rank of one shared job runs, since starting a job
takes seconds and a check takes a tenth of one::

    job = workers.Job(2, 3)             # the same checks with two ranks and with three

    @job.check
    def test_average_is_the_mean_over_the_ranks():
        import tf_lars.horovod as hvd   # imports belong inside: this runs in the ranks
        ...
        assert np.allclose(mean, expected)

A check that raises on any rank fails with that rank's traceback. Checks are called after
`hvd.init()`. Whatever needs a job of its own uses `run` (a function, by its module and name),
`run_script` (source text as a user writes it) or `horovodrun` (any command).
"""

import dataclasses
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback

import psutil
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(sys.executable).parent
RESULTS = "TF_LARS_TEST_RESULTS"


@dataclasses.dataclass
class Finished:
    """A job that has ended: its exit code (None: killed at the time limit), output and reports."""

    returncode: int | None
    output: str
    seconds: float
    reports: dict[int, dict]

    def results(self, key="result"):
        """What each rank reported under `key`, in the order of the ranks."""
        return [self.reports[rank][key] for rank in sorted(self.reports)]


def report(value, key="result"):
    """Called in a rank: hands a JSON-able value to the test that started the job."""
    rank = os.environ.get("HOROVOD_RANK", "0")
    with open(pathlib.Path(os.environ[RESULTS], f"rank{rank}.jsonl"), "a") as file:
        file.write(json.dumps([key, value]) + "\n")


def _read_reports(folder):
    reports = {}
    for path in folder.glob("rank*.jsonl"):
        lines = path.read_text().splitlines()
        reports[int(path.stem[4:])] = dict(json.loads(line) for line in lines)
    return reports


def environment(extra=None):
    """The environment of a job: the interpreter's bin folder first, one thread a rank, quiet."""
    env = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep),
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "2",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return env | {key: str(value) for key, value in (extra or {}).items()}


def kill_tree(pid):
    """Kills a process and everything below it: horovodrun's workers have sessions of their own."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.send_signal(signal.SIGCONT)
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(family, timeout=10)


def reported(pid, key, ranks):
    """Whether a running job's ranks, one of which has this pid, have all reported `key`."""
    folder = pathlib.Path(psutil.Process(pid).environ()[RESULTS])
    reports = _read_reports(folder)
    return len(reports) == ranks and all(key in values for values in reports.values())


def worker_pids(pid):
    """The process ids of a running job's ranks, {rank: pid}, from the pid of horovodrun."""
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        try:
            rank = process.environ().get("HOROVOD_RANK")
            if rank is not None and pathlib.Path(process.exe()).name.startswith("python"):
                found[int(rank)] = process.pid  # the youngest: shells come before what they run
        except psutil.Error:
            continue
    return found


HOROVODRUN = (str(BIN / "horovodrun"),)
QUICK_LAUNCHER = (sys.executable, "-m", "tf_lars.horovod.run")  # horovodrun, seconds sooner


def horovodrun(
    command,
    np=2,
    *,
    timeout=180,
    env=None,
    options=(),
    check=True,
    meanwhile=None,
    launcher=HOROVODRUN,
):
    """Runs `horovodrun -np NP OPTIONS COMMAND` and returns a `Finished`.

    Args:
        command: list of strings, what each rank runs.
        np: number of ranks.
        timeout: seconds until the whole job is killed.
        env: environment variables on top of `environment()`.
        options: further options of horovodrun; with `--host-discovery-script` it is elastic.
        check: fail, showing what all ranks printed, unless the job ends with 0.
        meanwhile: called with horovodrun's pid while the job runs, for tests that do harm to it.
        launcher: what stands in the place of `horovodrun`.
    """
    with tempfile.TemporaryDirectory(prefix="tf_lars_job_") as name:
        folder = pathlib.Path(name)
        line = [*launcher, "--gloo", "-np", str(np), *options, *map(str, command)]
        began = time.monotonic()
        with (folder / "output").open("w") as output:
            process = subprocess.Popen(
                line,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment({**(env or {}), RESULTS: name}),
                cwd=ROOT,
                start_new_session=True,
            )
            try:
                if meanwhile is not None:
                    meanwhile(process.pid)
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
            finally:
                returncode = process.poll()
                kill_tree(process.pid)
                process.wait()
        finished = Finished(
            returncode=returncode,
            output=(folder / "output").read_text(errors="replace"),
            seconds=time.monotonic() - began,
            reports=_read_reports(folder),
        )
    if check and finished.returncode != 0:
        how = "was killed after" if returncode is None else f"ended with {returncode} after"
        pytest.fail(f"{' '.join(line)}\n{how} {finished.seconds:.0f} s\n{finished.output}", False)
    return finished


def run(function, np=2, *args, **options):
    """Runs a module-level function on every rank; returns its JSON-able results by rank."""
    call = [sys.executable, "-m", "tests.workers", "call", function.__module__]
    finished = horovodrun([*call, function.__qualname__, json.dumps(args)], np, **options)
    return finished.results()


def run_script(source, np=2, *args, **options):
    """Runs source text (or a path) as a script on every rank; returns the `Finished` job.

    The script may hand values over with `from tests.workers import report`.
    """
    if isinstance(source, pathlib.Path):
        return horovodrun([sys.executable, source, *args], np, **options)
    with tempfile.TemporaryDirectory(prefix="tf_lars_script_") as folder:
        path = pathlib.Path(folder, "script.py")
        path.write_text(textwrap.dedent(source))
        return horovodrun([sys.executable, path, *args], np, **options)


class Job:
    """Checks that share one horovodrun job for each number of ranks.

    Args:
        *sizes: numbers of ranks; every check is a test for each of them.
        timeout: seconds for all checks of one job together.
        env: further environment variables.
    """

    def __init__(self, *sizes, timeout=300, env=None):
        self._sizes, self._timeout, self._env = sizes, timeout, env
        self._finished = {}

    def check(self, function):
        """Turns a function that every rank runs into a test of that name."""

        def test(request, np):
            self._judge(request, np, function)

        test.__name__ = test.__qualname__ = function.__name__
        test.__module__, test.__doc__ = function.__module__, function.__doc__
        test.job, test.in_ranks = self, function
        return pytest.mark.parametrize("np", self._sizes)(test)

    def _judge(self, request, np, function):
        if np not in self._finished:
            chosen = [
                item.originalname
                for item in request.session.items
                if getattr(getattr(item, "function", None), "job", None) is self
                and item.callspec.params["np"] == np
            ]
            self._finished[np] = horovodrun(
                [sys.executable, "-m", "tests.workers", "checks", function.__module__, *chosen],
                np,
                timeout=self._timeout,
                env=self._env,
                check=False,
                launcher=QUICK_LAUNCHER,
            )
        finished = self._finished[np]
        outcomes = {r: values.get(function.__name__) for r, values in finished.reports.items()}
        failures = [f"rank {r}:\n{text}" for r, text in sorted(outcomes.items()) if text]
        if failures:
            pytest.fail("\n".join(failures), pytrace=False)
        if any(text for values in finished.reports.values() for text in values.values()):
            pytest.fail("not run, because an earlier check of the same job failed", False)
        if [outcomes.get(rank) for rank in range(np)] != [""] * np:
            pytest.fail(f"did not finish on every rank: {outcomes}\n{finished.output}", False)


def _run_checks(module, names):
    """In a rank: the checks in order. The first that raises ends the rank, and so the job."""
    import tf_lars.horovod as hvd

    hvd.init()
    for name in names:
        try:
            getattr(module, name).in_ranks()
        except BaseException:
            report(traceback.format_exc(), name)
            raise
        report("", name)


def main(mode, module, *arguments):
    module = importlib.import_module(module)
    if mode == "checks":
        _run_checks(module, arguments)
    else:
        name, args = arguments
        report(getattr(module, name)(*json.loads(args)))


if __name__ == "__main__":
    main(*sys.argv[1:])
