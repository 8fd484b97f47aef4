"""Ten thousand damaged photographs: each is judged, none crashes, hangs, or takes more memory than a whole one may."""

from __future__ import annotations

import random
import resource
import signal
from collections import Counter
from pathlib import Path

import pytest

from food101_fast.images import MAX_PIXELS, REASONS, RejectedError, Rules, clean

MUTANTS = 10_000
SECONDS = 20  # a photograph takes a thousandth of it


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One of the ways in which files get damaged, or several."""
    mutant = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(mutant)) if rng.random() < 0.5 else rng.randrange(min(700, len(mutant)))
        length = rng.choice([1, 2, 16, 300, 5000])
        match rng.randrange(7):
            case 0:
                for _ in range(rng.choice([1, 3, 20])):
                    mutant[rng.randrange(len(mutant))] ^= 1 << rng.randrange(8)
            case 1:
                mutant[at : at + length] = rng.randbytes(length)
            case 2:
                del mutant[at : at + length]
            case 3:
                mutant[at:at] = mutant[at : at + length]
            case 4:
                del mutant[max(at, 2) :]
            case 5:
                frame = max(mutant.find(b"\xff\xc0"), mutant.find(b"\xff\xc2"))
                mutant[frame + 5 : frame + 9] = rng.randbytes(4)  # height and width
            case 6:
                marker = mutant.find(0xFF, at)
                mutant[marker + 1 : marker + 2] = rng.randbytes(1)
        if len(mutant) < 3:
            break
    return bytes(mutant)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.slow
def test_damaged_photographs_are_judged(photographs: Path) -> None:
    files = sorted((photographs / "food101-10-classes").rglob("*.jpg"))
    rng = random.Random(0)
    outcomes: Counter[str] = Counter()
    before = peak_megabytes()

    def hang(*_: object) -> None:
        pytest.fail(f"a mutant took more than {SECONDS} s, after {outcomes}")

    signal.signal(signal.SIGALRM, hang)
    try:
        for _ in range(MUTANTS):
            mutant = mutate(rng.choice(files).read_bytes(), rng)
            signal.alarm(SECONDS)
            try:
                cleaned = clean(mutant, Rules(size=192, check=rng.choice(["strict", "default", "tolerant"])))
                assert cleaned.pixels.shape == (192, 192, 3)
                outcomes["ok" if cleaned.note is None else f"note: {cleaned.note.kind}"] += 1
            except RejectedError as error:
                outcomes[error.reason] += 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    print(f"\n{dict(outcomes.most_common())}, {peak_megabytes() - before:.0f} MB more at the peak")
    assert {outcome for outcome in outcomes if outcome != "ok" and "note" not in outcome} <= set(REASONS)
    assert len(outcomes) > 6
    # The largest picture that is let in, as RGB, twice: as decoded, and as Pillow takes it over.
    assert peak_megabytes() - before < 2 * 4 * MAX_PIXELS / 1e6
