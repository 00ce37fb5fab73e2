"""Registries: names are taken once, and what a test registers is gone afterwards."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from distiltune.training.registry import Registry
from distiltune.training.section import Section
from distiltune.training.section_registry import SectionRegistry


class Shape(Section):
    size: int = Field(default=1, ge=0, le=9)


SHAPES: SectionRegistry[Shape] = SectionRegistry("kind")


@SHAPES.register
class Disc(Shape):
    kind: Literal["disc"] = "disc"


class Ring(Shape):
    kind: Literal["ring"] = "ring"
    hole: int = Field(default=1, ge=0, le=9)


class Drawing(Section):
    shape: Annotated[Shape, SHAPES.field()]
    other: Annotated[Shape, SHAPES.field(default="disc", bare_word=True)] = Disc()


def faults(**values) -> list[tuple]:
    with pytest.raises(ValidationError) as raised:
        Drawing.model_validate(values)
    return [(*item["loc"], item["type"]) for item in raised.value.errors()]


def test_a_name_is_registered_once():
    class Other(Shape):
        kind: Literal["disc"] = "disc"

    with pytest.raises(ValueError, match="disc"):
        SHAPES.register(Other)
    assert list(SHAPES) == [Disc]


def test_a_temporary_entry_is_gone_after_its_block_whatever_happens():
    with pytest.raises(RuntimeError), SHAPES.temporarily(Ring):
        assert SHAPES.names == ["disc", "ring"] and "ring" in SHAPES
        raise RuntimeError
    assert SHAPES.names == ["disc"]


def test_a_field_takes_what_is_registered_when_it_is_validated():
    ring = {"kind": "ring", "hole": 2}
    assert faults(shape=ring) == [("shape", "kind", "union_tag_invalid")]
    with SHAPES.temporarily(Ring):
        made = Drawing.model_validate({"shape": ring})
        assert made.shape == Ring(hole=2)
        assert made.model_dump() == {"shape": {"size": 1, **ring}, "other": {"size": 1, "kind": "disc"}}
        assert Drawing.model_validate_json(made.model_dump_json()) == made
        assert Drawing(shape=Ring()).shape == Ring()


def test_a_field_names_the_key_at_fault():
    assert faults(shape={"size": 3}) == [("shape", "union_tag_not_found")]
    assert faults(shape="disc") == [("shape", "model_attributes_type")]
    assert faults(shape=None) == [("shape", "model_attributes_type")]
    assert faults(shape={"kind": 3}) == [("shape", "kind", "union_tag_invalid")]
    assert faults(shape=Disc(), other="ring") == [("other", "union_tag_invalid")]
    assert faults(shape={"kind": "disc", "size": 10, "hole": 1}) == [
        ("shape", "size", "less_than_equal"),
        ("shape", "hole", "extra_forbidden"),
    ]


def test_a_default_and_a_bare_word_stand_for_a_section():
    assert Drawing.model_validate({"shape": Disc(), "other": {"size": 3}}).other == Disc(size=3)
    with SHAPES.temporarily(Ring):
        assert Drawing.model_validate({"shape": Disc(), "other": "ring"}).other == Ring()


def test_a_key_that_one_section_alone_has_may_select_it():
    class Inferred(Section):
        shape: Annotated[Shape, SHAPES.field(default="disc", by_own_keys=True)]

    class Frame(Ring):
        kind: Literal["frame"] = "frame"
        corners: int = 4

    def made(**values) -> Shape:
        return Inferred.model_validate({"shape": values}).shape

    with SHAPES.temporarily(Ring):
        assert made(hole=3) == Ring(hole=3)
        assert made() == made(size=1) == Disc()
        with SHAPES.temporarily(Frame):
            assert made(corners=3) == Frame(corners=3)
            assert made(hole=3, kind="ring") == Ring(hole=3)
            for values in ({"hole": 3}, {"hole": None}, {"kind": "disc", "corners": 3}):
                with pytest.raises(ValidationError, match=next(key for key in values if key != "kind")):
                    made(**values)


def test_keys_of_other_sections_may_be_ignored_once_they_are_valid():
    class Lenient(Section):
        shape: Annotated[Shape, SHAPES.field(default="disc", ignores_others=True)]

    with SHAPES.temporarily(Ring):
        assert Lenient.model_validate({"shape": {"size": 2, "hole": 3}}).shape == Disc(size=2)
        with pytest.raises(ValidationError) as raised:
            Lenient.model_validate({"shape": {"size": -1, "hole": 10, "colour": 1}})
    faults = {(*item["loc"], item["type"]) for item in raised.value.errors()}
    assert faults == {
        ("shape", "size", "greater_than_equal"),
        ("shape", "hole", "less_than_equal"),
        ("shape", "colour", "extra_forbidden"),
    }


def test_the_schema_has_each_registered_section():
    with SHAPES.temporarily(Ring):
        schema = Drawing.model_json_schema()
    assert {"Disc", "Ring"} <= set(schema["$defs"])
    assert schema["properties"]["shape"]["oneOf"] == [{"$ref": "#/$defs/Disc"}, {"$ref": "#/$defs/Ring"}]
    assert "Ring" not in Drawing.model_json_schema()["$defs"]


def test_objects_are_registered_by_their_name():
    class Named:
        name = "one"

    registry: Registry[Named] = Registry()
    entry = registry.register(Named())
    assert registry["one"] is entry and registry.names == ["one"]
