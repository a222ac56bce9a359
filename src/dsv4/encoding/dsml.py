"""DSML, the markup of tool calls, and the JSON text V4 uses everywhere.

    calls  = "<Dtool_calls>\\n" invoke ("\\n" invoke)* "\\n</Dtool_calls>"
    invoke = '<Dinvoke name="' N '">\\n' [param ("\\n" param)*] "\\n</Dinvoke>"
    param  = '<Dparameter name="' K '" string="' ("true"|"false") '">' V "</Dparameter>"

D is the control token `｜DSML｜`. V is the bare string for "true" and JSON for "false";
nothing is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dsv4.encoding.control import DSML
from dsv4.encoding.messages import ToolCall
from dsv4.encoding.prompt import PromptBuilder
from dsv4.errors import EncodingError

OPEN_CALLS = f"<{DSML}tool_calls>"
CLOSE_CALLS = f"</{DSML}tool_calls>"
OPEN_INVOKE = f'<{DSML}invoke name="'
CLOSE_INVOKE = f"</{DSML}invoke>"
OPEN_PARAMETER = f"<{DSML}parameter"
CLOSE_PARAMETER = f"</{DSML}parameter>"

UNPARSED_KEY = "arguments"
"""The one parameter that carries a history's `arguments` string when it is no JSON object."""


def json_text(value: Any) -> str:
    """A value as the JSON text V4 was trained on: `", "`, `": "`, no ASCII escapes.

    Raises EncodingError for what JSON can not hold (other Python objects, endless nesting).
    """
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodingError(
            f"a tool, schema or argument can not be written as JSON: {error}"
        ) from error


def history_arguments(arguments: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of a past call as parameters, from any form clients send them in.

    A JSON object as text or as an object; null or "" (no parameters); any other text becomes
    one parameter named `arguments` that holds it.
    """
    if arguments is None or arguments == "":
        return {}
    if isinstance(arguments, Mapping):
        return dict(arguments)
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {UNPARSED_KEY: arguments}


def write_calls(builder: PromptBuilder, calls: Iterable[ToolCall]) -> None:
    """Append a calls block. Names, keys and values are content, the markup is template."""
    builder.template(f"{OPEN_CALLS}\n")
    for i, call in enumerate(calls):
        builder.template(("\n" if i else "") + OPEN_INVOKE)
        builder.content(call.name)
        builder.template('">\n')
        for j, (key, value) in enumerate(history_arguments(call.arguments).items()):
            is_text = isinstance(value, str)
            builder.template(("\n" if j else "") + f'{OPEN_PARAMETER} name="')
            builder.content(key)
            builder.template(f'" string="{"true" if is_text else "false"}">')
            builder.content(value if is_text else json_text(value))
            builder.template(CLOSE_PARAMETER)
        builder.template(f"\n{CLOSE_INVOKE}")
    builder.template(f"\n{CLOSE_CALLS}")
