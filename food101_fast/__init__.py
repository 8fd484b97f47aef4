"""Train an image classifier from plain WebDataset tars as fast as the accelerator can run it."""

from food101_fast.openmp import set_up_command

__version__ = "0.1.0"

# `python -m food101_fast.train` imports this package, and then torch, before it comes to the command itself.
set_up_command(__name__)
