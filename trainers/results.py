"""What a run says of itself: before it begins, and when it has ended."""

from trainers import curves
from trainers.progress import duration
from trainers.recording import images_per_second
from trainers.target import reached


def describe(config, plan, dataset, model, run):
    """The settings of a run and what follows from them, for a person."""
    shape = "×".join(map(str, dataset.image_shape))
    batch = f"{plan.world_size} workers × {plan.local_batch_size} images"
    if plan.world_size == 1:
        batch = f"{plan.local_batch_size} images on one worker"
    if plan.micro_batch_size < plan.local_batch_size:
        batch += f", in micro-batches of {plan.micro_batch_size}"
    grown = "".join(
        f"\nfrom epoch {start:g} on: batch {batch:,}, learning rate {rate:g}"
        for start, batch, rate in zip(
            plan.stage_epochs[1:], plan.batches[1:], plan.learning_rates[1:], strict=True
        )
    )
    return (
        f"Training {config.model} ({model.count_params():,} parameters) on {config.dataset}: "
        f"{plan.train_examples:,} images of {shape}, {plan.test_examples:,} more to test\n"
        f"{config.epochs} epochs of {plan.steps_per_epoch} updates, each of {batch}\n"
        f"{config.optimizer}, learning rate {plan.peak_learning_rate:g} after "
        f"{plan.warmup_updates} updates of warm-up, then {config.lr_schedule}{grown}\n"
        f"Run directory: {run.folder}"
    )


def summarise(plan, recorder, divergence=None, target=None):
    """The content of summary.json; the time to the target counts from the start of the run.

    Args:
        plan: the run's Plan.
        recorder: its Recorder.
        divergence: what Diverged has said, or None.
        target: --target_top1.
    """
    rows, position = recorder.rows, recorder.position
    accuracies = [row["val_top1"] for row in rows if "val_top1" in row]
    top5 = [row["val_top5"] for row in rows if "val_top5" in row]
    at_target = reached(rows, target) or {}
    return {
        "final_top1": accuracies[-1] if accuracies else None,
        "best_top1": max(accuracies, default=None),
        "final_top5": top5[-1] if top5 else None,
        "target_top1": target,
        "seconds_to_target": at_target.get("seconds"),
        "epochs_to_target": at_target.get("epoch"),
        "images_per_second": images_per_second(rows),
        "updates": position.update,
        "epochs": position.epoch,
        "global_batch_size": plan.global_batch_size,
        "world_size": plan.world_size,
        "wall_seconds": recorder.seconds(),
        "diverged": divergence is not None,
        "divergence": divergence,
    }


def write_results(config, plan, model, rows, summary, run):
    """Writes the picture, the network and, last, the summary, which says that the run is done."""
    size = f"batch {plan.global_batch_size}, workers {plan.world_size}"
    title = f"{config.model} on {config.dataset}: {config.optimizer}, {size}"
    run.write("curves.png", lambda path: curves.draw(rows, title, path))
    run.write("final.keras", lambda path: _without_optimizer(model).save(path))
    run.write_json("summary.json", summary)  # the last: it says that the run is finished


def _without_optimizer(model):
    """The same network, not compiled: what is saved needs neither Horovod nor the optimizer."""
    copy = type(model).from_config(model.get_config())  # clone_model would compile it again
    copy.set_weights(model.get_weights())
    return copy


def result(summary, run):
    """The summary for a person."""
    speed = f"{summary['images_per_second']:,.0f} images/s"
    lines = [
        f"{summary['updates']} updates in {duration(summary['wall_seconds'])}, {speed}",
        f"Curves: {run.path('curves.png')}",
    ]
    if summary["diverged"]:
        advice = "Lower --learning_rate or lengthen --warmup_epochs."
        kept = f"The checkpoints of before are in {run.path('checkpoints')}"
        lines.append(f"{summary['divergence']} {advice} {kept}")
    else:
        final, best = summary["final_top1"], summary["best_top1"]
        lines.append(f"Top-1 on the test images: {final:.2%} (best {best:.2%})")
        if summary["final_top5"] is not None:
            lines[-1] += f", top-5 {summary['final_top5']:.2%}"
        if summary["target_top1"] is not None:
            lines.append(_time_to_target(summary))
    return "\n".join(lines)


def _time_to_target(summary):
    target = f"The target of {summary['target_top1']:.2%}"
    if summary["seconds_to_target"] is None:
        return f"{target} was not reached"
    epochs, seconds = summary["epochs_to_target"], duration(summary["seconds_to_target"])
    return f"{target} was reached after {epochs} epochs and {seconds}, the start-up included"
