"""Table and notes of the measurements on GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..benchmark import targets
from ..markdown import NONE, Markdown, bold, fixed, table
from ..runtime.session.providers import CPU


def on_gpu(variants: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the measurements that were made on a GPU."""
    return [row for row in variants if targets.get(row["kind"]).needs_gpu]


def gpu_table(variants: Sequence[dict[str, Any]], chosen: str | None) -> Markdown:
    """Return a Markdown table of the measurements on a GPU: texts/s by batch size, from text to label.

    For a target with CUDA graphs, a second figure after a slash was measured with them.
    """
    rows = on_gpu(variants)
    sizes = sorted({int(size) for row in rows for size in row["throughput"]})
    headers = ["model", "target", "p50 ms", *(f"texts/s at {size:,}" for size in sizes)]
    headers += ["engine build s", "nodes on the CPU"]
    cells = []
    for row in rows:
        graphs = row.get("cuda_graphs") or {}
        name = row.get("model") or row["name"]
        cells.append(
            [
                bold(name) if row["name"] == chosen else name,
                targets.get(row["kind"]).place,
                _both(row["latency_ms"]["p50"], (graphs.get("latency_ms") or {}).get("p50"), 3),
                *(
                    _both(
                        row["throughput"].get(str(size)), (graphs.get("throughput") or {}).get(str(size)), 0
                    )
                    for size in sizes
                ),
                fixed(row.get("engine_build_s"), 1),
                _on_cpu(row.get("num_nodes")),
            ]
        )
    return table(headers, cells)


def without_graphs(variants: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each measurement whose model cannot use CUDA graphs, with the reason."""
    return [
        f"{row['name']}: no CUDA graphs: {row['cuda_graphs']['error']}"
        for row in on_gpu(variants)
        if (row.get("cuda_graphs") or {}).get("error")
    ]


def _both(plain: float | None, captured: float | None, digits: int) -> str:
    return fixed(plain, digits) if captured is None else f"{fixed(plain, digits)} / {fixed(captured, digits)}"


def _on_cpu(num_nodes: dict[str, int] | None) -> str:
    return NONE if num_nodes is None else f"{num_nodes.get(CPU, 0)} of {sum(num_nodes.values())}"
