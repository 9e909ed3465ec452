"""The telemetry callback: what it writes, and that it finds the optimizer in every wrapper."""

import json
import math

import keras
import numpy as np
import pytest
from matplotlib import image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tf_lars import LAMB, LARC, LARS
from tf_lars.training import layer_figures
from tf_lars.training.layer_report import LayerReport, draw


def train(log_dir, optimizer, epochs=2, initial_epoch=0, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, name="body"), keras.layers.Dense(2, name="head")],
        name="model",
    )
    model.compile(optimizer=optimizer, loss="mse")
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(32, 5)), generator.normal(size=(32, 2))
    report = LayerReport(log_dir, **options)
    model.fit(x, y, 8, epochs, 0, [report], initial_epoch=initial_epoch, shuffle=False)
    return model


def records(log_dir):
    return [json.loads(line) for line in (log_dir / "layers.jsonl").read_text().splitlines()]


def test_the_records_hold_what_the_optimizer_measured(tmp_path):
    model = train(tmp_path, LARS(learning_rate=0.5, weight_decay=0.01))
    first, *_, last = written = records(tmp_path)
    assert [record["step"] for record in written] == [1, 4, 8]
    assert [record["epoch"] for record in written] == [0, 0, 1]
    assert first["learning_rate"] == 0.5
    paths = ["model/body/kernel", "model/body/bias", "model/head/kernel", "model/head/bias"]
    for name in ("trust_ratio", "weight_norm", "gradient_norm"):
        assert list(last[name]) == paths
    for path, ratio in model.optimizer.trust_ratios.items():
        assert last["trust_ratio"][path] == pytest.approx(float(ratio), rel=1e-5)
    for path in paths[::2]:
        weight, gradient = last["weight_norm"][path], last["gradient_norm"][path]
        expected = 0.001 * weight / (gradient + 0.01 * weight)
        assert last["trust_ratio"][path] == pytest.approx(expected, rel=1e-4)
    assert last["trust_ratio"]["model/body/bias"] == 1.0


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: keras.optimizers.LossScaleOptimizer(LAMB(0.01)),
        lambda: LARC(keras.optimizers.Adam(0.01)),
        lambda: keras.optimizers.LossScaleOptimizer(LARC(keras.optimizers.SGD(0.1))),
    ],
    ids=["LossScaleOptimizer", "LARC", "LossScaleOptimizer around LARC"],
)
def test_the_optimizer_is_found_inside_its_wrappers(tmp_path, wrap):
    train(tmp_path, wrap(), epochs=1, tensorboard=False)
    last = records(tmp_path)[-1]
    assert last["step"] == 4
    assert 0 < last["trust_ratio"]["model/head/kernel"] < math.inf
    assert not (tmp_path / "tensorboard").exists()


def test_an_optimizer_without_trust_ratios_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"Adam records no trust ratios.*LARC"):
        train(tmp_path, keras.optimizers.Adam())


@pytest.mark.parametrize("every", ["batch", 0, 1.5])
def test_an_unknown_interval_is_refused(tmp_path, every):
    with pytest.raises(ValueError, match="every="):
        LayerReport(tmp_path, every=every)


def test_every_counts_batches_over_the_epochs(tmp_path):
    train(tmp_path, LARS(0.5), epochs=3, every=3)
    assert [record["step"] for record in records(tmp_path)] == [1, 4, 7, 10]


def test_tensorboard_reads_the_same_numbers(tmp_path):
    train(tmp_path, LARS(0.5))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "layers")).Reload()
    assert len(events.Tags()["tensors"]) == 3 * 4
    for name in ("trust_ratio", "weight_norm", "gradient_norm"):
        read = events.Tensors(f"{name}/model/head/kernel")
        assert [event.step for event in read] == [1, 4, 8]
        written = [record[name]["model/head/kernel"] for record in records(tmp_path)]
        assert [event.tensor_proto.float_val[0] for event in read] == pytest.approx(written)


def test_a_run_that_goes_on_continues_its_file_from_where_it_stands(tmp_path):
    train(tmp_path, LARS(0.5), epochs=2)
    lines = (tmp_path / "layers.jsonl").read_text().splitlines(keepends=True)
    later = json.dumps({**json.loads(lines[-1]), "step": 99})
    (tmp_path / "layers.jsonl").write_text("".join(lines) + later + '\n{"step": 10')
    model = train(tmp_path / "elsewhere", LARS(0.5), epochs=2)
    report = LayerReport(tmp_path)
    data = np.ones((8, 5)), np.ones((8, 2))
    model.fit(*data, batch_size=8, epochs=3, initial_epoch=2, verbose=0, callbacks=[report])
    assert [record["step"] for record in records(tmp_path)] == [1, 4, 8, 9]
    assert records(tmp_path)[-1]["epoch"] == 2


def synthetic_records(layers, count):
    generator = np.random.default_rng(0)
    for k in range(count):
        yield {
            "step": 1 + 10 * k,
            "learning_rate": 0.1,
            "trust_ratio": {
                f"net/block_{i}/kernel": float(generator.lognormal(-6, 1)) for i in range(layers)
            }
            | {"net/block_0/bias": 1.0},
        }


def test_the_pictures_have_a_row_for_each_of_a_hundred_layers(tmp_path):
    lines = [json.dumps(record) + "\n" for record in synthetic_records(120, 30)]
    (tmp_path / "layers.jsonl").write_text("".join(lines))
    draw(tmp_path)
    for name, rows, inches in (("layer_table", 60, 0.19), ("layer_heatmap", 120, 0.155)):
        height, width, _ = image.imread(tmp_path / f"{name}.png").shape
        assert height > rows * inches * 110 and width > 900
        pixels = image.imread(tmp_path / f"{name}.png")[..., :3].reshape(-1, 3)
        assert len(np.unique(np.round(pixels, 2), axis=0)) > 100  # colours, not a blank page


def test_what_is_not_finite_or_zero_is_drawn_and_not_an_error(tmp_path):
    ratios = [{"a": 0.0, "b": None}, {"a": None, "b": 0.5}]
    made = [{"step": k + 1, "trust_ratio": ratio} for k, ratio in enumerate(ratios)]
    layer_figures.draw_table(made, tmp_path / "table.png")
    layer_figures.draw_heat_map(made, tmp_path / "map.png")
    assert (tmp_path / "table.png").stat().st_size and (tmp_path / "map.png").stat().st_size


def test_only_variables_that_adapt_are_drawn_unless_none_does():
    made = list(synthetic_records(2, 2))
    assert layer_figures.adapting_paths(made) == ["net/block_0/kernel", "net/block_1/kernel"]
    constant = [{"trust_ratio": {"a": 1.0, "b": 1.0}}]
    assert layer_figures.adapting_paths(constant) == ["a", "b"]


def test_labels_leave_out_what_all_share_and_stay_short():
    labels = layer_figures.short_labels(["net/a/kernel", f"net/{'x' * 80}/kernel"])
    assert labels[0] == "a/kernel"
    assert len(labels[1]) <= 46 and labels[1].endswith("/kernel") and "…" in labels[1]
