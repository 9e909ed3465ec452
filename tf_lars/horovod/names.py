"""Names of collective operations: the same on every rank, and each used once in a graph.

Horovod pairs what the ranks send by the operation's name. TensorFlow's automatic names come from
layers and differ between ranks as soon as one of them has built an extra layer.
"""

import weakref

import tensorflow as tf

_uses = weakref.WeakKeyDictionary()  # root graph -> {name: times it was used in it}


def unique_name(name):
    """The name, with a number behind it that tells its uses in one graph apart."""
    if tf.executing_eagerly():
        return name
    names = _uses.setdefault(_root_graph(), {})
    names[name] = names.get(name, -1) + 1
    return f"{name}.{names[name]}"


def _root_graph():
    graph = tf.compat.v1.get_default_graph()
    while getattr(graph, "outer_graph", None) is not None:
        graph = graph.outer_graph
    return graph
