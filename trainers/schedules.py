"""The learning-rate schedules by the names that --lr_schedule takes.

The keyword arguments of a function are the flags that it takes. Imports stay inside the functions:
names are checked before TensorFlow is loaded.
"""


def polynomial(plan, end_learning_rate=0.0, lr_power=2.0, decay_from="warmup"):
    from tf_lars.schedules import WarmupPolynomial

    return WarmupPolynomial(
        **plan.peak_and_warmup(),
        total_steps=plan.updates,
        end_learning_rate=end_learning_rate,
        power=lr_power,
        decay_from=decay_from,
    )


def cosine(plan, end_learning_rate=0.0, decay_from="warmup"):
    from tf_lars.schedules import WarmupCosine

    return WarmupCosine(
        **plan.peak_and_warmup(),
        total_steps=plan.updates,
        end_learning_rate=end_learning_rate,
        decay_from=decay_from,
    )


def step(plan, lr_milestones=(), lr_factor=0.1, grow_batch_factor=None, max_batch_size=None):
    """A rate that falls at the milestones, or, with a batch that grows there, what that leaves.

    How the batch grows is in the plan: see trainers.derived.
    """
    from tf_lars.schedules import StagedLearningRate, WarmupStep

    boundaries = plan.boundaries(lr_milestones)
    if grow_batch_factor is not None:
        return StagedLearningRate(
            plan.learning_rates, boundaries, plan.warmup_updates, plan.warmup_learning_rate
        )
    return WarmupStep(**plan.peak_and_warmup(), boundaries=boundaries, factor=lr_factor)


def constant(plan):
    from tf_lars.schedules import WarmupConstant

    return WarmupConstant(**plan.peak_and_warmup())


LR_SCHEDULES = {
    "polynomial": polynomial,
    "cosine": cosine,
    "step": step,
    "constant": constant,
}
