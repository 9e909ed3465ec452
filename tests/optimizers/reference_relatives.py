"""LANS, NovoGrad, OrScale and LARC in float64 numpy, written from the formulas for the tests.

Each class holds one variable; `step(g, rate)` returns its new value, `w`.
"""

from typing import ClassVar

import numpy as np

from tests.optimizers.reference import norm, ratio_or_one


class Reference:
    defaults: ClassVar[dict] = {}

    def __init__(self, w, decays=True, adapts=True, weight_decay=0.0, **options):
        self.w = np.array(w, np.float64)
        self.m, self.v, self.t = np.zeros_like(self.w), np.zeros_like(self.w), 0
        self.adapts, self.beta = adapts, weight_decay if decays else 0.0
        self.options = {**self.defaults, **options}

    def __getattr__(self, name):
        return self.__dict__["options"][name]

    def adam(self, g, beta_1, beta_2):
        """(m̂, √ŝ) after g."""
        self.t += 1
        self.m = beta_1 * self.m + (1 - beta_1) * g
        self.v = beta_2 * self.v + (1 - beta_2) * g**2
        return self.m / (1 - beta_1**self.t), np.sqrt(self.v / (1 - beta_2**self.t))


class ReferenceLANS(Reference):
    defaults: ClassVar[dict] = {
        "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-6, "min_weight_norm": None,
        "max_weight_norm": None,
    }  # fmt: skip

    def step(self, g, rate):
        g = g / norm(g) if norm(g) else g
        m, root = self.adam(g, self.beta_1, self.beta_2)
        r = m / (root + self.epsilon) + self.beta * self.w
        c = g / (root + self.epsilon) + self.beta * self.w
        self.w = self.w - rate * (
            self.beta_1 * self.phi_over(r) * r + (1 - self.beta_1) * self.phi_over(c) * c
        )
        return self.w

    def phi_over(self, u):
        if not self.adapts:
            return 1.0
        low, high = self.min_weight_norm, self.max_weight_norm
        phi = norm(self.w) if low is None else max(norm(self.w), low)
        phi = phi if high is None else min(phi, high)
        return ratio_or_one(phi, norm(u), norm(self.w), norm(u))


class ReferenceNovoGrad(Reference):
    defaults: ClassVar[dict] = {
        "beta_1": 0.95,
        "beta_2": 0.98,
        "epsilon": 1e-8,
        "grad_averaging": False,
    }

    def step(self, g, rate):
        self.t += 1
        squared = norm(g) ** 2
        self.v = squared if self.t == 1 else self.beta_2 * self.v + (1 - self.beta_2) * squared
        scale = 1.0 / (np.sqrt(self.v) + self.epsilon) if self.adapts and self.v else 1.0
        added = scale * g + self.beta * self.w
        self.m = self.beta_1 * self.m + (1 - self.beta_1 if self.grad_averaging else 1) * added
        self.w = self.w - rate * self.m
        return self.w


def newton_schulz(matrix, coefficients, safety):
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (safety * np.linalg.norm(x) + 1e-7)
    for a, b, c in coefficients:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def to_rows_of_filters(kernel):
    """A Keras kernel as PyTorch would flatten it: [C_out, C_in·k·k]."""
    filters_first = np.moveaxis(kernel, (-1, -2), (0, 1))
    return filters_first.reshape(filters_first.shape[0], -1)


def from_rows_of_filters(matrix, shape):
    filters_first = matrix.reshape(shape[-1], shape[-2], *shape[:-2])
    return np.moveaxis(filters_first, (0, 1), (-1, -2))


class ReferenceOrScale(Reference):
    def step(self, g, rate):
        if self.on_adamw:
            m, root = self.adam(g, 0.9, 0.999)
            update = m / (root + 1e-8) + self.beta * self.w
            self.w = self.w - rate * self.adamw_learning_rate_ratio * update
            return self.w
        self.m = self.momentum * self.m + g
        rows = to_rows_of_filters(self.momentum * self.m + g)
        q = newton_schulz(rows, self.coefficients, self.safety)
        update = from_rows_of_filters(q, self.w.shape) + self.beta * self.w
        ratio = ratio_or_one(norm(self.w), norm(update) + self.epsilon, norm(self.w), norm(update))
        ratio = min(max(ratio, self.min_trust_ratio), self.max_trust_ratio) if self.adapts else 1.0
        self.w = self.w - rate * ratio * update
        return self.w


class ReferenceLARC(Reference):
    """The transform in front of `inner`, a function (self, gradient, rate) → step."""

    def step(self, g, rate):
        trust = ratio_or_one(
            self.trust_coefficient * norm(self.w),
            norm(g) + self.beta * norm(self.w) + self.epsilon,
            norm(self.w),
            norm(g),
        )
        if self.trust_clip:
            trust = min(trust / rate, 1.0)
        d = (trust if self.adapts else 1.0) * (g + self.beta * self.w)
        self.w = self.w - self.inner(self, d, rate)
        return self.w

    def sgd(self, d, rate):
        self.m = 0.9 * self.m - rate * d
        return -self.m

    def adam_step(self, d, rate):
        m, root = self.adam(d, 0.9, 0.999)
        # Keras's ε̂ stands beside the root that is not corrected.
        return rate * m / (root + 1e-7 / np.sqrt(1 - 0.999**self.t))
