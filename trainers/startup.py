"""Starting TensorFlow and Horovod: quietly, and each worker on its own share of the machine."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import typing

import numpy as np

from trainers.errors import ConfigError

# What TensorFlow prints while it loads whatever its log level is: information, warnings, and that
# there is no GPU.
_CHATTER = (
    r"^(WARNING: All log messages before absl::InitializeLog"
    r"|To enable the following instructions:"
    r"|[IW][0-9]{4} [0-9:.]+ +[0-9]+ "
    r"|E[0-9]{4} .* (failed call to cuInit|Unable to register cu))"
)

_RANK_AND_SIZE = (
    ("HOROVOD_RANK", "HOROVOD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),  # srun --mpi=pmix
)


def launched_rank_and_size():
    """(rank, world size) as horovodrun, mpirun or srun has set them; (0, 1) without any."""
    for names in _RANK_AND_SIZE:
        rank, size = (os.environ.get(name) for name in names)
        if rank and size:
            return int(rank), int(size)
    return 0, 1


def elastic_job():
    """The name of the elastic job that this process is part of; None outside of one."""
    if os.environ.get("HOROVOD_ELASTIC") != "1":
        return None
    names = ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT")
    return ":".join(os.environ.get(name, "") for name in names)


def check_launcher(elastic):
    """The job was started as --elastic says.

    Raises:
        ConfigError: it was not.
    """
    started_so = elastic_job() is not None
    if elastic and not started_so:
        raise ConfigError(
            "--elastic needs an elastic job: horovodrun -np 2 --min-np 1 --max-np 4 "
            "--host-discovery-script ./hosts.sh python -m trainers.train … --elastic."
        )
    if started_so and not elastic:
        raise ConfigError(
            "this is an elastic job (horovodrun with --host-discovery-script or --min-np): give "
            "--elastic as well, or start the job without those options."
        )


def present_rank():
    """This worker's rank: in an elastic job it may be another one than at the start."""
    horovod = sys.modules.get("horovod.tensorflow")
    if horovod is not None and horovod.is_initialized():
        return horovod.rank()
    return launched_rank_and_size()[0]


@dataclasses.dataclass(frozen=True)
class Workers:
    """The workers of a run as one of them sees them; `horovod` is None where there is but one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    horovod: typing.Any = None

    def sum(self, vector):
        """The sum over all workers of a float64 vector."""
        if self.horovod is None:
            return vector
        import tensorflow as tf

        tensor = tf.constant(np.asarray(vector, np.float64))
        return self.horovod.allreduce(tensor, op=self.horovod.Sum).numpy()

    def meet(self):
        """Returns when all workers have got here: the first to end with a code ends the others."""
        self.sum(np.zeros(1))

    def by_rank_0(self, function, *arguments):
        """What `function` returns on rank 0, which alone calls it, on every worker.

        Raises:
            ConfigError, OSError: on every worker, what it raised there.
        """
        value = error = None
        if self.rank == 0:
            try:
                value = function(*arguments)
            except (ConfigError, OSError) as problem:
                error = problem
        value, error = self.broadcast((value, error))
        if error is not None:
            raise error
        return value

    def gather(self, value):
        """Every worker's value, any picklable object, as a list by rank."""
        if self.horovod is None:
            return [value]
        return self.horovod.allgather_object(value)

    def broadcast(self, value):
        """Rank 0's value, any picklable object, on every worker."""
        if self.horovod is None:
            return value
        return self.horovod.broadcast_object(value, root_rank=0)


@contextlib.contextmanager
def without_chatter():
    """Leaves out of stderr what TensorFlow prints while it loads; anything else comes through.

    The filter is a process of its own, so that even a crash cannot take a message with it.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        filter_ = subprocess.Popen(
            ["grep", "-a", "--line-buffered", "-v", "-E", _CHATTER],  # -a: whatever the bytes
            stdin=subprocess.PIPE,
            stdout=stderr,
        )
    except OSError:  # no grep on this machine: chatter, then
        os.close(stderr)
        yield
        return
    os.dup2(filter_.stdin.fileno(), 2)
    filter_.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        filter_.wait()


def start():
    """Loads TensorFlow, joins the other workers, and gives back who they are.

    Raises:
        ConfigError: several workers were started and Horovod is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_chatter():
        import tensorflow as tf

        workers = _join()
        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            tf.config.set_visible_devices(gpus[workers.local_rank % len(gpus)], "GPU")
        for gpu in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if "TF_NUM_INTRAOP_THREADS" not in os.environ:
            share = max(len(os.sched_getaffinity(0)) // workers.local_size, 1)
            tf.config.threading.set_intra_op_parallelism_threads(share)
        tf.config.list_logical_devices()
    return workers


def _join():
    if launched_rank_and_size()[1] == 1 and elastic_job() is None:
        return Workers()
    try:
        import tf_lars.horovod as hvd

        hvd.init()
    except ImportError as error:
        if "tf_lars.horovod.build" not in str(error):
            raise
        raise ConfigError(f"{launched_rank_and_size()[1]} workers were started. {error}") from error
    return present_workers()


def present_workers():
    """The workers that Horovod knows now; in an elastic job they change."""
    import tf_lars.horovod as hvd

    return Workers(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size(), hvd)
