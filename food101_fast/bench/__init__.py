"""What each stage of the way can do, in images per second."""

from food101_fast.bench.stages import BenchSettings, run_bench

__all__ = ["BenchSettings", "run_bench"]
