"""What a compiled training step holds beside the network's own operations."""

from tests import workers

pair = workers.Job(2)


@pair.check
def test_the_bridge_adds_one_grouped_all_reduce_to_a_step_and_nothing_else():
    import collections

    import horovod.tensorflow as horovod
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    x, y = tf.zeros((4, 8)), tf.zeros((4, 1))
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(1)])

    def operations(optimizer, average=lambda gradients: gradients):
        optimizer.build(model.trainable_variables)

        @tf.function(autograph=False)
        def step():
            with tf.GradientTape() as tape:
                loss = keras.losses.mean_squared_error(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(average(gradients), model.trainable_variables)

        graph = step.get_concrete_function().graph
        return collections.Counter(operation.type for operation in graph.get_operations())

    def sgd():
        return keras.optimizers.SGD(0.1, momentum=0.9)

    alone = operations(sgd())
    by_hand = operations(sgd(), horovod.grouped_allreduce)
    bridge = operations(hvd.DistributedOptimizer(sgd(), overlap=False))
    assert by_hand - alone == {"HorovodGroupedAllreduce": 1}
    assert bridge == by_hand
