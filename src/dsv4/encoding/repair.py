"""Parameter values -> JSON, by the declared schema where the model's markup is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from dsv4.encoding.dsml import json_text

_INTEGER = re.compile(r"[+-]?\d{1,300}\Z")
_PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


class NotJson(ValueError):
    """A text is no JSON value that could be written again."""


def read_json(text: str) -> Any:
    """A JSON value; NotJson also for NaN, infinities and nesting beyond all sense."""
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        json.dumps(value)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    return value


def schema_types(schema: object) -> frozenset[str]:
    """JSON types a schema allows at its top, empty if it does not say."""
    if not isinstance(schema, Mapping):
        return frozenset()
    declared = schema.get("type")
    types = {declared} if isinstance(declared, str) else set()
    if isinstance(declared, list):
        types.update(kind for kind in declared if isinstance(kind, str))
    for union in ("anyOf", "oneOf"):
        options = schema.get(union)
        if isinstance(options, list):
            for option in options:
                if isinstance(option, Mapping):
                    types |= schema_types({"type": option.get("type")})
    values = schema.get("enum")
    if not types and isinstance(values, list) and all(isinstance(v, str) for v in values):
        types.add("string")
    return frozenset(types)


def has_type(value: object, types: frozenset[str]) -> bool:
    """Whether a JSON value is of one of the types; every value is of no declared type."""
    if not types:
        return True
    if isinstance(value, bool):
        return "boolean" in types
    return any(isinstance(value, _PYTHON_TYPES.get(kind, ())) for kind in types)


def coerce(text: str, schema: object) -> str:
    """JSON text of a value whose markup does not say what it is: read as a type the schema
    allows, else as a string."""
    types = schema_types(schema)
    if types - {"string"}:
        try:
            value = read_json(text)
        except NotJson:
            value = _loose(text.strip(), types)
        if not isinstance(value, str) and has_type(value, types):
            return json_text(value)
    return json_text(text)


def properties(schema: object) -> Mapping[str, Any] | None:
    """The `properties` of a function's parameters schema, None if it declares none."""
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) and found else None


def fits(value: object, schema: object) -> bool:
    """Whether a value can be the arguments of a function: known keys only, none required
    missing, each of a type its schema allows."""
    known = properties(schema)
    if not isinstance(value, dict) or known is None or not isinstance(schema, Mapping):
        return False
    required = schema.get("required")
    wanted = set(required) if isinstance(required, list) else set()
    return wanted <= value.keys() <= known.keys() and all(
        has_type(item, schema_types(known[key])) for key, item in value.items()
    )


def _loose(text: str, types: frozenset[str]) -> object:
    """The way Python or a person writes a scalar; the text itself if it is none."""
    if "boolean" in types and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "null" in types and text.lower() in ("none", "null", ""):
        return None
    if types & {"integer", "number"} and _INTEGER.match(text):
        return int(text)
    if "number" in types:
        try:
            number = float(text)
        except ValueError:
            return text
        return number if math.isfinite(number) else text
    return text


def _refuse(name: str) -> Any:
    raise NotJson(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)
