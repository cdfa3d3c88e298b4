"""The language in which administrators write a network's rules, as ZeroTier's rule compiler accepts it, compiled to the
tables that a controller takes, and tables written in it again.

Read by hand and not by a parser generator: where a block begins and ends depends on the words and the spaces before it
in ways that no grammar says briefly (see ``reader``), and an error must name line and column of the word at fault.
Facts: rule-compiler/rule-compiler.js of ZeroTierOne 1.14.1.
"""

from ztnode.rules_language.compiler import CompiledRules, compile_rules
from ztnode.rules_language.decompiler import decompile
from ztnode.rules_language.definitions import TagDefinition
from ztnode.rules_language.kept_text import current_text, is_text_of, parse_tables
from ztnode.rules_language.rules_error import RulesError

__all__ = [
    "CompiledRules",
    "RulesError",
    "TagDefinition",
    "compile_rules",
    "current_text",
    "decompile",
    "is_text_of",
    "parse_tables",
]
