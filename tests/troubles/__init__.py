"""Kinds of trouble with data as people have them, one file each; the docstrings name the public reports."""
