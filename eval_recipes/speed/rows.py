"""One line of the speed table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """
    One implementation of one piece of work.

    Rows of the same suite and case did the same work, interleaved.

    Attributes:
        suite: what kind of work.
        case: which piece of it, sizes included.
        implementation: who did it.
        seconds: median time; None where memory was measured.
        n: timed repetitions behind the median.
        throughput: units of work a second.
        unit: what is counted.
        ratio: time (or memory) of this row over that of the suite's reference, which is ours.
        ratio_low: lower end of its 95 % interval.
        ratio_high: upper end.
        peak_gib: most resident memory beyond what was there before, in a fresh process.
        product_share: time that the work's one unavoidable dense product takes at the
            machine's measured speed, over the time of the row.
    """

    suite: str
    case: str
    implementation: str
    seconds: float | None = None
    n: int = 1
    throughput: float | None = None
    unit: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    peak_gib: float | None = None
    product_share: float | None = None
