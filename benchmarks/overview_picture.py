"""Draw the picture of the README: accuracy against latency of the measured CLINC150 artifacts.

    python benchmarks/overview_picture.py

Reads the tables of docs/results/compression.md and writes docs/accuracy-latency.png.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "compression.md"
PICTURE = ROOT / "docs" / "accuracy-latency.png"
JOBS = ("smallest", "fastest", "accurate")
_OURS, _OTHERS = "#1f77b4", "#666666"
_TICKS = [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]


@dataclass(frozen=True)
class Row:
    """A measured model.

    Attributes:
        name: Name of the job, or ``teacher`` or ``bert-base``.
        accuracy: Test accuracy with threshold, 0 to 1; None for the untrained BERT-base.
        size_mb: Weights or graph on disk, in 2^20 bytes.
        latency_ms: p50 of one text.
    """

    name: str
    accuracy: float | None
    size_mb: float
    latency_ms: float


def read_job(text: str, job: str) -> dict[str, Row]:
    """Return the rows ``artifact``, ``teacher`` and ``bert-base`` of a job, all measured in one run.

    Args:
        text: Content of docs/results/compression.md.
        job: Name of the job, such as ``smallest``.
    """
    section = text.partition(f"\n### {job}.yaml\n")[2].partition("\n##")[0]
    found: dict[str, Row] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "(chosen)" in cells[0]:
            name = "artifact"
        elif cells[0] in ("teacher-pytorch", "reference-bert-base"):
            name = cells[0].removesuffix("-pytorch").removeprefix("reference-")
        else:
            continue
        accuracy = float(cells[1]) if re.fullmatch(r"[\d.]+", cells[1]) else None
        found[name] = Row(job if name == "artifact" else name, accuracy, float(cells[5]), float(cells[6]))
    return found


def draw(jobs: dict[str, dict[str, Row]], path: Path) -> Path:
    """Draw the artifacts of all jobs, and the teacher and BERT-base of the first job, into a PNG file."""
    from distiltune.drawing import new_figure, save, tidy

    figure = new_figure(9.0, 4.2)
    axes = tidy(figure.add_subplot())
    first = next(iter(jobs.values()))
    teacher, reference = first["teacher"], first["bert-base"]
    for row in (*(rows["artifact"] for rows in jobs.values()), teacher):
        assert row.accuracy is not None
        is_ours = row is not teacher
        axes.scatter(row.latency_ms, row.accuracy * 100, s=90, color=_OURS if is_ours else _OTHERS, zorder=3)
        name = f"distiltune, {row.name}" if is_ours else "teacher: MiniLM, PyTorch"
        axes.annotate(
            f"{name}\n{row.accuracy:.1%}, {row.latency_ms:.3g} ms, {row.size_mb:.1f} MB",
            (row.latency_ms, row.accuracy * 100),
            xytext=(10, -4),
            textcoords="offset points",
            va="top",
            fontsize=9,
            color=_OURS if is_ours else _OTHERS,
        )
    axes.axvline(reference.latency_ms, color=_OTHERS, linestyle="--", linewidth=1)
    axes.annotate(
        f"BERT-base, PyTorch\n{reference.latency_ms:.0f} ms, {reference.size_mb:.0f} MB\n(latency and size only)",
        (reference.latency_ms, 90.6),
        xytext=(-8, 0),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=_OTHERS,
    )
    axes.set(xscale="log", xlim=(0.2, 120), ylim=(90, 93.5))
    axes.set_xticks(_TICKS, labels=list(map(str, _TICKS)))
    axes.minorticks_off()
    axes.set_xlabel("latency of one text, ms (p50, one CPU thread, text to label; logarithmic)")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("CLINC150: 150 intents and out-of-scope texts", fontsize=11)
    return save(figure, path)


def main() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    draw({job: read_job(text, job) for job in JOBS}, PICTURE)


if __name__ == "__main__":
    main()
