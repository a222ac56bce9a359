"""The fixed wording of the V4 prompt, byte for byte, and what differs between its profiles.

The strings are DeepSeek's (the chat encoding released with DeepSeek-V4 under the MIT licence);
changing a byte of them changes what the released checkpoints were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dsv4.errors import EncodingError

TOOLS_HEAD = (
    "## Tools\n"
    "\n"
    "You have access to a set of tools to help answer the user's question. You can "
    'invoke tools by writing a "<｜DSML｜tool_calls>" block like the following:\n'
    "\n"
    "<｜DSML｜tool_calls>\n"
    '<｜DSML｜invoke name="$TOOL_NAME">\n'
    '<｜DSML｜parameter name="$PARAMETER_NAME" '
    'string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>\n'
    "...\n"
    "</｜DSML｜invoke>\n"
    '<｜DSML｜invoke name="$TOOL_NAME2">\n'
    "...\n"
    "</｜DSML｜invoke>\n"
    "</｜DSML｜tool_calls>\n"
    "\n"
    'String parameters should be specified as is and set `string="true"`. For all '
    "other types (numbers, booleans, arrays, objects), pass the value in JSON format "
    'and set `string="false"`.\n'
    "\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your "
    "complete reasoning inside <think>...</think> BEFORE any tool calls or final response.\n"
    "\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n"
    "\n"
    "### Available Tool Schemas\n"
    "\n"
)

TOOLS_TAIL = (
    "\n"
    "\n"
    "You MUST strictly follow the above defined tool name and parameter schemas to "
    "invoke tool calls.\n"
)

RESPONSE_FORMAT_HEAD = (
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
)

EFFORT_ABSOLUTE = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the "
    "problem to resolve the root cause, rigorously stress-testing your logic against "
    "all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every "
    "intermediate step, considered alternative, and rejected hypothesis to ensure "
    "absolutely no assumption is left unchecked.\n"
    "\n"
)

EFFORT_BEYOND = (
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to "
    "chance: exhaustively decompose the problem into its most fundamental "
    "components, trace every causal chain to its root, and resolve the underlying "
    "cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from "
    "multiple angles and are certain that no assumption remains unchecked and no "
    "error remains undiscovered.\n"
    "\n"
)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one family of checkpoints expects: effort level -> text written after BOS."""

    name: str
    efforts: Mapping[str, str]

    def effort_prefix(self, effort: str | None) -> str:
        """Text of an effort level; None is the encoder's default, no text.

        Raises EncodingError for a level this profile does not have.
        """
        if effort is None:
            return ""
        if effort not in self.efforts:
            raise EncodingError(
                f"profile {self.name!r} has no reasoning effort {effort!r}",
                hint="choose one of " + ", ".join(self.efforts),
            )
        return self.efforts[effort]


LAUNCH = Profile("launch", MappingProxyType({"none": "", "high": "", "max": EFFORT_ABSOLUTE}))
"""V4-Flash and V4-Pro preview (24 April 2026)."""

UPDATE_0731 = Profile(
    "0731", MappingProxyType({"low": "", "high": EFFORT_ABSOLUTE, "max": EFFORT_BEYOND})
)
"""V4-Flash-0731 and later checkpoints of the same grammar."""

PROFILES: Mapping[str, Profile] = MappingProxyType({p.name: p for p in (LAUNCH, UPDATE_0731)})


def profile(name: str) -> Profile:
    """The profile called `name`; EncodingError if there is none."""
    if name not in PROFILES:
        raise EncodingError(
            f"unknown prompt profile {name!r}", hint="choose one of " + ", ".join(PROFILES)
        )
    return PROFILES[name]
