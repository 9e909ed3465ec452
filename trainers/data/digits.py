"""The handwritten digits that come with scikit-learn: 1,797 real images of 8×8 pixels."""

import numpy as np

from trainers.data.arrays import ArrayDataSet

TEST_EXAMPLES = 360


def digits():
    """The UCI test set of optical digits (Alpaydin and Kaynak 1998), which needs no download.

    The split is stratified and the same for every run: 1,437 images to train on, 360 to test on.
    Pixels, 0 to 16 in the source, are scaled to about zero mean and unit variance.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1).astype(np.float32) - 4.9) / 6.0
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=TEST_EXAMPLES, stratify=labels, random_state=0
    )
    return ArrayDataSet("digits", 10, (train_x, train_y), (test_x, test_y))
