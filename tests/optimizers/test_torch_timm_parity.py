"""LARS and LAMB against timm's, in float64 PyTorch; collected where both are installed."""

import importlib

import numpy as np
import pytest
import torch

from tests.optimizers import timm_optimizers
from tests.optimizers.precision import assert_relative
from tests.optimizers.test_public_parity import RATES, keras_after, random_run
from tf_lars import LAMB, LARS

timm_optimizers.make_importable()
timm_optim = importlib.import_module("timm.optim")
NOTHING_EXCLUDED = {"exclude_from_weight_decay": None, "exclude_from_layer_adaptation": None}


def torch_after(make, starts, gradients, rates):
    parameters = [torch.nn.Parameter(torch.from_numpy(start).double()) for start in starts]
    optimizer = make(parameters)
    for each, rate in zip(gradients, np.float32(rates), strict=True):  # Keras's rates are float32
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = torch.from_numpy(gradient).double()
        optimizer.step()
    return [parameter.detach().numpy() for parameter in parameters]


@pytest.mark.parametrize("trust_clip", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lars_agrees_with_timm(decay, nesterov, trust_clip):
    run = (*random_run(), RATES)
    ours = LARS.from_preset(
        "timm", learning_rate=0.0, weight_decay=decay, nesterov=nesterov, trust_clip=trust_clip,
        trust_coefficient=0.05, **NOTHING_EXCLUDED,
    )  # fmt: skip
    theirs = torch_after(
        lambda parameters: timm_optim.Lars(
            parameters, lr=0.1, momentum=0.9, weight_decay=decay, nesterov=nesterov,
            trust_coeff=0.05, trust_clip=trust_clip, always_adapt=True,
        ),
        *run,
    )  # fmt: skip
    assert_relative(keras_after(ours, *run), theirs)


@pytest.mark.parametrize("trust_clip", [False, True])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lamb_agrees_with_timm(decay, max_grad_norm, trust_clip):
    run = (*random_run(), RATES)
    ours = LAMB.from_preset(
        "timm", learning_rate=0.0, weight_decay=decay, global_clipnorm=max_grad_norm,
        max_trust_ratio=1.0 if trust_clip else None, **NOTHING_EXCLUDED,
    )  # fmt: skip
    theirs = torch_after(
        lambda parameters: timm_optim.Lamb(
            parameters, lr=0.1, weight_decay=decay, max_grad_norm=max_grad_norm,
            trust_clip=trust_clip, always_adapt=True,
        ),
        *run,
    )  # fmt: skip
    assert_relative(keras_after(ours, *run), theirs, 2e-6)
