"""Decoding that goes on when an image cannot be decoded."""

import os

import tensorflow as tf

# Batches that are read, and decoded, before they are asked for: enough to hide the latency of a
# network file system.
_READERS = 8
_AHEAD = 2


def decoded_batches(parts, source, decode, report, repair):
    """A tf.data of (images [b, …], labels [b], extra [b, …]), whatever the files hold.

    The fast pipeline stops at an image that cannot be decoded. Its batch is then made image by
    image, and the pipeline starts again behind it: a good image pays nothing for the bad ones.

    Args:
        parts: a tf.data of (rows [b], extra [b, …]).
        source: what to read from, see EncodedDataSet.
        decode: function of (bytes, one of extra) that gives an image.
        report: called with (row, error) for an image that cannot be decoded; may raise.
        repair: function of (images, labels, extra, good [b]) that makes a batch without the bad
            images, which are black in it.
    """
    (batch,) = parts.element_spec[0].shape

    def example(data, label, extra):
        return decode(data, extra), label, extra

    def fast(parts):
        loaded = parts.map(
            lambda rows, extra: (*source.load(rows), extra),
            num_parallel_calls=_READERS,
            deterministic=True,
        )
        examples = loaded.unbatch().map(
            example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return examples.batch(batch, drop_remainder=True).prefetch(_AHEAD)

    fast_spec = fast(parts).element_spec
    image = fast_spec[0].shape[1:]

    def slow(rows, extra):
        examples, good = [], []
        for row, its_extra in zip(rows, extra, strict=True):
            try:
                data, label = source.load(row[None])
                examples.append(example(data[0], label[0], its_extra))
                good.append(True)
            except tf.errors.OpError as error:
                report(int(row), error)
                examples.append((tf.zeros(image), tf.zeros([], tf.int64), its_extra))
                good.append(False)
        return *(tf.stack(column) for column in zip(*examples, strict=True)), good

    def batches():
        done, iterator = 0, _iterate(fast(parts))
        while True:
            try:
                result = next(iterator)
            except StopIteration:
                return
            except tf.errors.OpError:
                *result, good = slow(*next(_iterate(parts.skip(done))))
                if all(good):
                    raise
                result = repair(*result, tf.constant(good))
                iterator = _iterate(fast(parts.skip(done + 1)))
            yield tuple(result)
            done += 1

    return tf.data.Dataset.from_generator(batches, output_signature=fast_spec)


def _iterate(dataset):
    """An iterator with threads of its own: its reader waits in one of TensorFlow's."""
    options = tf.data.Options()
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    options.threading.private_threadpool_size = threads or len(os.sched_getaffinity(0))
    with tf.device("CPU"):
        return iter(dataset.with_options(options))
