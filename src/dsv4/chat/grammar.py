"""Compiled grammars of one vocabulary, kept while they are used."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dsv4.chat.schema import Body, Choice, Json, Regex, Text, Undeclared
from dsv4.chat.vocabulary import Vocabulary
from dsv4.errors import RequestError

if TYPE_CHECKING:
    import xgrammar

MOST_KEPT_BYTES = 256 << 20
"""Compiled grammars that are kept."""

MOST_SPACE = 8
"""White space between two parts of JSON: a model that pads without end gets nowhere."""

_FINITE = {
    "basic_escape": r'([\"\\/bfnrt]) | ("u" [0-9A-Ca-cEeFf] [A-Fa-f0-9]{3})'
    r' | ("u" [Dd] [0-7] [A-Fa-f0-9]{2})',
    "basic_integer": '("0") | (basic_integer_1 [1-9] [0-9]{0,17})',
    "basic_number_2": '("0") | ([1-9] [0-9]{0,17})',
    "basic_number_3": '"" | ("." [0-9]{1,20})',
    "basic_number_5": '"" | ([eE] basic_number_4 [0-9]{1,2})',
}
"""Rules of JSON -> the same without half characters and numbers that no float holds."""
_NO_KEY = r'"<>\\\n\r'
"""What no undeclared key contains."""
_RULE = re.compile(rf"^({'|'.join(_FINITE)}) ::= .*$", re.MULTILINE)
_ESCAPE = re.compile(r"\\(x([0-9a-f]{2})|.)", re.DOTALL)
"""Escapes as grammars are written: read again, `\\x` would take more than two digits."""


class Grammars:
    """Compiles, from any thread; what was used last is kept for the next request."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._kept: OrderedDict[tuple[Body, str], xgrammar.CompiledGrammar] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Have the compiler ready; loading it takes seconds."""
        _ = self.vocabulary.compiler

    def compiled(self, body: Body, closer: str, param: str) -> xgrammar.CompiledGrammar:
        """`body` and then the text `closer`. Raises RequestError naming `param` for what the
        compiler cannot do."""
        key = body, closer
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            compiled = self.vocabulary.compiler.compile_grammar(_grammar(body, closer))
        except Exception as error:  # the library raises what it likes for a bad schema
            raise RequestError(
                f"{param}: this server cannot hold answers to that: {_reason(error)}",
                "leave out what is not needed",
                param=param,
            ) from error
        if not _allows(compiled):
            raise RequestError(f"{param}: no answer fits that", param=param)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = compiled
                self._bytes += compiled.memory_size_bytes
            while self._bytes > MOST_KEPT_BYTES and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._bytes -= old.memory_size_bytes
        return compiled


def _allows(compiled: xgrammar.CompiledGrammar) -> bool:
    """Whether there is a first token: a schema that refers to itself alone has none."""
    from xgrammar import GrammarMatcher, allocate_token_bitmask

    words = allocate_token_bitmask(1, compiled.tokenizer_info.vocab_size)
    GrammarMatcher(compiled).fill_next_token_bitmask(words)
    return bool(words.any())


def _grammar(body: Body, closer: str) -> xgrammar.Grammar:
    from xgrammar import Grammar

    end = f' "{closer}"' if closer else ""
    if isinstance(body, Text):
        return Grammar.from_ebnf(rf"root ::= [\0-\U0010FFFF]*{end}")
    if isinstance(body, Choice):
        texts = " | ".join(_quoted(text) for text in body.texts)
        return Grammar.from_ebnf(f"root ::= ({texts}){end}")
    if isinstance(body, Undeclared):
        key = Grammar.from_ebnf(_key_but(body.names) + f' "\\" string=\\"{body.string}\\">"')
        return Grammar.concat(key, _grammar(body.value, closer))
    grammar = Grammar.from_regex(body.pattern) if isinstance(body, Regex) else _json(body)
    return Grammar.concat(grammar, Grammar.from_ebnf(f"root ::={end}")) if end else grammar


def _json(body: Json) -> xgrammar.Grammar:
    from xgrammar import Grammar

    grammar = Grammar.from_json_schema(
        body.schema,
        any_whitespace=body.spaced,
        separators=None if body.spaced else (", ", ": "),
        max_whitespace_cnt=MOST_SPACE if body.spaced else None,
        strict_mode=False,
    )
    written = _ESCAPE.sub(lambda m: f"\\u00{m[2]}" if m[2] else m[0], str(grammar))
    return Grammar.from_ebnf(_RULE.sub(lambda m: f"{m[1]} ::= {_FINITE[m[1]]}", written))


def _key_but(names: Sequence[str]) -> str:
    """A grammar of keys that are none of `names`, without an end to its root rule."""
    rules: list[str] = []

    def rest(start: str) -> str:
        """The rule for what may follow `start`."""
        longer = [name[len(start) :] for name in names if name.startswith(start)]
        letters = sorted({name[0] for name in longer if name})
        branches = ['""'] if start and "" not in longer else []
        branches.append(f"[^{''.join(map(_escaped, letters))}{_NO_KEY}] key_more")
        branches += [f"{_quoted(letter)} {rest(start + letter)}" for letter in letters]
        rules.append(" | ".join(branches))
        return f"key_{len(rules) - 1}"

    first = rest("")
    lines = [f"key_{i} ::= {rule}" for i, rule in enumerate(rules)]
    return "\n".join([f"key_more ::= [^{_NO_KEY}]*", *lines, f"root ::= {first}"])


def _escaped(letter: str) -> str:
    """A letter in a class of the grammar language."""
    return f"\\U{ord(letter):08x}"


def _quoted(text: str) -> str:
    """A text as a literal of the grammar language."""
    return json.dumps(text, ensure_ascii=False)


def _reason(error: Exception) -> str:
    """The compiler's words, without the place in its source."""
    lines = str(error).strip().splitlines() or [""]
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", lines[0])[:200]
