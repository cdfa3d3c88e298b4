"""The field with a network's rules. What is written there is read in this one place."""

from __future__ import annotations

from typing import Any, Final

from ztnode.controller.documents import ControlledNetwork
from ztnode.rules_language import RulesError, compile_rules, current_text, is_text_of
from ztnode.web.page.forms import FieldError
from ztnode.wire.rules import RuleType

FIELD: Final = "rules"


def compile_field(source: str) -> dict[str, Any]:
    """The network's settings that ``source`` means, itself among them. Raises FieldError, which says where."""
    # A browser ends the lines of a field by both (HTML, form submission).
    source = source.replace("\r\n", "\n")
    try:
        return {**compile_rules(source).config(), "rulesSource": source}
    except RulesError as error:
        raise FieldError(FIELD, f"rules, {error}") from None


def lets_pass(network: ControlledNetwork) -> bool:
    """Whether any statement in force lets frames pass, be it for holders of a capability alone."""
    tables = (network.rules, *(each.rules for each in network.capabilities))
    return any(rule.type in (RuleType.ACTION_ACCEPT, RuleType.ACTION_REDIRECT) for table in tables for rule in table)


def show_field(network: ControlledNetwork) -> tuple[str, bool]:
    """What the field holds at first: the text that was kept, where it is that of the tables in force, or one made from
    these; and whether it says all that they do."""
    kept = network.extra.get("rulesSource")
    tables = network.rules, [(each.id, each.default, each.rules) for each in network.capabilities], network.tags
    text = current_text(kept if isinstance(kept, str) else "", *tables)
    return text, is_text_of(text, *tables)
