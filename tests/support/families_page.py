"""``docs/families.md`` and the record that it is made from, ``docs/families.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from family_probes import PROBES
from tiny_families import TINY

DOCS = Path(__file__).parents[2] / "docs"
RECORD, PAGE = DOCS / "families.json", DOCS / "families.md"
HOW = "run: pytest -m '' tests/contracts/test_family_findings.py --write-families"
Findings = dict[str, dict[str, dict[str, Any]]]
"""Family, capability, and what was found: ``works``, a ``note``, and an ``agreement`` in percent."""

_HEAD = """# Model families

Any text classifier of transformers can teach that has a fast tokenizer and a linear layer as its head, and a student
without attention can have any teacher. Students with layers are of one of these families:

"""
_NAMES = {
    "albert": "ALBERT",
    "bert": "BERT, multilingual BERT, MiniLM, TinyBERT, GTE and other `bert` checkpoints",
    "camembert": "CamemBERT, DistilCamemBERT",
    "deberta-v2": "DeBERTa-v2, DeBERTa-v3, mDeBERTa",
    "distilbert": "DistilBERT, multilingual DistilBERT",
    "electra": "ELECTRA",
    "modernbert": "ModernBERT",
    "mpnet": "MPNet, all-mpnet",
    "roberta": "RoBERTa, DistilRoBERTa",
    "xlm-roberta": "XLM-RoBERTa, multilingual MiniLM, multilingual E5",
}
_TAIL = """
## What stands behind the tables

`tests/contracts/test_family_findings.py` writes them: it tries every capability on a tiny model of every family, with a
tokenizer of the family's own class. Only MiniLM's weights are at hand where this package is built, so no accuracy is
claimed for the others: after some steps of training, the quantized graphs predict what the 32-bit one does for the
share of texts in the table, and the runtime what PyTorch does. The shares were measured where the page was written; on
other processors some text may differ, and the suite requires the shares above. What does not work is refused by name,
with the reason, before a job begins.

```bash
pytest -m '' tests/contracts/test_family_findings.py --write-families   # this page
```

## Fewer pieces

What `student.vocabulary` keeps besides the pieces that texts use depends on the tokenizer's model:

| model | kept in any case | kept with a piece |
| --- | --- | --- |
| `WordPiece` | every single character, at the beginning of a word and inside it | |
| `BPE` | every single character, or the 256 bytes | the pieces that are merged on the way to it, and the merges |
| `Unigram` | every single character; a piece of the lowest score, on which that of unknown depends | its score |

Texts of kept pieces have the same pieces as before. All added and special tokens stay, and where a family counts
positions from the padding id, the ids up to it. With `others: nearest` any tokenizer works.

## Another family

A family is one file of `training/models/families` that says where its layers, heads and tables are and, with the
reason, what it cannot do; [CONTRIBUTING.md](../CONTRIBUTING.md#adding-a-kind) shows one. With an entry in
`tests/support/tiny_families.py` the suite above tries everything else.
"""


def read_record() -> Findings:
    """The findings as they were last written."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}


def put(family: str, capability: str, found: dict[str, Any]) -> None:
    """Write a finding into the record, and the page once there is one of every capability and family."""
    record = read_record()
    record[family] = {**record.get(family, {}), capability: found}
    ordered = {
        name: {each: own[each] for each in PROBES if each in own} for name, own in sorted(record.items())
    }
    RECORD.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if list(ordered) == sorted(TINY) and all(len(own) == len(PROBES) for own in ordered.values()):
        PAGE.write_text(as_markdown(ordered), encoding="utf-8")


def as_markdown(findings: Findings) -> str:
    """The page; it has a number for each remark, the same wherever it applies."""
    reasons: dict[str, int] = {}
    lines = ["| family | `model_type` | kind of tokenizer |", "| --- | --- | --- |"]
    for family, found in findings.items():
        lines.append(f"| {_NAMES.get(family, family)} | `{family}` | {found['vocabulary']['note']} |")
    made, smaller = ("runtime", "int8", "precisions", "fused", "token_types", "pair_graphs"), (
        "teacher", "students", "depth", "heads", "rows", "vocabulary", "masked_lm", "first_token",
    )  # fmt: skip
    assert {*made, *smaller} == set(PROBES), "each capability is a column"
    for title, columns in (("Teachers and students", smaller), ("Exported", made)):
        lines += ["", f"## {title}", "", f"| | {' | '.join(PROBES[each].title for each in columns)} |"]
        lines.append(f"| --- |{' :-: |' * len(columns)}")
        for family, found in findings.items():
            cells = [
                found[each]["note"] if each == "vocabulary" else _cell(found[each], reasons)
                for each in columns
            ]
            lines.append(f"| `{family}` | {' | '.join(cells)} |")
        lines += ["", *(f"- **{PROBES[each].title}**: {PROBES[each].means}." for each in columns)]
    lines += ["", "Remarks:", "", *(f"{number}. {_sentence(reason)}" for reason, number in reasons.items())]
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def _cell(found: dict[str, Any], reasons: dict[str, int]) -> str:
    answer, note = "yes" if found["works"] else "no", found.get("note")
    answer = f"{answer}, {found['agreement']:g} %" if "agreement" in found else answer
    return f"{answer} [{reasons.setdefault(note, len(reasons) + 1)}]" if note else answer


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."
