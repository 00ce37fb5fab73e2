"""Print the measurements of ``distiltune benchmark`` as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ...export.benchmark.measurements import times_of_text

_PERCENTILES = ("p50", "p90", "p99")
_SWEEPS = {"threads": "num_threads", "batch_size": "batch_size", "length": "num_tokens"}
_COLUMNS = {"num_threads": "threads", "batch_size": "batch", "num_tokens": "tokens"}


def print_measurement(measured: dict[str, Any]) -> None:
    """Print an artifact's measurements, with the CPU and the text that they were made with."""
    console = Console(highlight=False, markup=False)
    rows = []
    for name, title in (("latency_ms", "one text"), ("sample_latency_ms", "every text")):
        times = measured[name]
        if times:
            rows.append([title, f"{times['mean']:.3f} ± {times['std']:.3f}", *_percentiles(times)])
    console.print(_table(["", "mean ± std ms", *_PERCENTILES], rows))
    stages = times_of_text(measured["profile_ms"])
    console.print("\nwhere the one text's time goes, its floors, and the first call, in ms")
    console.print(_table(list(stages), [[f"{each:.3f}" for each in stages.values()]]))
    rates = ", ".join(f"{rate:,.0f} at batch {size}" for size, rate in measured["throughput"].items())
    console.print(f"\ntexts a second: {rates}")
    console.print(f"graph: {measured['size_mb']:.2f} MB of 2^20 bytes")
    console.print(f"every file that the runtime reads: {measured['files_mb']:.2f} MB of 10^6 bytes")
    console.print(f"{measured['peak_memory_mb']:.0f} MB peak memory")
    for name, show in (
        ("floors", _show_floors),
        ("sweep", _show_sweeps),
        ("load", _show_load),
        ("startup", _show_startup),
        ("session", _show_session),
    ):
        if name in measured:
            show(console, measured)
    console.print(
        f"{measured['num_threads']} thread(s) of {measured['machine']['cpu']}; text: {measured['query']!r}",
        soft_wrap=True,
    )


def _show_floors(console: Console, measured: dict[str, Any]) -> None:
    floors, rates = measured["floors"], measured["floors"]["rates"]
    query = floors["query"]
    console.print(f"\nfloor of the one text, {query['num_tokens']} tokens, on one thread")
    int8, floats = query["int8_operations"] / 1e6, query["float_operations"] / 1e6
    read = (query["weight_bytes"] + query["embedding_bytes"]) / 2**20
    console.print(
        _table(
            ["", "needs", "this machine achieves", "ms"],
            [
                [
                    "bytes",
                    f"{read:.2f} MB",
                    f"{rates['bytes_per_s'] / 1e9:.1f} GB/s",
                    f"{query['floor_ms']['bytes']:.3f}",
                ],
                [
                    "operations",
                    f"{int8:.1f} M int8, {floats:.1f} M float",
                    f"{rates['int8_operations_per_s'] / 1e9:.0f}, {rates['float_operations_per_s'] / 1e9:.0f} G/s",
                    f"{query['floor_ms']['operations']:.3f}",
                ],
            ],
        )
    )
    if measured["num_threads"] == 1:
        times = measured["latency_ms"]["p50"] / query["floor_ms"]["floor"]
        console.print(f"measured: {times:.1f} times the larger of them (p50, tokenizing included)")


def _show_sweeps(console: Console, measured: dict[str, Any]) -> None:
    for name, changed in _SWEEPS.items():
        points = measured["sweep"][name]
        has_floor = any("floor_ms" in point for point in points)
        first = list(dict.fromkeys([changed, "num_tokens"]))
        rows = []
        for point in points:
            floor = point.get("floor_ms")
            rows.append(
                [
                    *(str(point[each]) for each in first),
                    *_percentiles(point["latency_ms"]),
                    *([f"{floor['floor']:.3f}" if floor else ""] if has_floor else []),
                    f"{point['throughput']:,.0f}",
                ]
            )
        heads = [*(_COLUMNS[each] for each in first), *_heads(), *(["floor"] if has_floor else [])]
        console.print(f"\nby {_COLUMNS[changed]}")
        console.print(_table([*heads, "texts/s"], rows))


def _show_load(console: Console, measured: dict[str, Any]) -> None:
    for kind, points in measured["load"].items():
        rows = [
            [
                str(point["num_clients"]),
                f"{point['throughput']:,.0f}",
                *_percentiles(point["latency_ms"]),
                f"{point['peak_memory_mb']:.0f}",
            ]
            for point in points
        ]
        what = "threads of one process" if kind == "threads" else "processes"
        console.print(f"\nconcurrent clients, {what}")
        console.print(_table(["clients", "texts/s", *_heads(), "MB"], rows))


def _show_startup(console: Console, measured: dict[str, Any]) -> None:
    found = measured["startup"]
    parts = ("python_ms", "import_ms", "load_ms", "first_call_ms", "total_ms")
    console.print("\nfrom the start of a process to its first label")
    heads = [*(part.removesuffix("_ms").replace("_", " ") for part in parts), "MB"]
    row = [*(f"{found[part]:.0f}" for part in parts), f"{found['peak_memory_mb']:.0f}"]
    heads[0] = "python ms"
    console.print(_table(heads, [row]))


def _show_session(console: Console, measured: dict[str, Any]) -> None:
    found = measured["session"]
    rows = [
        [
            f"{option['option']}: {str(option['value']).lower()}",
            f"{option['gain']:+.1%}",
            str(option["pairs_won"]),
            f"{option['max_abs_diff']:.1g}",
            f"{option['load_ms']:.0f}",
            f"{option['peak_memory_mb']:.0f}",
            "better" if option["better"] else "",
        ]
        for option in found["options"]
    ]
    default = found["default"]
    rows.insert(
        0,
        [
            "default",
            f"±{found['noise']:.1%}",
            "",
            "",
            f"{default['load_ms']:.0f}",
            f"{default['peak_memory_mb']:.0f}",
            "",
        ],
    )
    console.print("\nsession options, each against the default")
    console.print(_table(["", "time saved", "won of 15", "logits by", "load ms", "MB", ""], rows))
    chosen = ", ".join(f"{name}: {str(value).lower()}" for name, value in found["session"].items())
    console.print(f"best here: {chosen or 'the default'} ({found['gain']:+.1%})")


def _heads() -> list[str]:
    return [f"{_PERCENTILES[0]} ms", *_PERCENTILES[1:]]


def _percentiles(times: dict[str, float]) -> list[str]:
    return [f"{times[name]:.3f}" for name in _PERCENTILES]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place or (rows and rows[0][0].isdigit()) else "left")
    for row in rows:
        table.add_row(*row)
    return table
