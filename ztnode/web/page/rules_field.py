"""The field with a network's rules, in the language of ``rules_language``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ztnode.controller import ControllerError
from ztnode.controller.documents import ControlledNetwork, change_network
from ztnode.rules_language import RulesError, compile_rules, decompile
from ztnode.web.page.forms import FieldError

FIELD: Final = "rules"


def compile_field(source: str) -> dict[str, Any]:
    """The network's settings that ``source`` means, itself among them. Raises FieldError, which says where."""
    try:
        return {**compile_rules(source).config(), "rulesSource": source}
    except RulesError as error:
        raise FieldError(FIELD, f"rules, {error}") from None


def show_field(network: ControlledNetwork) -> tuple[str, bool]:
    """What the field holds at first: the text that was kept, where it is that of the tables in force, or one made from
    these; and whether it says all that they do."""
    kept = network.extra.get("rulesSource")
    if isinstance(kept, str) and _says_all(kept, network):
        return kept, True
    grants = [(grant.id, grant.default, grant.rules) for grant in network.capabilities]
    source = decompile(network.rules, grants, network.tags)
    return source, _says_all(source, network)


def _says_all(source: str, network: ControlledNetwork) -> bool:
    try:
        compiled = change_network(network, compile_rules(source).config())
    except (RulesError, ControllerError):
        return False
    return replace(compiled, extra=network.extra) == network
