"""Names of collective operations: the same on every rank, and each used once in a function.

Horovod pairs what the ranks send by the operation's name. TensorFlow's automatic names come from
layers and differ between ranks as soon as one of them has built an extra layer. Nor will it do to
count all uses in a process: a rank alone traces a function anew when its own batch has another
size, or when it has variables to create that others have loaded.
"""

import re
import weakref

import tensorflow as tf
from tensorflow.python.ops.control_flow_v2_func_graphs import ControlFlowFuncGraph

_uses = weakref.WeakKeyDictionary()  # graph of a function -> {name: times it was used in it}


def unique_name(name):
    """The name with that of the function being traced, and a number for its uses in one trace."""
    if tf.executing_eagerly():
        return name
    graph = _function_graph()
    names = _uses.setdefault(graph, {})
    names[name] = names.get(name, -1) + 1
    function = re.sub(r"\W", "_", getattr(graph, "name", ""), flags=re.ASCII)  # "<lambda>", say
    return f"{name}.{function}.{names[name]}"


def _function_graph():
    """The graph of the innermost function; bodies of loops and branches are parts of it."""
    graph = tf.compat.v1.get_default_graph()
    while isinstance(graph, ControlFlowFuncGraph):
        graph = graph.outer_graph
    return graph
