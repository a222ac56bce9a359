"""`dsv4 inspect`: the figures of the released models, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsv4.cli.main import main


def facts(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["inspect", *arguments, "--json"]) == 0
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    return read


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "flash",
            "284.33 B parameters, 13.27 B active|69,187 tensors|159,609,485,896 bytes|46 shards|"
            "3,508.8 bytes per token|3.43 GiB|7.30 %|10.1 %",
        ),
        (
            "pro",
            "1573.00 B parameters, 48.85 B active|145,116 tensors|864,704,792,696 bytes|64 shards|"
            "5,023.7 bytes per token|4.91 GiB|10.45 %|26.7 %",
        ),
    ],
)
def test_text(name: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", name]) == 0
    text = capsys.readouterr().out
    for figure in expected.split("|"):
        assert figure in text
    assert "layers.*.ffn.experts.*.w1.weight" in text


def test_json_flash(capsys: pytest.CaptureFixture[str]) -> None:
    read = facts(capsys, "flash")
    assert read["parameters"]["main"] == 284_332_240_471
    assert read["tensors"]["count"] == 69_187
    assert read["tensors"]["bytes"] == 159_609_485_896
    assert read["tensors"]["elements"] == 158_069_433_298
    assert read["layers"] == {"swa": 2, "csa": 21, "hca": 20, "hash_routed": 3, "mtp": 1}
    assert sum(row["count"] for row in read["tensors"]["table"]) == 69_187
    parts = read["parameters"]["parts"]
    assert sum(parts.values()) == read["parameters"]["with_mtp"]


def test_json_pro_elements(capsys: pytest.CaptureFixture[str]) -> None:
    assert facts(capsys, "pro")["tensors"]["elements"] == 861_608_274_846


def test_base_experts_are_fp8(capsys: pytest.CaptureFixture[str]) -> None:
    table = {row["name"]: row for row in facts(capsys, "flash-base")["tensors"]["table"]}
    expert = table["layers.*.ffn.experts.*.w1.weight"]
    assert (expert["dtype"], expert["shape"]) == ("float8_e4m3fn", [2048, 4096])
    assert table["layers.*.ffn.experts.*.w1.scale"]["dtype"] == "float32"


def test_any_context(capsys: pytest.CaptureFixture[str]) -> None:
    read = facts(capsys, "flash", "--context", "10000")
    assert "10000" in read["flops"] and "1048576" in read["flops"]
    assert read["cache"]["at"]["10000"] == pytest.approx(35_088_437.5)


def test_folder(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import safe_open

    read = facts(capsys, str(tiny_folder))
    (file,) = tiny_folder.glob("*.safetensors")
    with safe_open(file, framework="pt") as stored:
        assert read["tensors"]["count"] == len(list(stored.keys()))
    assert read["source"] == str(tiny_folder)


def test_folder_of_only_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dsv4.presets import preset

    (tmp_path / "config.json").write_text(json.dumps(preset("flash").to_released()))
    assert facts(capsys, str(tmp_path))["tensors"]["count"] == 69_187


def test_wrong_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 4
    (tmp_path / "config.json").write_text('{"hidden_sise": 3}')
    assert main(["inspect", str(tmp_path)]) == 3
    assert "did you mean hidden_size?" in capsys.readouterr().err


def test_a_folder_whose_name_looks_like_markup(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[red]x[" / "nope]"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    assert main(["inspect", str(folder)]) == 0
    assert "[red]x[/nope]: 5 layers" in capsys.readouterr().out.replace("\n", "")


def test_the_longest_context(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "flash", "--context", str(1 << 40)]) == 0
    assert f"{1 << 40:,}" in capsys.readouterr().out
