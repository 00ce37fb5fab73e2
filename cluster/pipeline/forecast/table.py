"""Format a forecast as lines of text."""

from __future__ import annotations

from ...watching.console import bytes_text
from .forecast import Forecast
from .search_time import Span
from .teachers import MIB


def lines_of(forecast: Forecast) -> list[str]:
    """Return the lines of a table of stages with their total, and a summary line."""
    rows = [("stage", "time", "disk", "memory", "how")]
    for each in forecast.stages:
        disk = bytes_text(each.disk_bytes) if each.disk_bytes else ""
        memory = bytes_text(int(each.memory_mib * MIB)) if each.memory_mib else ""
        rows.append(
            (each.stage, "" if each.is_reused else duration(each.seconds.middle), disk, memory, each.how)
        )
    total = forecast.seconds
    rows.append(
        (
            "total",
            duration(total.middle),
            bytes_text(forecast.disk_bytes),
            bytes_text(int(forecast.memory_mib * MIB)),
            f"disk at most {bytes_text(forecast.peak_disk_bytes)}",
        )
    )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]
    return [
        *lines,
        f"about {span_text(total)}, if nothing else runs here (measured in {forecast.measured_s:.0f} s)",
    ]


def duration(seconds: float) -> str:
    """Format a time in a readable unit: ``8 s``, ``4 min``, ``2.5 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def span_text(span: Span) -> str:
    """Format a span of seconds: ``24 minutes (18 to 31)``."""
    for unit, num, digits in (("seconds", 1.0, 0), ("minutes", 60.0, 0), ("hours", 3600.0, 1)):
        if span.middle < 99.5 * num or unit == "hours":
            low, middle, high = (f"{each / num:.{digits}f}" for each in (span.low, span.middle, span.high))
            return f"{middle} {unit} ({low} to {high})"
    raise AssertionError("the last unit takes any amount")
