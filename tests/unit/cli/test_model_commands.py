"""Commands that run a model: logits, score, generate, synth, export, doctor."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dsv4
from dsv4.cli.console import status
from dsv4.cli.main import main

IDS = [5, 80, 130, 22, 19, 270, 60, 61, 62, 63] * 4


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(IDS))
    return path


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("decode", [0, 1, 7, len(IDS)])
def test_logits(tiny_folder: Path, tokens: Path, tmp_path: Path, decode: int) -> None:
    out = tmp_path / "logits.safetensors"
    arguments = ["logits", str(tiny_folder), "--tokens", str(tokens), "--out", str(out)]
    assert main([*arguments, "--decode", str(decode)]) == 0
    written = load_file(out)["logits"]
    expected = dsv4.load(tiny_folder).logits(IDS)
    assert written.shape == expected.shape and written.dtype == torch.float32
    assert relative(written, expected) < 1e-5
    with safe_open(out, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["numerics"] == "exact" and metadata["decode"] == str(decode)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_numerics_change_the_logits(tiny_folder: Path, tokens: Path, tmp_path: Path) -> None:
    out = tmp_path / "logits.safetensors"
    arguments = ["logits", str(tiny_folder), "--tokens", str(tokens), "--out", str(out)]
    assert main([*arguments, "--numerics", "official"]) == 0
    difference = relative(load_file(out)["logits"], dsv4.load(tiny_folder).logits(IDS))
    assert 1e-4 < difference < 1


def test_three_forms_of_a_tokens_file(tiny_folder: Path, tokens: Path, tmp_path: Path) -> None:
    plain = tmp_path / "tokens.txt"
    plain.write_text("\n".join(map(str, IDS)) + "\n")
    tensors = tmp_path / "tokens.safetensors"
    save_file({"tokens": torch.tensor(IDS, dtype=torch.int32)}, tensors)
    results = []
    for path in (tokens, plain, tensors):
        out = tmp_path / f"{path.suffix[1:]}.safetensors"
        assert main(["logits", str(tiny_folder), "--tokens", str(path), "--out", str(out)]) == 0
        results.append(load_file(out)["logits"])
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", 2),
        ("[1, 2", 2),
        ("[1, 2.5]", 2),
        ('{"a": 1}', 2),
        ("one two", 2),
        ("1 2 99999", 2),
        ("1 -2", 2),
        ("1 " + "9" * 26, 2),
        (f"[{'9' * 26}]", 2),
        ("[" * 100_000, 2),
    ],
)
def test_bad_tokens(
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    code: int,
) -> None:
    path, out = tmp_path / "tokens.txt", tmp_path / "out.safetensors"
    path.write_text(content)
    arguments = ["logits", str(tiny_folder), "--tokens", str(path), "--out", str(out)]
    assert main(arguments) == code
    assert capsys.readouterr().err.startswith("error: ")
    assert not out.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["tokens.txt"]


def test_broken_tokens_tensor(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens.safetensors"
    for content in ({"other": torch.tensor([1])}, {"tokens": torch.tensor([0.5])}):
        save_file(content, path)
        arguments = ["logits", str(tiny_folder), "--tokens", str(path), "--out", str(path) + ".o"]
        assert main(arguments) == 2
    path.write_bytes(path.read_bytes()[:20])
    assert main(arguments) == 2
    assert "not a sound safetensors file" in capsys.readouterr().err


def test_places_that_cannot_be_written(
    tiny_folder: Path, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "missing" / "out.safetensors"
    assert main(["logits", str(tiny_folder), "--tokens", str(tokens), "--out", str(out)]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_only_plain_files_are_written(
    tiny_folder: Path, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device, loop = tmp_path / "device", tmp_path / "loop"
    device.symlink_to("/dev/null")
    loop.symlink_to(loop)
    for out in (Path("/dev/null"), device, tmp_path, loop):
        assert main(["logits", str(tiny_folder), "--tokens", str(tokens), "--out", str(out)]) == 2
        assert "error: " in capsys.readouterr().err
    assert Path("/dev/null").is_char_device() and device.is_symlink()


def test_the_target_of_a_link_is_written(tiny_folder: Path, tokens: Path, tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target.safetensors"
    target.write_bytes(b"old")
    link.symlink_to(target)
    assert main(["logits", str(tiny_folder), "--tokens", str(tokens), "--out", str(link)]) == 0
    assert link.is_symlink() and load_file(target)["logits"].shape[0] == len(IDS)


def test_weights_that_lead_to_no_numbers(
    tiny_folder: Path,
    tokens: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = dsv4.load(tiny_folder)
    broken = torch.full_like(model.transformer.norm.weight, float("nan"))
    model.transformer.norm.weight = torch.nn.Parameter(broken, requires_grad=False)
    monkeypatch.setattr("dsv4.cli.loading.load", lambda *_: model)
    text, out = tmp_path / "text.txt", tmp_path / "o.safetensors"
    text.write_text("hello")
    assert main(["logits", "tiny", "--tokens", str(tokens), "--out", str(out)]) == 4
    assert not out.exists()
    assert main(["score", "tiny", "--text", str(text)]) == 4
    assert capsys.readouterr().err.count("not finite") == 2


def test_decode_longer_than_the_tokens(tiny_folder: Path, tokens: Path, tmp_path: Path) -> None:
    arguments = ["logits", str(tiny_folder), "--tokens", str(tokens), "--decode", "41"]
    assert main([*arguments, "--out", str(tmp_path / "o.safetensors")]) == 2


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_truncated_weights(
    tiny_folder: Path,
    tokens: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cut: int,
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "cut")
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:cut])
    out = tmp_path / "o.safetensors"
    assert main(["logits", str(folder), "--tokens", str(tokens), "--out", str(out)]) == 4
    error, hint = capsys.readouterr().err.splitlines()
    assert file.name in error and hint.startswith("hint: ")


def test_score(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Grüße, world.\r\n" * 40
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    assert main(["score", str(tiny_folder), "--text", str(path), "--json"]) == 0
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    model = dsv4.load(tiny_folder)
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode(text)]
    expected = model.logits(ids[:-1]).double().log_softmax(-1)
    picked = expected.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    given = [token["logprob"] for token in read["token_logprobs"]]
    assert given == pytest.approx(picked.tolist(), abs=1e-4)
    assert read["bytes"] == len(text.encode()) == read["tokens"]
    assert read["nll_per_token"] == pytest.approx(-float(picked.mean()))
    assert read["perplexity"] == pytest.approx(math.exp(read["nll_per_token"]))
    # One token per byte: bits per byte is the loss in bits.
    assert read["bits_per_byte"] == pytest.approx(read["nll_per_token"] / math.log(2))


def test_score_of_standard_input_as_text(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    assert main(["score", str(tiny_folder), "--text", "-"]) == 0
    assert "bits per byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [["generate", "-"], ["score", "--text", "-"], ["chat"]], ids=lambda c: c[0]
)
def test_standard_input_that_is_no_text(
    tiny_folder: Path,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", stream)
    assert main([command[0], str(tiny_folder), *command[1:]]) == 2
    assert "standard input is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xfa"])
def test_texts_that_can_not_be_scored(tiny_folder: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert main(["score", str(tiny_folder), "--text", str(path)]) == 2


def generated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["generate", *arguments, "--json"]) == 0
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    return read


def test_generate(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [str(tiny_folder), "Once", "--max-tokens", "12", "--seed", "4"]
    first = generated(capsys, *options)
    assert generated(capsys, *options) == first
    assert generated(capsys, *options[:-1], "5")["content"] != first["content"]
    assert first["completion_tokens"] <= 12 and first["prompt_tokens"] == 5
    assert main(["generate", *options]) == 0
    assert capsys.readouterr().out == first["content"] + "\n"


@pytest.mark.parametrize("options", [[], ["--chat"]])
def test_a_bar_shows_the_prompt_being_read(
    tiny_folder: Path,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []

    @contextmanager
    def progress(label: str, total: int | None = None) -> Iterator[Any]:
        yield lambda done, total: seen.append((done, total))
        assert capsys.readouterr().out == ""  # the bar is gone before the answer starts

    monkeypatch.setattr("dsv4.cli.console.progress", progress)
    assert main(["generate", str(tiny_folder), "x" * 600, "--max-tokens", "2", *options]) == 0
    total = seen[-1][0]
    assert seen == [(512, total), (total, total)] and total > 600


def test_a_status_is_shown_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with status("loading"):
        assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with status("loading"):
        assert capsys.readouterr().err == "loading ..."
    assert capsys.readouterr().err == "\r\x1b[K"


def test_generate_as_chat(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tiny_folder), "hi", "--chat", "--system", "You are brief.", "--seed", "1"]
    read = generated(capsys, *arguments, "--thinking", "high", "--max-tokens", "5")
    # BOS, system, <User>, question, <Assistant>, <think>: one token per byte and marker.
    assert read["prompt_tokens"] == 1 + len("You are brief.") + 1 + 2 + 1 + 1
    assert read["content"] == "" or read["reasoning"] != ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--temperature", "3"],
        ["--top-p", "0"],
        ["--thinking", "high"],
        ["--chat", "--thinking", "enormous"],
        ["--numerics", "sloppy"],
    ],
)
def test_bad_generate_options(tiny_folder: Path, arguments: list[str]) -> None:
    assert main(["generate", str(tiny_folder), "x", *arguments]) == 2


def test_synth_a_cut_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model"
    arguments = ["synth", "--preset", "tiny", "--layers", "3", str(out)]
    assert main(arguments) == 0
    assert dsv4.load(out).config.num_hidden_layers == 3
    assert main(arguments) == 4  # it is there already
    assert "already holds a model" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert main(["synth", "--preset", "tiny", "--layers", "6", str(tmp_path / "x")]) == 2
    assert main(["synth", "--preset", "huge", str(tmp_path / "x")]) == 3


def test_synth_from_a_config_file(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert main(["synth", "--preset", str(tiny_folder / "config.json"), str(out)]) == 0
    assert dsv4.load(out).config == dsv4.load(tiny_folder).config


@pytest.mark.parametrize("layout", ["released", "transformers"])
def test_export_keeps_the_logits(tiny_folder: Path, tmp_path: Path, layout: str) -> None:
    out = tmp_path / "model"
    assert main(["export", str(tiny_folder), str(out), "--layout", layout]) == 0
    exported, original = dsv4.load(out), dsv4.load(tiny_folder)
    assert relative(exported.logits(IDS), original.logits(IDS)) < 1e-5
    assert exported.tokenizer.encode("x") == original.tokenizer.encode("x")
    assert exported.defaults == original.defaults


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["torch"] == torch.__version__
    assert {"op", "backend", "reason"} == set(read["ops"][0])
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "attend" in text and "reference" in text
