"""`dsv4 generate`: one answer, or one continuation, to standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from dsv4.cli.options import (
    Effort,
    JsonOption,
    MaxTokens,
    MemoryLimit,
    MinP,
    ModelArgument,
    NumericsOption,
    Seed,
    Temperature,
    ThreadsOption,
    TopK,
    TopP,
)


def generate(
    model: ModelArgument,
    prompt: Annotated[
        str, typer.Argument(help="The text; - reads standard input.", metavar="PROMPT")
    ],
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask it as a user's message instead of continuing it.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System message (with --chat).")] = None,
    thinking: Effort = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    numerics: NumericsOption = "fast",
    threads: ThreadsOption = None,
    memory_limit: MemoryLimit = None,
    as_json: JsonOption = False,
) -> None:
    """Continue a text, or answer a prompt, once.

    The text is printed as it comes; with --chat, reasoning goes to standard error. Options left
    out are as the model folder says.
    """
    import dsv4
    from dsv4.chat.answer import Finish, Logprobs, Shown
    from dsv4.chat.request import check_effort
    from dsv4.cli.console import Done, after_prompt, read_input, write_json
    from dsv4.cli.loading import load
    from dsv4.encoding.events import ContentDelta, Event, ReasoningDelta
    from dsv4.errors import UsageError

    if not chat and (system is not None or thinking is not None):
        raise UsageError("--system and --thinking need --chat", "add --chat")
    if thinking is not None:
        check_effort(thinking)
    text = read_input() if prompt == "-" else prompt
    engine = dsv4.Engine(load(model, numerics, threads, memory_limit))
    sampling = engine.model.defaults.sampling(
        seed, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p
    )

    def answer(done: Done) -> Iterator[Shown]:
        if not chat:
            return engine.complete(text, sampling=sampling, max_tokens=max_tokens, progress=done)
        messages = [{"role": "user", "content": text}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return engine.chat(
            messages, thinking=thinking, sampling=sampling, max_tokens=max_tokens, progress=done
        )

    shown: list[Event] = []
    finish: Finish | None = None
    for event in after_prompt(answer):
        if isinstance(event, Finish):
            finish = event
            continue
        if isinstance(event, Logprobs):
            continue
        shown.append(event)
        if as_json:
            continue
        if isinstance(event, ContentDelta):
            print(event.text, end="", flush=True)
        elif isinstance(event, ReasoningDelta):
            print(event.text, end="", flush=True, file=sys.stderr)
    assert finish is not None
    if not as_json:
        print()
        return
    write_json(
        {
            "model": engine.model.name,
            "numerics": engine.model.numerics,
            "content": "".join(e.text for e in shown if isinstance(e, ContentDelta)),
            "reasoning": "".join(e.text for e in shown if isinstance(e, ReasoningDelta)),
            "finish_reason": finish.reason,
            "prompt_tokens": finish.usage.prompt,
            "completion_tokens": finish.usage.completion,
        }
    )
