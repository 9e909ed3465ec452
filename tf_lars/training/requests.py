"""What an optimizer asks the training step for: further arguments of its `apply`.

An optimizer asks by naming the argument: `mean_gradient_norms` (CLARS; a scalar for each variable)
or `mean_squared_gradients` (VR-LARS; a tensor for each variable, the mean over the parts of the
batch of their squared gradients, element by element).
"""

import functools
import inspect

ARGUMENTS = ("mean_gradient_norms", "mean_squared_gradients")


def innermost(optimizer):
    """The optimizer inside a distributed one and inside LossScaleOptimizer."""
    optimizer = getattr(optimizer, "local", optimizer)
    inner = getattr(optimizer, "inner_optimizer", None)
    return optimizer if inner is None else innermost(inner)


def asked_for(optimizer):
    """The names of the statistics that the optimizer takes."""
    if optimizer is None:
        return ()
    parameters = inspect.signature(type(innermost(optimizer)).apply).parameters
    return tuple(name for name in ARGUMENTS if name in parameters)


def apply(optimizer, gradients, variables, **given):
    """`optimizer.apply`, with statistics that a LossScaleOptimizer would not hand on."""
    inner = innermost(optimizer)
    if inner is optimizer or not given:
        optimizer.apply(gradients, variables, **given)
        return
    object.__setattr__(inner, "apply", functools.partial(inner.apply, **given))
    try:
        optimizer.apply(gradients, variables)
    finally:
        object.__delattr__(inner, "apply")
