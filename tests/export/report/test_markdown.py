import re
import tomllib
from pathlib import Path

import jinja2
import pytest
from huggingface_hub import ModelCard
from markdown_reader import ACTIVE, parse, tables

from distiltune.export.artifact.card import model_card
from distiltune.export.markdown import Markdown, bold, code, escape, fixed, number, render, table

ROOT = Path(__file__).parents[3]
NASTY = [
    "|",
    "a|b||",
    "a\\",
    "a\\|b",
    "[x](javascript:alert(1))",
    "\\[x](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "x](javascript:alert(1))",
    "[x][y]",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<https://evil.example>",
    "<!-- ",
    "https://evil.example/a_b",
    "www.evil.example",
    "someone@evil.example",
    "`",
    "``a`",
    "` x",
    "`[x](y)`",
    "*b* **c**",
    "_b_",
    "__init__",
    "snake_case_name",
    "~~gone~~",
    "&lt;b&gt; &#91;",
    "$x^2$",
    "R&D",
    "# title",
    "-1.5",
    "- - -",
    "```",
    "---\nlicense: mit\n---",
    "a\nb",
    "a\r\n| b |\r\n",
    "a\rb",
]


def on_one_line(text):
    return re.sub(r"[\r\n]+", " ", text)


@pytest.mark.parametrize("text", NASTY)
def test_a_cell_shows_its_text_and_nothing_else(text):
    made = table(["first", text], [[text, 1], ["after", text]])
    seen = on_one_line(text).strip()
    assert tables(made) == [[["first", seen], [seen, "1"], ["after", seen]]]
    marks = {"em_open", "strong_open", "s_open", "code_inline"}
    assert not {token.type for token in parse(made)} & (ACTIVE | marks)


@pytest.mark.parametrize("text", NASTY)
def test_text_in_a_sentence_is_only_text(text):
    made = f"Reason: {escape(text)}, then [a link](b)."
    assert [token.type for token in parse(made) if token.type in ACTIVE] == ["link_open"]
    inline = next(token for token in parse(made) if token.type == "inline")
    seen = "".join(child.content for child in inline.children or [])
    assert seen == f"Reason: {on_one_line(text)}, then a link."


@pytest.mark.parametrize(
    "text", ["https://evil.example", "HTTP://evil.example", "www.evil.example", "a@b.example"]
)
def test_a_bare_address_becomes_no_link_where_a_website_would_make_one(text):
    assert not re.search(r"\w://|www\.|\w@", escape(text), re.IGNORECASE)


@pytest.mark.parametrize("text", [*NASTY, "``` `` `", " a ", "`a`"])
def test_a_code_span_shows_its_text_whatever_backticks_are_in_it(text):
    spans = [token.content for token in parse(f"{code('first')}, {code(text)}, {code('last')}")]
    assert [each for each in spans if each][1:] == ["first", ", ", on_one_line(text), ", ", "last"]


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_code_span_of_nothing_is_seen(text):
    spans = [token.content for token in parse(f"{code(text)}, {code('last')}") if token.type == "code_inline"]
    assert spans == [f'"{on_one_line(text)}"', "last"]


def test_what_is_markdown_is_not_escaped_again():
    assert escape(escape("*a*")) == "\\*a\\*"
    assert escape(bold("a|b")) == "**a\\|b**"
    assert isinstance(table(["a"], [[1]]), Markdown)


def test_columns_of_numbers_are_aligned_to_the_right():
    assert table(["a", "b", "c"], [["x", 1, None]], left=(0, 2)) == (
        "| a | b | c |\n| --- | ---: | --- |\n| x | 1 | None |\n"
    )


@pytest.mark.parametrize(
    ("value", "digits", "seen"),
    [
        (0.00039688, 4, "0.0003969"),
        (0.5, 2, "0.5"),
        (12345.6, 2, "1.2e+04"),
        (3, 4, 3),
        ("x", 4, "x"),
        (True, 4, True),
    ],
)
def test_a_float_has_so_many_digits_and_all_else_is_as_it_is(value, digits, seen):
    assert number(value, digits) == seen


def test_decimals_and_a_dash_for_nothing():
    assert fixed(0.12345, 2) == "0.12"
    assert fixed(1094.4, 0) == "1094"
    assert fixed(None, 2) == "\N{EN DASH}"


def test_a_template_without_one_of_its_values_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render("distiltune.export.artifact.card", "card.md.j2", {"sections": {}})


def test_every_template_is_in_the_wheel():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    found = {*(ROOT / "export").rglob("*.j2")}
    assert len(found) >= 2
    assert found <= shipped


def test_a_card_is_read_back_by_the_hubs_library(tmp_path):
    labels = ["balance", "transfer", "oos"]
    text = model_card(
        labels, {"run_id": "r1"}, {"accuracy": 0.9375123, "latency_ms": {"p50": 0.64}, "fused": None}
    )
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.to_dict() == {
        "library_name": "onnxruntime",
        "pipeline_tag": "text-classification",
        "tags": ["distiltune", "distillation", "onnx"],
        "license": "unknown",
        "model-index": [
            {
                "name": "r1",
                "results": [
                    {
                        "task": {"type": "text-classification"},
                        "dataset": {"type": "custom", "name": "the job's own data", "split": "test"},
                        "metrics": [{"type": "accuracy", "value": 0.9375, "name": "accuracy"}],
                    }
                ],
            }
        ],
    }
    assert card.content == text
    assert tables(card.text) == [
        [["", ""], ["accuracy", "0.93751"], ["latency_ms.p50", "0.64"]],
        [["", ""], ["run_id", "r1"]],
    ]
    assert "`balance`, `transfer`, `oos`" in card.text


def test_a_card_of_nasty_labels_and_values_shows_them_as_they_are(tmp_path):
    labels = [*NASTY, "last"]
    values = dict(zip(NASTY, reversed(NASTY), strict=True))
    plain = ModelCard(model_card(["a"], {"run_id": "r"}, {}))
    (tmp_path / "README.md").write_text(model_card(labels, values, values), encoding="utf-8", newline="")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.to_dict() == plain.data.to_dict()
    seen = [["", ""], *([on_one_line(a).strip(), on_one_line(b).strip()] for a, b in values.items())]
    assert tables(card.text) == [seen, seen]
    assert [token.content for token in parse(card.text) if token.type == "code_inline"] == [
        on_one_line(label) for label in labels
    ]
    assert [token.type for token in parse(card.text) if token.type in ACTIVE] == ["fence", "fence"]
