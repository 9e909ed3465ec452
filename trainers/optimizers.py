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
    adapt_1d=False,
    ema_momentum=None,
):
    """LARS; variables with one axis (biases, BatchNorm) are left out unless `adapt_1d`."""
    from tf_lars.optimizers import LARS

    excluded = None if adapt_1d else "1d"

    return LARS(
        learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
        momentum_rule=momentum_rule,
        denominator=denominator,
        exclude_from_weight_decay=excluded,
        exclude_from_layer_adaptation=excluded,
        **_averages(ema_momentum),
    )


def clars(
    learning_rate,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    trust_coefficient=0.01,
    momentum_rule="unscaled",
    max_trust_ratio=0.1,
    ema_momentum=None,
):
    """CLARS as its authors have it: all variables decay, those with one axis are not adapted."""
    from tf_lars.optimizers import CLARS

    return CLARS(
        learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
        momentum_rule=momentum_rule,
        max_trust_ratio=max_trust_ratio,
        exclude_from_weight_decay=None,
        **_averages(ema_momentum),
    )


def lamb(
    learning_rate,
    weight_decay=0.0,
    beta_1=0.9,
    beta_2=0.999,
    bias_correction=True,
    global_clipnorm=None,
    ema_momentum=None,
):
    """LAMB; variables with one axis (biases, BatchNorm) neither decay nor are adapted."""
    from tf_lars.optimizers import LAMB

    return LAMB(
        learning_rate,
        weight_decay=weight_decay,
        beta_1=beta_1,
        beta_2=beta_2,
        bias_correction=bias_correction,
        global_clipnorm=global_clipnorm,
        **_averages(ema_momentum),
    )


def sgd(learning_rate, momentum=0.9, nesterov=False, weight_decay=0.0, ema_momentum=None):
    """SGD with the L2 decay of Goyal et al. 2017: v = μv + γ(g + βw), variables with one axis not.

    Keras's own `weight_decay` shrinks the weights outside the momentum, which is another rule.
    """
    from trainers.sgd import L2SGD

    return L2SGD(
        learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        l2=weight_decay,
        **_averages(ema_momentum),
    )


def _averages(ema_momentum):
    """Keras's options for averages of the weights, see trainers.averages."""
    return {} if ema_momentum is None else {"use_ema": True, "ema_momentum": ema_momentum}


OPTIMIZERS = {"clars": clars, "lamb": lamb, "lars": lars, "sgd": sgd}
