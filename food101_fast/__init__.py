"""Train an image classifier from plain WebDataset tars as fast as the accelerator can run it."""

__version__ = "0.1.0"
