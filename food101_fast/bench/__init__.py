"""What each stage of the way can do, which one bounds a run, and what changed between two measurements."""

from food101_fast.bench.compare import compare
from food101_fast.bench.doctor import diagnose
from food101_fast.bench.profile import profile_steps
from food101_fast.bench.settings import BenchSettings
from food101_fast.bench.stages import run_bench

__all__ = ["BenchSettings", "compare", "diagnose", "profile_steps", "run_bench"]
