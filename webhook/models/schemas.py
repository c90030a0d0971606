"""JSON Schemas of models, in the style of an OpenAPI 3.1 document."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import NullableSchema, WithDefaultSchema

Schema = dict[str, Any]
_REF = "#/components/schemas/{model}"


class Schemas:
    """Those of the models that a document refers to, and of the models that these refer to."""

    def __init__(self) -> None:
        self._models: dict[str, TypeAdapter[Any]] = {}

    def ref(self, model: Any) -> Schema:
        """To a model, an enum or a named union. Two may not have the same name."""
        name = model.__name__
        self._models.setdefault(name, TypeAdapter(model))
        return {"$ref": _REF.format(model=name)}

    def components(self) -> dict[str, Schema]:
        """By name. Also of answers it is what is read: who reads may rely on what is required."""
        inputs = [(name, "validation", adapter) for name, adapter in self._models.items()]
        _, generated = TypeAdapter.json_schemas(
            inputs,  # type: ignore[arg-type]  # the mode is a literal
            ref_template=_REF,
            schema_generator=_Generator,
        )
        components: dict[str, Schema] = generated["$defs"]
        return components


def schema_of(kind: Any) -> Schema:
    """Of a parameter, in place."""
    return TypeAdapter(kind).json_schema(schema_generator=_Generator)


class _Generator(GenerateJsonSchema):
    """Without what says nothing: titles that repeat a field's name, and defaults of null."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False

    def default_schema(self, schema: WithDefaultSchema) -> Schema:
        made = super().default_schema(schema)
        if "default" in made and made["default"] is None:
            del made["default"]
        return made

    def nullable_schema(self, schema: NullableSchema) -> Schema:
        """`"type": ["string", "null"]` where that says it."""
        inner = self.generate_inner(schema["schema"])
        if isinstance(inner.get("type"), str) and not {"enum", "const"} & inner.keys():
            return {**inner, "type": [inner["type"], "null"]}
        return super().nullable_schema(schema)
