"""Where and how a model is computed: the device, the ranks of a run, mixed precision, and logits over a loader."""
