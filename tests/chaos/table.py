"""Write the tables of docs/results/chaos.md from the records of the moments.

python tests/chaos/table.py RESULTS.jsonl [--write docs/results/chaos.md]
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

import psutil

FAULTS = {
    "worker": "`kill -9` of a trial's worker",
    "driver": "`kill -9` of the driver",
    "raylet": "`kill -9` of a node's raylet",
    "head": "`kill -9` of the head (its GCS and raylet)",
    "disk": "the disk fills up during a checkpoint",
    "storage": "the S3 storage goes away and comes back",
    "truncated": "the newest checkpoint is cut off",
    "flipped": "a bit of the newest checkpoint is turned over",
}
BEGIN, END = "<!-- begin: made by tests/chaos/table.py -->", "<!-- end -->"


def read(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the newest record of every moment."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["fault"], line["number"]): line for line in lines}


def outcome(line: dict[str, Any]) -> str:
    wrong = [f"{name}: {result}" for name, result in line.get("checks", {}).items() if result != "ok"]
    if wrong:
        return "**" + "; ".join(wrong)[:240] + "**"
    return f"**{line['error'].splitlines()[0][:160]}**" if "error" in line else "as it should be"


def good(line: dict[str, Any]) -> bool:
    return outcome(line) == "as it should be"


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def summary(lines: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for line in lines for name in line.get("checks", {})))
    made = [
        row("fault", "moments", "drawn again", "all well", *names),
        row("---", *["---:"] * (3 + len(names))),
    ]
    for fault, title in FAULTS.items():
        own = [line for line in lines if line["fault"] == fault]
        if not own:
            continue
        held = [sum(line.get("checks", {}).get(name) == "ok" for line in own) for name in names]
        made.append(
            row(title, len(own), sum(line.get("late", 0) for line in own), sum(map(good, own)), *held)
        )
    return made


def moments(lines: list[dict[str, Any]]) -> list[str]:
    made = []
    for fault, title in FAULTS.items():
        own = sorted((line for line in lines if line["fault"] == fault), key=lambda line: line["number"])
        if not own:
            continue
        made += ["", f"### {title[0].upper()}{title[1:]}" if title[0] != "`" else f"### {title}", ""]
        made += [
            row("s after the first trial began", "of s", "hit", "last epochs saved by then", "outcome"),
            row("---:", "---:", "---", "---", "---"),
        ]
        for line in own:
            saved = ", ".join(map(str, line.get("saved", []))) or "none"
            made.append(row(line["at_s"], line["of_s"], line.get("hit", ""), saved, outcome(line)))
    return made


def machine() -> str:
    model = next(
        iter(re.findall(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())), platform.processor()
    )
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores of {model}, {memory:.0f} GiB, {platform.system()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", type=Path, help="put the tables into this file, between its two marks")
    options = parser.parse_args()
    lines = list(read(options.results).values())
    minutes = sum(line["seconds"] for line in lines) / 60
    text = "\n".join(
        [
            f"{len(lines)} moments, {sum(map(good, lines))} of them as they should be; "
            f"{minutes:.0f} minutes on {machine()}.",
            "",
            *summary(lines),
            *moments(lines),
        ]
    )
    if options.write is None:
        sys.stdout.write(text + "\n")
        return
    page = options.write.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    options.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
