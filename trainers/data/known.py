"""The sizes of the data sets that never change, so that a run can be planned without them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Known:
    """Examples to train and to test on, shape of an image (None: as --image_size says), classes."""

    train: int
    test: int
    image_shape: tuple | None
    classes: int


KNOWN = {
    "cifar10": Known(50_000, 10_000, (32, 32, 3), 10),
    "cifar100": Known(50_000, 10_000, (32, 32, 3), 100),
    "digits": Known(1_437, 360, (8, 8, 1), 10),
    "fashion_mnist": Known(60_000, 10_000, (28, 28, 1), 10),
    "imagenet2012": Known(1_281_167, 50_000, None, 1_000),
    "mnist": Known(60_000, 10_000, (28, 28, 1), 10),
}
