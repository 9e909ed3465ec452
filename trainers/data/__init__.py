"""The data sets by the names that --dataset takes. TensorFlow is not needed to load one."""

from trainers.data.digits import digits

DATASETS = {"digits": digits}
