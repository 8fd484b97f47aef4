"""A run, or several beside each other, as one HTML page that needs no network and no other file."""

from food101_fast.report.page import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
