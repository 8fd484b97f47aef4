"""A run, or a comparison of several, as one HTML page that needs no network and no other file.

What is drawn: `run_page` and `comparison`, with the `.jinja` template of each.
"""

from food101_fast.report.page import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
