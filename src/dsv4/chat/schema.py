"""JSON schemas as clients send them -> what grammars can hold an answer to.

A grammar may allow more than a schema does (what it cannot express is left out), never nothing
at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dsv4.chat.pattern import problem
from dsv4.encoding.repair import schema_types
from dsv4.errors import RequestError

MOST_BYTES = 1 << 16
"""Size of a schema, as JSON."""
MOST_PROPERTIES = 256
"""Properties in one schema; the time to compile them grows with their square."""
MOST_LENGTH = 32
"""Bounds of a string's length above this are left out: every step is a state of the grammar."""
MOST_UNIONS = 4
"""Unions in unions of which each option is written in its own way."""
MOST_DEPTH = 64
"""Schemas in schemas."""
MOST_FORMS = 64
"""Ways to write one parameter, each of which is compiled by itself."""

_TYPES = frozenset(("string", "integer", "number", "boolean", "null", "array", "object"))
_REMARKS = ("title", "description", "default", "examples", "$schema", "$id", "$comment")
_SCHEMA_KEYS = ("additionalProperties", "items", "unevaluatedProperties", "unevaluatedItems")
_LIST_KEYS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAP_KEYS = ("properties", "patternProperties", "$defs", "definitions")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_KINDS: dict[str, type | tuple[type, ...]] = {
    "enum": list,
    "required": list,
    "format": str,
    "$ref": str,
    **dict.fromkeys(_NUMBERS, (int, float)),
}
"""What the value of a keyword must be; it is left out otherwise."""
_ROOT = "#/$defs/_root"
_ANYTHING = ".*"
_LOOKS = re.compile(r"\(\?[=!<]|\\[1-9bBk]")
"""What no grammar can do: look around, and back at groups."""

_HEX = "[0-9a-fA-F]"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = "[a-zA-Z0-9]([-a-zA-Z0-9]{0,20}[a-zA-Z0-9])?"
_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-2]):[0-5][0-9])"
_FORMATS = {
    "email": rf"[a-zA-Z0-9_+-]+(\.[a-zA-Z0-9_+-]+)*@{_LABEL}(\.{_LABEL})+",
    "hostname": rf"{_LABEL}(\.{_LABEL})*",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "ipv6": f"({_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}",
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
}


@dataclass(frozen=True, slots=True)
class Text:
    """Any text."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Regex:
    """Text that matches as a whole."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON value of a schema, which is JSON text itself. `spaced`: white space as one likes,
    else as the template writes JSON."""

    schema: str
    spaced: bool = False


Form = Text | Choice | Regex | Json
"""How a value is written."""


@dataclass(frozen=True, slots=True)
class Undeclared:
    """The rest of a parameter's tag from its key on, and its value. The key is none of `names`."""

    names: tuple[str, ...]
    string: str
    value: Form


Body = Form | Undeclared

_ANY: list[Form] = [Text(), Json(json.dumps({"type": sorted(_TYPES - {"string"})}))]
"""How any value is written."""


def checked(schema: object, where: str, param: str) -> dict[str, Any]:
    """A schema without what grammars have no use for. Raises RequestError for `param` if it is
    none or too large."""
    try:
        text = json.dumps(schema)
        simple = _simple(schema) if len(text) <= MOST_BYTES else {}
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{where}: the schema is no JSON: {error}", param=param) from error
    if not isinstance(simple, dict) or not isinstance(schema, Mapping):
        raise RequestError(f"{where}: the schema is no JSON object", param=param)
    small = len(text) <= MOST_BYTES and _count(schema) <= MOST_PROPERTIES
    if not small or _depth(schema) > MOST_DEPTH:
        raise RequestError(
            f"{where}: the schema is too large",
            f"at most {MOST_BYTES >> 10} KiB, {MOST_PROPERTIES} properties, depth {MOST_DEPTH}",
            param=param,
        )
    return simple


def checked_pattern(pattern: str, param: str) -> str:
    """A regular expression that may be compiled. Raises RequestError for `param`."""
    why = problem(pattern)
    if why is not None:
        raise RequestError(
            f"{param}: this server cannot hold answers to the pattern: {why}", param=param
        )
    return pattern


def forms(schema: object, root: Mapping[str, Any]) -> list[Form]:
    """How a parameter of this schema is written: as bare text, as JSON that is no text, or
    either. Takes what `checked` made; `root` is where its references point."""
    found: dict[Form, None] = {}
    texts: dict[str, None] = {}
    for form in _forms(schema, root, 0, set()):
        if isinstance(form, Choice):
            texts |= dict.fromkeys(form.texts)
        else:
            found[form] = None
        if len(found) > MOST_FORMS:
            return _ANY
    return [*([Choice(tuple(texts))] if texts else []), *found] or _ANY


