"""Images a second and core: the trainers' input pipeline against TensorFlow's bare loop.

    python -m benchmarks.input_pipeline

Both read, crop, resize, mirror and normalise the same JPEGs of 500×400 pixels (noise with the
spectrum of natural images, about 130 kB each) into batches of 224×224. The bare loop does nothing
else: it shuffles nothing, belongs to no worker, and stops at the first image that does not decode.
Cores are counted as processor time, so that a busy machine disturbs little; runs take turns.
"""

import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from absl import app, flags

from trainers.data import DATASETS
from trainers.data.decode import IMAGENET_MEAN, IMAGENET_STD
from trainers.data.pipeline import training_data
from trainers.data.sharding import SampleStream
from trainers.startup import Workers

_IMAGES = flags.DEFINE_integer("images", 512, "Number of JPEG files.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 64, "Images in a batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 20, "Batches a run, after 3 to warm up.", lower_bound=1)
_RUNS = flags.DEFINE_integer("runs", 5, "Runs of each pipeline.", lower_bound=1)
_WARM_UP = 3


def natural_image(rng, height=400, width=500):
    """Noise whose power falls with the square of the frequency, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    amplitude = 1 / np.maximum(frequency, 1 / width)
    phases = rng.random((3, *amplitude.shape))
    pixels = np.fft.irfft2(amplitude * np.exp(2j * np.pi * phases), (height, width))
    pixels = 120 + 50 * (pixels - pixels.mean()) / pixels.std()
    return np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def write_images(folder, count):
    """An image folder of `count` JPEGs (64 different ones), and one to test on."""
    rng = np.random.default_rng(0)
    jpegs = [tf.io.encode_jpeg(natural_image(rng), quality=90).numpy() for _ in range(64)]
    for split, images in (("train", count), ("test", 1)):
        place = pathlib.Path(folder, split, "class")
        place.mkdir(parents=True)
        for index in range(images):
            (place / f"{index:05}.jpg").write_bytes(jpegs[index % 64])
    return sum(map(len, jpegs)) / len(jpegs) / 1000


def ours(folder, batch):
    """Batches as `trainers.train --dataset=image_folder` makes them, one worker, without an end."""
    data = DATASETS["image_folder"](data_dir=str(folder)).prepare(Workers())
    stream = SampleStream(data.examples("train"), 0)
    return training_data(data, stream, batch, Workers(), lambda images, labels, _: (images, labels))


def bare(folder, batch):
    """Batches of TensorFlow's decode-and-crop operation, as in its ImageNet examples."""
    mean, std = tf.constant(IMAGENET_MEAN), tf.constant(IMAGENET_STD)

    def decode(file):
        data = tf.io.read_file(file)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros([1, 0, 4]),
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, [224, 224]))
        return (image - mean) / std, tf.one_hot(0, 1)

    files = sorted(map(str, pathlib.Path(folder, "train").rglob("*.jpg")))
    dataset = tf.data.Dataset.from_tensor_slices(files).repeat()
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def measure(dataset, batches, batch):
    """(images a second and core, images a second) over `batches`, after a warm-up."""
    iterator = iter(dataset)
    for _ in range(_WARM_UP):
        next(iterator)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(iterator)
    images = batches * batch
    return images / (time.process_time() - cpu), images / (time.perf_counter() - wall)


def main(_):
    pipelines = {"tf_lars": ours, "TensorFlow alone": bare}
    results = {name: [] for name in pipelines}
    with tempfile.TemporaryDirectory() as folder:
        size = write_images(folder, _IMAGES.value)
        print(f"{_IMAGES.value} JPEGs of 500×400 pixels, {size:.0f} kB; {os.cpu_count()} cores")
        for _ in range(_RUNS.value):
            for name, make in pipelines.items():
                dataset = make(folder, _BATCH.value)
                results[name].append(measure(dataset, _BATCHES.value, _BATCH.value))
    print(f"{'':18}{'images/s/core':>14}{'images/s':>10}{'ratio':>8}")
    reference = statistics.median(run[0] for run in results["TensorFlow alone"])
    for name, runs in results.items():
        core, second = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{name:18}{core:14.0f}{second:10.0f}{core / reference:8.2f}")


if __name__ == "__main__":
    app.run(main)
