"""Trackers of a run: TensorBoard, Weights & Biases, MLflow. None of them can stop or slow the training.

`tracker` has what each of them does, `worker` the thread that it works in, `trackers` all those of a run. To add one,
write a module with a class that does what `tracker.Tracker` says, and add it to `trackers.KINDS` and `options.Track`.
"""

from food101_fast.train.trackers.trackers import Trackers, require_extras

__all__ = ["Trackers", "require_extras"]
