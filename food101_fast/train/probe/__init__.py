"""Linear probes: a backbone's features of every image once, and then a linear classifier on them.

- backbone.py: a model without its head, and a new head from the classifier.
- features.py: features of a split, from the cache or computed.
- linear.py: the linear classifier, by L-BFGS.
- neighbors.py: nearest neighbors, which train nothing.
- job.py: the whole probe, which ends as a run like any other.
- compare.py: probes of several backbones, in one table.
"""
