"""Registries of configuration sections, and the fields that hold one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticKnownError, SchemaValidator, core_schema

from .registry import Registry, nearest_name

Kind = TypeVar("Kind", bound=BaseModel)


class SectionRegistry(Registry[type[Kind]]):
    """Configuration sections of one kind, distinguished by the value of one of their keys.

    An entry is a section whose key ``attribute`` is declared as ``Literal["its name"] = "its name"``. A field that
    takes any of them is annotated ``Annotated[Base, registry.field()]``, or ``Annotated[Base | None, …]``.
    """

    def name_of(self, entry: type[Kind]) -> str:
        """Return the value of the key that selects this section."""
        return entry.model_fields[self.attribute].default

    def field(
        self,
        *,
        default: str | None = None,
        by_own_keys: bool = False,
        bare_word: bool = False,
        ignores_others: bool = False,
    ) -> OneSection:
        """Return the metadata that makes a field accept every section registered at validation time.

        Args:
            default: Entry that a mapping without the key selects; None: the key is required.
            by_own_keys: Whether a mapping without the key selects a section by keys that no other section has.
            bare_word: Whether an entry's name alone stands for its section with default values.
            ignores_others: Whether keys that only other sections have are validated and dropped, not rejected.
        """
        return OneSection(self, default, by_own_keys, bare_word, ignores_others)

    def named_by(self, values: Mapping[Any, Any]) -> Any:
        """Return the name in a mapping, else that of the one section whose own keys it has, else None.

        A section's own keys are those that no other section has.
        """
        if self.attribute in values:
            return values[self.attribute]
        names = set(self.own_keys(values).values())
        return names.pop() if len(names) == 1 else None

    def own_keys(self, values: Mapping[Any, Any]) -> dict[str, str]:
        """Map each key that has a value and belongs to one section only to the name of that section."""
        owners = {key: self.with_key(key) for key, value in values.items() if value is not None}
        return {key: each[0] for key, each in owners.items() if len(each) == 1}

    def with_key(self, key: str) -> list[str]:
        """Return the names of the sections that have a key."""
        return [name for name, section in self._entries.items() if key in section.model_fields]

    def all_keys(self) -> list[str]:
        """Return the keys of all sections, each once."""
        return list(dict.fromkeys(key for section in self for key in section.model_fields))


class OneSection:
    """Pydantic metadata of a field that holds one section of a registry: an extensible discriminated union.

    Args:
        registry: The sections.
        default: As in :meth:`SectionRegistry.field`.
        by_own_keys: As there.
        bare_word: As there.
        ignores_others: As there.
    """

    def __init__(
        self,
        registry: SectionRegistry[Any],
        default: str | None,
        by_own_keys: bool,
        bare_word: bool,
        ignores_others: bool,
    ) -> None:
        self.registry = registry
        self._default = default
        self._by_own_keys = by_own_keys
        self._bare_word = bare_word
        self._ignores_others = ignores_others

    def selected(self, value: Any) -> type[BaseModel] | None:
        """Return the section that a value selects by its key or as a bare word, or None."""
        name = value if isinstance(value, str) else self._default
        if isinstance(value, dict):
            name = self.name_in(value)
        return self.registry[name] if isinstance(name, str) and name in self.registry else None

    def name_in(self, values: Mapping[Any, Any]) -> Any:
        """Return what a mapping gives as the name of its section, or the name that it implies."""
        implied = self.registry.named_by(values) if self._by_own_keys else None
        return values.get(self.registry.attribute, implied or self._default)

    def _validated(self, base: type[BaseModel], value: Any) -> BaseModel:
        """Return the section that a value describes; errors within it keep their own paths."""
        key = self.registry.attribute
        if isinstance(value, base):
            return value
        if self._bare_word and isinstance(value, str):
            value = {key: value}
        if not isinstance(value, dict):
            raise PydanticKnownError("model_attributes_type")
        name = self.name_in(value)
        own = self.registry.own_keys(value) if self._by_own_keys and self._ignores_others else {}
        if key not in value and len(set(own.values())) > 1:
            raise ValueError(
                f"{', '.join(own)} given, which are keys of {', '.join(dict.fromkeys(own.values()))}; set {key} to the "
                "one that is meant"
            )
        if key not in value and name is None:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": f"'{key}'"})
        if not isinstance(name, str) or name not in self.registry:
            known = ", ".join(f"'{each}'" for each in self.registry.names)
            context = {"discriminator": f"'{key}'", "tag": str(name), "expected_tags": known}
            fault = InitErrorDetails(type="union_tag_invalid", loc=(key,), input=name, ctx=context)
            if self._bare_word:
                fault["loc"] = ()
            raise ValidationError.from_exception_data(base.__name__, [fault])
        section = self.registry[name]
        if self._ignores_others:
            return self._without_other_keys(section, value)
        return section.model_validate(value)

    def _without_other_keys(self, section: type[BaseModel], values: dict[Any, Any]) -> BaseModel:
        """Return the section that a mapping describes; keys of other sections are validated, then dropped."""
        others = {
            key: next((each for each in self.registry if key in each.model_fields), None)
            for key in values
            if key not in section.model_fields
        }
        own = {key: value for key, value in values.items() if others.get(key) is None}
        faults = [
            fault
            for key, other in others.items()
            if other is not None
            for fault in _faults(other, key, values[key])
        ]
        try:
            made = section.model_validate(own)
        except ValidationError as error:
            raise ValidationError.from_exception_data(error.title, [*_details(error), *faults]) from None
        if faults:
            raise ValidationError.from_exception_data(section.__name__, faults)
        return made

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kinds = [kind for kind in get_args(source) if kind is not NoneType]  # of ``Base | None``
        if not kinds:
            return core_schema.no_info_plain_validator_function(partial(self._validated, source))
        return core_schema.nullable_schema(
            core_schema.no_info_plain_validator_function(partial(self._validated, kinds[0]))
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        sections = {name: self.registry[name].__pydantic_core_schema__ for name in self.registry.names}
        union = core_schema.tagged_union_schema(sections, self.registry.attribute)
        return handler(core_schema.nullable_schema(union) if schema["type"] == "nullable" else union)


class SectionsByName:
    """Pydantic metadata of a field that maps entry names to their sections, each name at most once.

    Args:
        sections: Called at validation time to get the accepted sections by name.
    """

    def __init__(self, sections: Callable[[], Mapping[str, type[BaseModel]]]) -> None:
        self.sections = sections

    def _validated(self, values: Any) -> dict[str, BaseModel]:
        """Return the sections of a mapping; errors keep their own paths and are raised together."""
        if not isinstance(values, dict):
            raise PydanticKnownError("dict_type")
        known = self.sections()
        made: dict[str, BaseModel] = {}
        faults: list[InitErrorDetails] = []
        for name, value in values.items():
            if name not in known:
                expected = ", ".join(f"'{each}'" for each in known)
                context = {"discriminator": "'name'", "tag": str(name), "expected_tags": expected}
                faults.append(
                    InitErrorDetails(type="union_tag_invalid", loc=(str(name),), input=value, ctx=context)
                )
                continue
            try:
                made[name] = known[name].model_validate(value)
            except ValidationError as error:
                faults += _details(error, name)
        if faults:
            raise ValidationError.from_exception_data("sections", faults)
        return made

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validated)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        fields = {
            name: core_schema.typed_dict_field(section.__pydantic_core_schema__, required=False)
            for name, section in self.sections().items()
        }
        return handler(core_schema.typed_dict_schema(fields, extra_behavior="forbid"))


class NumberOrSections:
    """Pydantic metadata of a field that holds a whole number, or a list of sections in its place.

    Args:
        least: Smallest number.
        most: Largest number.
        section: Class of each section of a list.
        most_sections: Largest number of sections of a list; the smallest is 2.
    """

    def __init__(self, least: int, most: int, section: type[BaseModel], most_sections: int) -> None:
        self.section = section
        self._most_sections = most_sections
        self._number = core_schema.int_schema(ge=least, le=most, strict=True)

    def _validated(self, value: Any) -> int | list[BaseModel]:
        """Return the number or the sections; errors within a section keep their own paths."""
        if not isinstance(value, list):
            return SchemaValidator(self._number).validate_python(value)
        if not all(isinstance(each, dict | self.section) for each in value):
            raise ValueError("expected a number, or a list of mappings")
        made, faults = [], []
        for number, each in enumerate(value):
            try:
                made.append(self.section.model_validate(each))
            except ValidationError as error:
                faults += _details(error, number)
        if faults:
            raise ValidationError.from_exception_data(self.section.__name__, faults)
        if not 2 <= len(made) <= self._most_sections:
            raise ValueError(
                f"a list of {len(made)} given; accepted: a number, or a list of 2 to {self._most_sections} sections"
            )
        return made

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validated)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        sections = core_schema.list_schema(
            self.section.__pydantic_core_schema__, min_length=2, max_length=self._most_sections
        )
        return handler(core_schema.union_schema([self._number, sections]))


def _faults(section: type[BaseModel], key: str, value: Any) -> list[InitErrorDetails]:
    """Return the validation errors of one key's value in a section."""
    kind: Any = section.model_fields[key].rebuild_annotation()
    try:
        TypeAdapter(kind, config=section.model_config).validate_python(value)
    except ValidationError as error:
        return _details(error, key)
    return []


def _details(error: ValidationError, *prefix: str | int) -> list[InitErrorDetails]:
    """Return the faults of a validation error, their paths extended by a prefix."""
    return [
        InitErrorDetails(
            type=item["type"], loc=(*prefix, *item["loc"]), input=item["input"], ctx=item.get("ctx", {})
        )
        for item in error.errors(include_url=False)
    ]


class RegisteredName:
    """Pydantic metadata of a string that is the name of a registered entry.

    Args:
        entries: Returns the entries, each with ``name`` and ``description``.
        what: What an entry is, for the message, such as ``a task``.

    Example:
        ```python
        TaskName = Annotated[str, RegisteredName(lambda: TASKS, "a task")]
        ```
    """

    def __init__(self, entries: Callable[[], Iterable[Any]], what: str) -> None:
        self._entries = entries
        self._what = what

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described = {each.name: each.description for each in self._entries()}
        return {"type": "string", "enum": [*described], "enumDescriptions": [*described.values()]}

    def _known(self, name: str) -> str:
        names = [each.name for each in self._entries()]
        if name in names:
            return name
        raise ValueError(f"not {self._what}; {nearest_name(name, names)}")
