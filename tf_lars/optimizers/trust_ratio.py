"""Trust ratios from norms: the only place in the package where a ratio is computed.

Every function takes norms as scalars or as vectors with one entry for each layer, in float32 or
float64, and returns ratios of the same shape. None of them branches on the host. A norm of zero,
of the weights or of what they are compared with, gives a ratio of 1: the plain step.
"""

from keras import ops


def guarded_ratio(numerator, denominator, weight_norm, other_norm):
    """`numerator / denominator` where both norms are positive, else 1."""
    usable = ops.logical_and(weight_norm > 0, other_norm > 0)
    one = ops.ones_like(denominator)
    return ops.where(usable, numerator / ops.where(usable, denominator, one), one)


def lars_sum(weight_norm, gradient_norm, weight_decay, trust_coefficient, epsilon=0.0):
    """η‖w‖ / (‖g‖ + β‖w‖ + ε), the paper's denominator (arXiv 1708.03888, equation 6)."""
    denominator = gradient_norm + weight_decay * weight_norm + epsilon
    return guarded_ratio(trust_coefficient * weight_norm, denominator, weight_norm, gradient_norm)


def lars_joint(weight_norm, decayed_gradient_norm, trust_coefficient, epsilon=0.0):
    """η‖w‖ / (‖g + βw‖ + ε), the denominator of SimCLR, optax and tf-models."""
    denominator = decayed_gradient_norm + epsilon
    return guarded_ratio(
        trust_coefficient * weight_norm, denominator, weight_norm, decayed_gradient_norm
    )


def lamb(weight_norm, update_norm, min_weight_norm=None, max_weight_norm=None):
    """φ(‖w‖)/‖u‖ with φ(z) = min(max(z, γ_l), γ_u) (arXiv 1904.00962, Algorithm 2)."""
    numerator = bounded(weight_norm, min_weight_norm, max_weight_norm)
    return guarded_ratio(numerator, update_norm, weight_norm, update_norm)


def reciprocal(norm, epsilon=0.0, of_zero=0.0):
    """1/(norm + ε), and `of_zero` where the norm is zero."""
    usable = norm > 0
    safe = ops.where(usable, norm + epsilon, ops.ones_like(norm))
    return ops.where(usable, 1.0 / safe, of_zero * ops.ones_like(norm))


def larc_clipped(ratio, learning_rate):
    """min(λ/γ, 1): a layer's own rate never exceeds γ (apex's LARC, timm's `trust_clip`)."""
    positive = learning_rate > 0
    safe_rate = ops.where(positive, learning_rate, ops.ones_like(learning_rate))
    clipped = bounded(ratio / safe_rate, maximum=1.0)
    return ops.where(positive, clipped, ops.ones_like(ratio))


def bounded(ratio, minimum=None, maximum=None):
    """The ratio within [minimum, maximum]; None leaves that side open.

    By `where` and a product: on PyTorch Keras's `minimum`, and a Python number alone, are float32.
    """
    if minimum is not None:
        ratio = ops.where(ratio < minimum, minimum * ops.ones_like(ratio), ratio)
    if maximum is not None:
        ratio = ops.where(ratio > maximum, maximum * ops.ones_like(ratio), ratio)
    return ratio
