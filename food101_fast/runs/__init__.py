"""A run's folder: its recipe, its checkpoints, and what it says about itself."""
