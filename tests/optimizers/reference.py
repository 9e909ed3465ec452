"""The update rules once more, in float64 numpy, written from the formulas for the tests."""

import numpy as np


def norm(x):
    return float(np.sqrt(np.sum(np.square(np.asarray(x, np.float64)))))


def ratio_or_one(numerator, denominator, *norms):
    return numerator / denominator if all(n > 0 for n in norms) else 1.0


def clip(value, low, high):
    value = value if low is None else max(value, low)
    return value if high is None else min(value, high)


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
        return clip(value, *self.bounds)

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


class ReferenceCLARS(ReferenceLARS):
    """CLARS without given mean norms: LARS with the joint denominator and a cap."""

    def __init__(
        self, w, trust_coefficient=0.01, max_trust_ratio=0.1, epsilon=1e-6,
        momentum_rule="unscaled", **options,
    ):  # fmt: skip
        super().__init__(
            w, trust_coefficient=trust_coefficient, max_trust_ratio=max_trust_ratio,
            epsilon=epsilon, momentum_rule=momentum_rule, denominator="joint", **options,
        )  # fmt: skip


class ReferenceLAMB:
    """One variable under LAMB; `step` returns its new value."""

    def __init__(
        self, w, beta_1=0.9, beta_2=0.999, epsilon=1e-6, weight_decay=0.0, bias_correction=True,
        grad_averaging=True, nesterov=False, decoupled_weight_decay=False, min_trust_ratio=None,
        max_trust_ratio=None, min_weight_norm=None, max_weight_norm=None, decays=True, adapts=True,
    ):  # fmt: skip
        self.w = np.array(w, np.float64)
        self.m, self.s, self.t = np.zeros_like(self.w), np.zeros_like(self.w), 0
        self.beta = weight_decay if decays else 0.0
        self.__dict__.update(
            b1=beta_1, b2=beta_2, epsilon=epsilon, corrects=bias_correction,
            averages=grad_averaging, nesterov=nesterov,
            decoupled=decoupled_weight_decay, adapts=adapts,
            ratio_bounds=(min_trust_ratio, max_trust_ratio),
            norm_bounds=(min_weight_norm, max_weight_norm),
        )  # fmt: skip

    def corrected(self, x, beta, t):
        return x / (1 - beta**t) if self.corrects else x

    def step(self, g, rate):
        g = np.asarray(g, np.float64)
        self.t += 1
        share = 1 - self.b1 if self.averages else 1.0
        self.m = self.b1 * self.m + share * g
        self.s = self.b2 * self.s + (1 - self.b2) * g**2
        m_hat = self.corrected(self.m, self.b1, self.t)
        if self.nesterov:
            m_hat = self.b1 * self.corrected(self.m, self.b1, self.t + 1)
            m_hat = m_hat + self.corrected(share * g, self.b1, self.t)
        u = m_hat / (np.sqrt(self.corrected(self.s, self.b2, self.t)) + self.epsilon)
        if self.decoupled:
            self.w = self.w - rate * self.beta * self.w
        else:
            u = u + self.beta * self.w
        self.w = self.w - rate * self.trust_ratio(u) * u
        return self.w

    def trust_ratio(self, u):
        if not self.adapts:
            return 1.0
        w_norm, u_norm = norm(self.w), norm(u)
        value = ratio_or_one(clip(w_norm, *self.norm_bounds), u_norm, w_norm, u_norm)
        return clip(value, *self.ratio_bounds)
