"""The update rules once more, in float64 numpy, written from the formulas for the tests."""

import numpy as np


def norm(x):
    return float(np.sqrt(np.sum(np.square(np.asarray(x, np.float64)))))


def ratio_or_one(numerator, denominator, *norms):
    return numerator / denominator if all(n > 0 for n in norms) else 1.0


class ReferenceLARS:
    """One variable under LARS; `step` returns its new value."""

    def __init__(
        self, w, momentum=0.9, nesterov=False, weight_decay=0.0, trust_coefficient=0.001,
        epsilon=0.0, momentum_rule="scaled", denominator="sum", momentum_correction=False,
        trust_clip=False, min_trust_ratio=None, max_trust_ratio=None, decays=True, adapts=True,
    ):  # fmt: skip
        self.w, self.v = np.array(w, np.float64), np.zeros_like(w, np.float64)
        self.beta = weight_decay if decays else 0.0
        self.previous_rate = None
        self.__dict__.update(
            mu=momentum, nesterov=nesterov, eta=trust_coefficient, epsilon=epsilon,
            rule=momentum_rule, denominator=denominator, correction=momentum_correction,
            clip=trust_clip, bounds=(min_trust_ratio, max_trust_ratio), adapts=adapts,
        )  # fmt: skip

    def trust_ratio(self, g, u, rate):
        if not self.adapts:
            return 1.0
        w_norm, g_norm, u_norm = norm(self.w), norm(g), norm(u)
        if self.rule == "update_norm" or self.denominator == "joint":
            value = ratio_or_one(self.eta * w_norm, u_norm + self.epsilon, w_norm, u_norm)
        else:
            bottom = g_norm + self.beta * w_norm + self.epsilon
            value = ratio_or_one(self.eta * w_norm, bottom, w_norm, g_norm)
        if self.clip:
            value = min(value / rate, 1.0) if rate > 0 else 1.0
        low, high = self.bounds
        value = value if low is None else max(value, low)
        return value if high is None else min(value, high)

    def step(self, g, rate):
        g = np.asarray(g, np.float64)
        d = g + self.beta * self.w
        if self.correction and self.previous_rate:
            self.v = self.v * rate / self.previous_rate
        self.previous_rate = rate
        if self.rule == "update_norm":
            self.v = self.mu * self.v + d
            u = d + self.mu * self.v if self.nesterov else self.v
            self.w = self.w - rate * self.trust_ratio(g, u, rate) * u
            return self.w
        trust = self.trust_ratio(g, d, rate)
        if self.rule == "scaled":
            added, factor = rate * trust * d, 1.0
        elif self.rule == "trust_scaled":
            added, factor = trust * d, rate
        else:
            added, factor = d, rate * trust
        self.v = self.mu * self.v + added
        self.w = self.w - factor * (self.mu * self.v + added if self.nesterov else self.v)
        return self.w
