"""Fill in the middle, for the completion endpoint.

V4 keeps V3's three tokens and publishes no template; this is the form of the earlier DeepSeek
models (prefix, hole, suffix). The model answers with the middle, without thinking.
"""

from __future__ import annotations

from dsv4.encoding.control import BOS, FIM_BEGIN, FIM_END, FIM_HOLE
from dsv4.encoding.prompt import Prompt, PromptBuilder


def render_fim(prefix: str, suffix: str = "") -> Prompt:
    """The prompt whose continuation belongs between `prefix` and `suffix`."""
    builder = PromptBuilder()
    builder.control(BOS)
    builder.control(FIM_BEGIN)
    builder.content(prefix)
    builder.control(FIM_HOLE)
    builder.content(suffix)
    builder.control(FIM_END)
    return builder.build()