def _forms(schema: object, root: Mapping[str, Any], depth: int, met: set[str]) -> Iterator[Form]:
    """`met`: references that were followed; met again, they add nothing."""
    target = schema.get("$ref") if isinstance(schema, Mapping) else None
    if isinstance(target, str):
        if target in met:
            return
        met.add(target)
    schema = resolved(schema, root)
    if not schema:
        yield from _ANY
        return
    union = schema.get("anyOf", schema.get("oneOf"))
    if union and len(schema) == 1 and depth < MOST_UNIONS:
        for option in union:
            yield from _forms(option, root, depth + 1, met)
        return
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        texts = tuple(value for value in values if isinstance(value, str))
        rest = [value for value in values if not isinstance(value, str)]
        if texts:
            yield Choice(texts)
        if rest:
            yield json_body({"enum": rest}, root)
        return
    types = schema_types({"type": schema.get("type")})
    others = sorted(types - {"string"})
    if "string" not in types:
        yield json_body(schema, root)
        return
    yield _string(schema)
    if others:
        yield json_body({**schema, "type": others}, root)


def json_body(schema: Mapping[str, Any], root: Mapping[str, Any], *, spaced: bool = False) -> Json:
    """JSON of a part of `root`."""
    if '"$ref"' not in _text(schema):
        return Json(_text(schema), spaced)
    defs = root.get("$defs")
    known = defs if isinstance(defs, Mapping) else {}
    whole = {**root, "$defs": {**known, "_root": root, "_value": schema}, "$ref": "#/$defs/_value"}
    return Json(_text(whole), spaced)


def _string(schema: Mapping[str, Any]) -> Text | Regex:
    if isinstance(schema.get("pattern"), str):
        return Regex(schema["pattern"])
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if least or most is not None:
        return Regex(f".{{{least},{'' if most is None else most}}}")
    return Text()


def resolved(schema: object, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference means, as far as it can be followed; any value if it is no schema."""
    for _ in range(8):
        if not isinstance(schema, Mapping):
            return {}
        target = schema.get("$ref")
        if not isinstance(target, str):
            options = schema.get("allOf")
            if len(schema) == 1 and isinstance(options, list) and len(options) == 1:
                schema = options[0]
                continue
            return schema
        if target == _ROOT:
            return root
        found: object = root
        for part in target.removeprefix("#/").split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is None:
            return schema
        schema = found
    return schema if isinstance(schema, Mapping) else {}


def _simple(schema: object) -> dict[str, Any] | bool:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, Mapping):
        return {}
    simple = {str(key): value for key, value in schema.items() if key not in _REMARKS}
    for key in _SCHEMA_KEYS:
        if key in simple:
            simple[key] = _simple(simple[key])
    for key in _LIST_KEYS:
        if key in simple:
            options = simple.pop(key)
            if isinstance(options, list) and options:
                simple[key] = [_simple(option) for option in options]
    for key in _MAP_KEYS:
        if key in simple:
            members = simple.pop(key)
            if isinstance(members, Mapping):
                simple[key] = {name: _simple(member) for name, member in members.items()}
    if "patternProperties" in simple:
        patterns = simple.pop("patternProperties")
        simple["patternProperties"] = {p: patterns[p] for p in patterns if problem(p) is None}
    types = schema_types({"type": simple.pop("type", None)}) & _TYPES
    if types:
        simple["type"] = next(iter(types)) if len(types) == 1 else sorted(types)
    if simple.get("properties"):
        simple.setdefault("additionalProperties", False)
    for key, kinds in _KINDS.items():
        if key in simple and not isinstance(simple[key], kinds):
            del simple[key]
    for key in ("minLength", "maxLength"):
        bound = simple.get(key)
        if bound is not None and not (isinstance(bound, int) and 0 <= bound <= MOST_LENGTH):
            del simple[key]
    pattern = simple.pop("pattern", None)
    if isinstance(pattern, str) and problem(pattern) is None and not _LOOKS.search(pattern):
        simple["pattern"] = _whole(pattern)
    elif simple.get("format") in _FORMATS:
        simple["pattern"] = _FORMATS[simple.pop("format")]
    if simple.get("$ref") == "#":
        simple["$ref"] = _ROOT
    return simple


def _whole(pattern: str) -> str:
    """A pattern that is searched for, as one of a whole text."""
    starts = pattern.startswith("^")
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    if "|" in pattern:  # an anchor may belong to one of the alternatives alone
        return pattern if starts or ends else f"{_ANYTHING}({pattern}){_ANYTHING}"
    return ("" if starts else _ANYTHING) + pattern + ("" if ends else _ANYTHING)


def _count(schema: object) -> int:
    """Properties of a schema and of all in it."""
    if isinstance(schema, Mapping):
        own = schema.get("properties")
        here = len(own) if isinstance(own, Mapping) else 0
        return here + sum(_count(part) for part in schema.values())
    if isinstance(schema, list):
        return sum(_count(part) for part in schema)
    return 0


def _depth(value: object) -> int:
    if isinstance(value, Mapping):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False)
