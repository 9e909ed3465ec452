"""`trainers.train` with the network of the small runs as --model=tiny."""

from tests.trainers.small_runs import tiny_network
from trainers import train
from trainers.models import MODELS

if __name__ == "__main__":
    MODELS["tiny"] = tiny_network
    train.main()
