"""Indexes and a manifest for WebDataset tars of other programs, so that the loader reads them as they are.

The tars are not changed. Every image is decoded once, as prepare does, so that damaged ones are left out now and do not
stop a training run later. Every image member of a tar becomes a sample, or a reject with its member name.

- find.py: from paths, URLs and patterns to tars, their common folder and their splits.
- members.py: the files of one tar, links resolved. samples.py: which of them are one sample, and which are lost.
- labels.py: one label out of a member, and class numbers for all of them.
- scan.py: all of that for one tar, with every image decoded. cut.py: a val split out of train.
- index.py: the command; it writes the files.
"""

from food101_fast.shards.foreign.index import write_index
from food101_fast.shards.foreign.options import IndexOptions

__all__ = ["IndexOptions", "write_index"]
