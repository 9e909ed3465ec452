"""Saves a model with each optimizer for later versions to load: run once for each release.

    KERAS_BACKEND=tensorflow python -m tests.optimizers.make_fixtures 0.1.0

Writes tests/optimizers/fixtures/VERSION/: the models after some steps, and expected.json, what
more steps on them gave. Never renew an old version's files: they stand for users' models.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from tests.optimizers.test_contract import small_model
from tf_lars import CLARS, LAMB, LANS, LARC, LARS, NovoGrad, OrScale

FIXTURES = Path(__file__).with_name("fixtures")
EXCLUSIONS = {
    "exclude_from_weight_decay": ["1d", "(^|/)head/"],
    "exclude_from_layer_adaptation": ["bias"],
}
OPTIMIZERS = {
    "LARS": lambda: LARS(
        keras.optimizers.schedules.PolynomialDecay(0.5, 20, 0.1), weight_decay=0.01,
        trust_coefficient=0.02, momentum_correction=True,
        learning_rate_multipliers={"bias": 0.5}, **EXCLUSIONS,
    ),
    "LAMB": lambda: LAMB(0.05, weight_decay=0.01, use_ema=True, ema_momentum=0.9, **EXCLUSIONS),
    "CLARS": lambda: CLARS(0.5, weight_decay=0.01, gradient_accumulation_steps=2, **EXCLUSIONS),
    "LANS": lambda: LANS(0.05, weight_decay=0.01, global_clipnorm=1.0, **EXCLUSIONS),
    "NovoGrad": lambda: NovoGrad(0.05, weight_decay=0.01, **EXCLUSIONS),
    "OrScale": lambda: OrScale(
        0.05, weight_decay=0.01, adamw_stem_and_head=False,
        exclude_from_orthogonalization=["head"], **EXCLUSIONS,
    ),
    "LARC": lambda: LARC(
        keras.optimizers.AdamW(0.05, weight_decay=0.01), gradient_accumulation_steps=2, **EXCLUSIONS
    ),
}  # fmt: skip


def batches():
    generator = np.random.default_rng(7)
    return generator.normal(size=(3, 8, 6)), generator.normal(size=(3, 8, 3))


def losses_of_more_steps(model, steps):
    """The loss of each of `steps` steps, which move the model on."""
    inputs, targets = batches()
    return [
        float(np.ravel(model.train_on_batch(inputs[k % 3], targets[k % 3]))[0])
        for k in range(steps)
    ]


def save(folder):
    folder.mkdir(parents=True)
    expected = {}
    for name, make in OPTIMIZERS.items():
        model = small_model()
        model.compile(make(), loss="mse")
        losses_of_more_steps(model, 5)
        model.save(folder / f"{name}.keras")
        config = json.loads(json.dumps(model.optimizer.get_config()))
        expected[name] = {"config": config, "losses": losses_of_more_steps(model, 6)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    save(FIXTURES / sys.argv[1])
