"""Canonical ids: tokens that differ only in case, accents or spacing count as one for Engram.

The rule is that of the released code (arXiv 2601.07372, section 2.2): decode each token alone,
normalise, and number the results in the order in which they are first seen. With V4's vocabulary
129,280 tokens become 99,092, as V4.1's configuration says.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Regex, normalizers

_UNDECODABLE = "\ufffd"
_ONE_SPACE = "\ue000"  # stands for a text that is nothing but white space while others are stripped
_NORMALIZER = normalizers.Sequence(
    [
        normalizers.NFKC(),
        normalizers.NFD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
        normalizers.Replace(Regex(r"^ $"), _ONE_SPACE),
        normalizers.Strip(),
        normalizers.Replace(_ONE_SPACE, " "),
    ]
)


def canonical_text(text: str) -> str:
    """What a token's text is compared by; the text itself if nothing would be left of it."""
    return _NORMALIZER.normalize_str(text) or text


def token_map(size: int, decode: Callable[[int], str], raw: Callable[[int], str]) -> list[int]:
    """The canonical id of every token 0 .. size - 1.

    decode: the text of one token; raw: the string that the vocabulary has for it, by which tokens
    are told apart that are no whole characters.
    """
    numbers: dict[str, int] = {}
    result = []
    for token in range(size):
        text = decode(token)
        key = raw(token) if _UNDECODABLE in text else canonical_text(text)
        result.append(numbers.setdefault(key, len(numbers)))
    return result
