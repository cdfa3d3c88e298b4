"""The field with a network's rules. What is written there is read in this one place."""

from __future__ import annotations

from typing import Any, Final

from ztnode.controller.documents import ControlledNetwork
from ztnode.rules_language import RulesError, compile_rules, current_text
from ztnode.web.page.forms import FieldError

FIELD: Final = "rules"


def compile_field(source: str) -> dict[str, Any]:
    """The network's settings that ``source`` means, a text in the language of rules. Raises FieldError, which says
    where."""
    # What browsers send of a field with several lines ends them by both (HTML, form submission).
    source = source.replace("\r\n", "\n")
    try:
        return {**compile_rules(source).config(), "rulesSource": source}
    except RulesError as error:
        raise FieldError(FIELD, f"rules, line {error.line}, column {error.column}: {error.message}") from None


def show_field(network: ControlledNetwork) -> str:
    """What the field holds at first: the text that the rules were set from, or one that means them."""
    kept = network.extra.get("rulesSource")
    capabilities = [(each.id, each.default, each.rules) for each in network.capabilities]
    return current_text(kept if isinstance(kept, str) else "", network.rules, capabilities, network.tags)
