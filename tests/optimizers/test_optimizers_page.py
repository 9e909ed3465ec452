"""docs/optimizers.md: its code runs, its presets are the code's, its migrations change nothing."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.optimizers import timm_optimizers
from tests.optimizers.test_contract import numpy_of
from tf_lars.optimizers.presets import PRESETS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "optimizers.md"
BLOCKS = re.findall(r"^```python([^\n]*)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
PLAIN = [code for info, code in BLOCKS if "migrate" not in info]
MIGRATIONS = [(info, code) for info, code in BLOCKS if "migrate" in info]


def test_the_page_has_the_blocks_that_these_tests_look_for():
    assert len(PLAIN) >= 9 and len(MIGRATIONS) == 6


def test_the_code_blocks_run_one_after_the_other():
    namespace = {}
    for code in PLAIN:
        exec(compile(code, PAGE.name, "exec"), namespace)


def preset_rows():
    """The tables of presets as Markdown."""
    lines = []
    for name, table in PRESETS.items():
        lines += ["", f"| `{name}.from_preset` | differs from the defaults in | how | source |"]
        lines += ["|---|---|---|---|"]
        for preset, row in table.items():
            given = ", ".join(f"`{key}={value!r}`" for key, value in row.arguments.items())
            lines.append(f'| `"{preset}"` | {given or "nothing"} | {row.differs} | {row.source} |')
    return "\n".join(lines[1:]) + "\n"


def test_the_tables_of_presets_are_those_of_the_code():
    begin, end = "<!-- presets: begin -->\n", "<!-- presets: end -->"
    written = PAGE.read_text().split(begin)[1].split(end)[0]
    assert written == preset_rows(), f"put this between the two comments:\n{preset_rows()}"


SHAPES = ((6, 5), (3, 3, 4, 2), (5,))


def random_run(steps=12):
    generator = np.random.default_rng(0)
    starts = [np.float32(generator.normal(size=shape)) for shape in SHAPES]
    return starts, [
        [np.float32(generator.normal(size=shape)) for shape in SHAPES] for _ in range(steps)
    ]


def keras_after(optimizer, starts, gradients):
    variables = [keras.Variable(start) for start in starts]
    for each in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in each], variables)
    return numpy_of(variables)


def optax_after(transform, starts, gradients):
    import jax.numpy as jnp
    import optax

    parameters = [jnp.asarray(start) for start in starts]
    state = transform.init(parameters)
    for each in gradients:
        updates, state = transform.update([jnp.asarray(g) for g in each], state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return [np.asarray(parameter) for parameter in parameters]


def torch_after(make, starts, gradients):
    import torch

    parameters = [torch.nn.Parameter(torch.from_numpy(start.copy())) for start in starts]
    optimizer = make(parameters)
    for each in gradients:
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    return [parameter.detach().numpy() for parameter in parameters]


@pytest.mark.parametrize(("info", "code"), MIGRATIONS, ids=lambda text: text.split("\n")[0].strip())
def test_a_migration_line_changes_no_weight(info, code):
    if "requires=timm" in info and not timm_optimizers.make_importable():
        pytest.skip("timm is not installed")
    namespace = {"keras": keras}
    exec(compile(code, PAGE.name, "exec"), namespace)
    theirs, run = namespace["theirs"], random_run()
    if isinstance(theirs, keras.optimizers.Optimizer):
        expected = keras_after(theirs, *run)
    else:
        expected = (optax_after if "optax" in info else torch_after)(theirs, *run)
    for a, b in zip(keras_after(namespace["ours"], *run), expected, strict=True):
        # keras's and optax's 1 − βᵗ is taken in float32.
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
