"""Every capability on every family: it works or is refused with the reason, as `docs/families.md` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families_page import HOW, PAGE, as_markdown, put, read_record
from family_probes import LABELS, LEAST_AGREEMENT, MAX_LENGTH, PROBES, Subject, with_other_form
from models import tiny_classifier, tiny_data
from tiny_families import OTHER_FORMS, TINY, TOPICS, config_of, tiny_model, tokenizer_of
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from distiltune.errors import ModelError
from distiltune.training.checkpoints.heads import match_labels
from distiltune.training.checkpoints.inspection import inspect_checkpoint
from distiltune.training.checkpoints.load import load_classifier, new_classifier, save_checkpoint
from distiltune.training.checkpoints.masked_lm import check_head
from distiltune.training.data.tokenized import tokenize_split
from distiltune.training.models.families import families, family_of, find_family
from distiltune.training.models.inference import compute_logits
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config
from distiltune.training.student.size_config import WidthConfig
from distiltune.training.student.width import check_width

FAMILIES = [family.name for family in families()]
Make = Callable[[str], Subject]


EXPORTED_ELSEWHERE = ("bert", "distilbert")
"""Families whose exports are among the fast tests of tests/export."""


def is_slow(family: str, capability: str) -> bool:
    """Whether a probe needs a further export, which takes seconds; a fused variant that is refused needs none."""
    found = find_family(family)
    assert found is not None
    if capability in ("runtime", "int8"):
        return family in EXPORTED_ELSEWHERE
    refused = capability == "fused" and found.why_not("fused_attention") is not None
    return PROBES[capability].is_slow and not refused


CASES = [
    pytest.param(
        family,
        capability,
        id=f"{family}-{capability}",
        marks=[pytest.mark.slow] if is_slow(family, capability) else [],
    )
    for family in FAMILIES
    for capability in PROBES
]


@pytest.fixture(scope="module")
def subject_of(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A tiny model of each family, trained and exported once."""
    made: dict[str, Subject] = {}
    graphs: dict[tuple[str, ...], Path] = {}

    def make(name: str) -> Subject:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = (
                with_other_form(name, *OTHER_FORMS[name], folder)
                if name in OTHER_FORMS
                else Subject(name, name, folder, graphs=graphs)
            )
        return made[name]

    return make


def test_there_is_a_tiny_model_of_every_family() -> None:
    assert sorted(TINY) == FAMILIES


@pytest.mark.parametrize(("family", "capability"), CASES)
def test_a_capability_works_or_is_refused_with_the_reason(
    family: str, capability: str, subject_of: Make, request: pytest.FixtureRequest
) -> None:
    found = PROBES[capability].run(subject_of(family)).to_json()
    if request.config.getoption("--write-families"):
        put(family, capability, found)
    else:
        expected = read_record()[family][capability]
        # Rounding differs between processors; the probe requires the least agreement.
        assert ("agreement" in found) == ("agreement" in expected), HOW
        same = {**found, "agreement": 0} == {**expected, "agreement": 0}
        assert same, f"docs/families.json is out of date; {HOW}"


def test_the_page_is_that_of_the_record(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--write-families"):
        pytest.skip("it is being written")
    record = read_record()
    assert list(record) == FAMILIES and all(set(found) == set(PROBES) for found in record.values())
    assert as_markdown(record) == PAGE.read_text(encoding="utf-8"), HOW
    for capability, least in LEAST_AGREEMENT.items():
        assert all(found[capability]["agreement"] >= least for found in record.values())


PROBES_OF_FORMS = ("depth", "heads", "rows", "first_token", "students", "token_types", "runtime", "int8")


@pytest.mark.parametrize(
    ("form", "capability"),
    [
        pytest.param(form, each, marks=[pytest.mark.slow] if each in ("runtime", "int8") else [])
        for form in OTHER_FORMS
        for each in PROBES_OF_FORMS
    ],
)
def test_other_configurations_of_a_family_do_what_its_first_does(
    form: str, capability: str, subject_of: Make
) -> None:
    PROBES[capability].run(subject_of(form))


# ---- Limits of some configurations ------------------------------------------------------------------------


def test_an_albert_with_several_layers_in_a_group_keeps_its_width() -> None:
    config = config_of("albert", inner_group_num=2)
    for counts in ({"num_attention_heads": 2}, {"intermediate_size": 8}):
        with pytest.raises(ModelError, match=r"student\.width\.\w+: 'albert' given.*inner_group_num"):
            check_width(WidthConfig.model_validate(counts), config)
    assert family_of(config, needs="layers").name == "albert"


def test_a_deberta_with_the_other_masked_language_head_is_not_pretrained() -> None:
    config = config_of("deberta-v2", legacy=False)
    with pytest.raises(ModelError, match=r"student\.pretraining: 'deberta-v2' given.*legacy: false"):
        check_head(config)
    tiny_model(config, kind=AutoModelForMaskedLM)


# ---- Families that are not in the table -------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "convbert": ("bert", {**SMALL, "embedding_size": 32, "conv_kernel_size": 3}),
    "deberta": ("roberta", {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "gpt2": ("roberta", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 66}),
}
"""Model type -> the family whose tokenizer it has, and its sizes."""


@pytest.fixture(params=list(OTHERS))
def unknown(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint of a family that is not registered."""
    tokenizer_family, sizes = OTHERS[request.param]
    tokenizer = tokenizer_of(tokenizer_family)
    config = CONFIG_MAPPING[request.param](
        **sizes,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )
    assert find_family(config) is None
    torch.manual_seed(0)
    save_checkpoint(new_classifier(config), tokenizer, tmp_path / "teacher")
    return tmp_path / "teacher"


def test_a_family_that_is_not_in_the_table_teaches(unknown: Path, tmp_path: Path) -> None:
    inspect_checkpoint(unknown, complete=True, max_length=MAX_LENGTH)
    model, tokenizer = load_classifier(unknown)
    split = tokenize_split(TOPICS, None, tokenizer, MAX_LENGTH)
    kind: Any = {"pad_token_id": tokenizer.pad_token_id, "num_threads": 1, "use_gpu": False}
    before = np.asarray(compute_logits(model, split, **kind))
    match_labels(model, LABELS[::-1])
    after = np.asarray(compute_logits(model, split, **kind))
    np.testing.assert_allclose(after, before[:, ::-1], atol=1e-5)
    save_checkpoint(model, tokenizer, tmp_path / "prepared")
    # A student of a family of its own, and one without attention that reads the teacher's pieces.
    other = tiny_classifier(tmp_path / "other", label_names=LABELS, num_layers=1)
    targets = [LABELS.index(label) for _, label in tiny_data()]
    for number, config in enumerate(
        (student_config(checkpoint=str(other)), student_config(kind="static", hidden_size=8))
    ):
        record = build_student(
            config, tmp_path / "prepared", LABELS, tmp_path / f"student-{number}", max_length=MAX_LENGTH,
            texts=(TOPICS, ()), labels=targets, use_gpu=False,
        )  # fmt: skip
        assert record["num_parameters"] > 0
    with pytest.raises(ModelError, match=r"student\.layers: .*an unknown model family"):
        student_config(layers=[0]).check_shapes(model.config, {})
