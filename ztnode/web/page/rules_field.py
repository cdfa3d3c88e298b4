"""The field with a network's rules. What is written there is read in this one place."""

from __future__ import annotations

import json
from typing import Any, Final

from ztnode.controller.documents import ControlledNetwork, build_network
from ztnode.web.page.forms import FieldError

FIELD: Final = "rules"
_KEYS: Final = ("rules", "capabilities", "tags")


def compile_field(source: str) -> dict[str, Any]:
    """The network's settings that ``source`` means: a list of rules, or an object with ``rules``, ``capabilities`` and
    ``tags``, as JSON. Raises FieldError, which says where."""
    try:
        value = json.loads(source)
    except json.JSONDecodeError as error:
        raise FieldError(FIELD, f"rules, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):
        raise FieldError(FIELD, "rules: numbers or brackets that cannot be read") from None
    if isinstance(value, list):
        value = {"rules": value}
    if not isinstance(value, dict) or not value or not value.keys() <= set(_KEYS):
        raise FieldError(FIELD, f"rules: neither a list nor an object with {', '.join(_KEYS)}")
    return value


def show_field(network: ControlledNetwork) -> str:
    """What the field holds at first: one rule a line."""
    document = build_network(network)
    parts = []
    for key in _KEYS:
        entries = ",\n".join(f"    {json.dumps(entry)}" for entry in document[key])
        parts.append(f'  "{key}": [\n{entries}\n  ]' if entries else f'  "{key}": []')
    return "{\n" + ",\n".join(parts) + "\n}"
