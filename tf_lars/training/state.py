"""What the callbacks and sources of this package remember, for a checkpoint of a run.

`get_state()` gives numbers, lists and None, which JSON keeps bit for bit; `set_state()` takes them
back before `fit` or during it. The weights and the optimizer's variables are not among them: Keras
saves those. What has a state: `NoiseScale`, `AdaptiveBatches`, `AdaScale`, `MomentumCorrection`,
and the source of the mean norms (`model.mean_norms`).
"""


def checked(owner, state, names):
    """The values of `names` in a state, in that order.

    Raises:
        ValueError: the state was not given by `get_state` of an object of `owner`'s class.
    """
    if not isinstance(state, dict) or state.keys() != set(names):
        found = sorted(state) if isinstance(state, dict) else repr(state)
        raise ValueError(
            f"{type(owner).__name__}.set_state needs what its get_state gave, an object with "
            f"{', '.join(names)}; got {found}."
        )
    return [state[name] for name in names]
