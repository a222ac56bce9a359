"""Entry point of the `dsv4` command: finds the subcommand, runs it, shows its errors.

A subcommand `x-y` is the function `x_y` in `dsv4.cli.x_y`. Only the module of the command being run
is imported, and inside it heavy imports stand in the function that needs them; that keeps
`dsv4 --help` fast.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from dsv4.errors import Dsv4Error
from dsv4.version import __version__

COMMANDS = {
    "chat": "Talk to a model in the terminal.",
    "generate": "Continue a text, or answer a prompt, once.",
    "serve": "Serve a model over HTTP with the APIs of DeepSeek, OpenAI and Anthropic.",
    "batch": "Answer the requests of a file, in OpenAI's batch format.",
    "pack-repo": "Write a whole codebase as one prompt.",
    "logits": "Write the logits of given tokens to a safetensors file.",
    "score": "Measure how well a model predicts a text.",
    "eval": "Measure how good a model is, on data it was not trained on.",
    "verify": "Find out whether a checkpoint is right and this machine computes it right.",
    "bench": "Measure how fast a model runs on this machine.",
    "inspect": "Show sizes, tensors, memory and cost of a configuration or folder.",
    "synth": "Write a random checkpoint of any configuration in the released layout.",
    "cost": "Show what tokens cost on hosted APIs.",
    "doctor": "Show what this machine has and what dsv4 does with it.",
    "train": "Train a model from a text corpus.",
    "sft": "Fine-tune a model on conversations.",
    "lora": "Fine-tune low-rank adapters beside a model's stored FP4 and FP8 weights.",
    "rl": "Train a model on graded tasks with GRPO.",
    "distill": "Train a student towards its teachers' distributions over the whole vocabulary.",
    "export": "Rewrite a model folder in another layout, or with an adapter merged.",
    "engram": "Give a model an Engram, a memory of n-grams.",
}
"""Subcommands in the order the help shows them, with their one-line summary."""


class _Commands(TyperGroup):
    """Subcommands that are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        function = cmd_name.replace("-", "_")
        module = importlib.import_module(f"dsv4.cli.{function}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(cmd_name, no_args_is_help=False)(getattr(module, function))
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dsv4 {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    name="dsv4",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def dsv4(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; may follow any command.")
    ] = False,
) -> None:
    """DeepSeek-V4 as one package: the exact model, an engine, an API and the training.

    A MODEL is `nano` (bundled), a folder in the released or the transformers layout, or a hub
    id. Results go to standard output, everything else to standard error.
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _fail(message: str, hint: str | None, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are shown, never raised."""
    own, separator, rest = _split(arguments)
    debug = "--debug" in own
    own = [argument for argument in own if argument != "--debug"]
    try:
        command: Any = typer.main.get_command(app)
        with command.make_context("dsv4", own + separator + rest) as context:
            command.invoke(context)
        return 0
    except typer.Exit as done:
        return done.exit_code
    except Dsv4Error as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), error.hint, error.exit_code)
    except typer.TyperException as error:
        usage = getattr(getattr(error, "ctx", None), "command_path", "dsv4")
        return _fail(error.format_message(), f"see {usage} --help", error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", None, 130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error. Python would complain
        # once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            traceback.print_exc()
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", "is there such a place, and room?", 1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split()) or "no message"
        hint = None if debug else "this is a bug or a full disk; run again with --debug for details"
        return _fail(f"unexpected {type(error).__name__}: {text[:300]}", hint, 1)


def _split(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Arguments before `--`, the `--` itself if there is one, arguments after it."""
    if "--" not in arguments:
        return arguments, [], []
    cut = arguments.index("--")
    return arguments[:cut], ["--"], arguments[cut + 1 :]


def run() -> NoReturn:
    """Console entry point."""
    sys.exit(main(sys.argv[1:]))
