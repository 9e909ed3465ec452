"""The update rules by the names that --optimizer takes.

The keyword arguments of a function are the flags that it takes. Imports stay inside the functions:
names are checked before TensorFlow is loaded.
"""


def lars(
    learning_rate,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    trust_coefficient=0.001,
    momentum_rule="scaled",
    denominator="sum",
):
    """LARS; variables with one axis (biases, BatchNorm) neither decay nor are adapted."""
    from tf_lars.optimizers import LARS

    return LARS(
        learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
        momentum_rule=momentum_rule,
        denominator=denominator,
    )


def sgd(learning_rate, momentum=0.9, nesterov=False, weight_decay=0.0):
    """SGD with the L2 decay of Goyal et al. 2017: v = μv + γ(g + βw), variables with one axis not.

    Keras's own `weight_decay` shrinks the weights outside the momentum, which is another rule.
    """
    from trainers.sgd import L2SGD

    return L2SGD(learning_rate, momentum=momentum, nesterov=nesterov, l2=weight_decay)


OPTIMIZERS = {"lars": lars, "sgd": sgd}
