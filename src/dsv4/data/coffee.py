"""The tools of Taskmaster-4, a set of dialogues about ordering coffee.

The set (TM-4-2024 of google-research-datasets/Taskmaster, CC-BY 4.0) has calls and results but no
descriptions of its functions; these are written from how the dialogues use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _function(name: str, about: str, required: str, **properties: str) -> Mapping[str, Any]:
    """A function object; properties: name -> description, "[]" before it for an array."""
    return {
        "name": name,
        "description": about,
        "parameters": {
            "type": "object",
            "properties": {key: _property(text) for key, text in properties.items()},
            "required": required.split(),
        },
    }


def _property(text: str) -> dict[str, Any]:
    if text.startswith("[]"):
        return {"type": "array", "description": text[2:]}
    return {"type": "string", "description": text}


COFFEE_TOOLS = (
    _function("show_menu", "Show the menu.", ""),
    _function("get_menu_items", "Find drinks and food on the menu.", "query",
              query="what to look for", fields="[]fields to return"),
    _function("get_addons", "Find attributes and add-ons.", "query",
              query="what to look for", menu_item_id="id of the item", scope="item or order"),
    _function("add_order_item", "Add an item to the order.", "menu_item_id quantity",
              menu_item_id="id of the item", quantity="how many", order_id="id of the order",
              attributes="[]attribute_id and option", addons="[]addon_id and option",
              notes="wishes"),
    _function("update_order_item", "Change an item of the order.", "order_item_id",
              order_item_id="id in the order", attributes="[]attribute_id and option",
              addons="[]addon_id and option"),
    _function("update_order", "Change the order.", "order_id attributes",
              order_id="id of the order", attributes="[]attribute_id and option"),
    _function("get_order_details", "Show the order.", "order_id", order_id="id of the order"),
    _function("finish_order", "Place the order.", "order_id", order_id="id of the order"),
)  # fmt: skip
