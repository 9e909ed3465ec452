"""The data sets by the names that --dataset takes.

Each is a function whose keyword arguments are flags. It checks them and gives an object whose
`prepare(workers)` gives the data set. TensorFlow is not needed before that.
"""

from trainers.data.digits import digits
from trainers.data.imagenet import image_folder, imagenet2012
from trainers.data.prepared import cifar10, cifar100, fashion_mnist, mnist
from trainers.data.synthetic import synthetic

DATASETS = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "image_folder": image_folder,
    "imagenet2012": imagenet2012,
    "mnist": mnist,
    "synthetic": synthetic,
}
