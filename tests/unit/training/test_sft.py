"""Fine-tuning: what is learned, from which weights, in how many steps."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from tests.unit.training.small import small_folder

from dsv4 import checkpoint
from dsv4.data.batches import Position
from dsv4.data.corpora import Source
from dsv4.encoding.control import ASSISTANT, THINK_CLOSE
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import CheckpointError, DataError, UsageError
from dsv4.training import Schedule
from dsv4.training.initial import initial_model
from dsv4.training.language import LanguageObjective, Stream
from dsv4.training.sft import SftConfig, fine_tune, prepare

STEPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_folder(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Tell me what comes after {i}, please."},
                {"role": "assistant", "content": "The next one is it."},
            ]
        }
        for i in range(40)
    ]
    (folder / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def settings(folder, corpora, out, **changes):
    source = Source("talk", "talk.jsonl", 1.0, "CC0", split="train")
    plan = SftConfig(
        init=folder,
        sources=(source,),
        corpora=corpora,
        out=out,
        schedule=Schedule(STEPS, lr=0.01, warmup=2, decay=1.0),
        epochs=None,
        heldout=(replace(source, split="heldout"),),
        batch_tokens=256,
        max_length=64,
        quantise_from=1.0,
    )
    return replace(plan, **changes)


def test_only_the_tokens_of_assistants_are_learned(folder, corpora, tmp_path):
    """The loss of a batch, by hand: the answers' tokens and their EOS, nothing that was asked."""
    prepared = prepare(settings(folder, corpora, tmp_path))
    config = prepared.config
    model = initial_model(checkpoint.read_config(folder), folder, 0)
    stream = Stream(prepared.mix, config.schedule, batch_tokens=256, max_length=64, seed=0)
    objective = LanguageObjective(model, model.config, stream, config.schedule)
    (batch,), _ = objective.next(Position(), 0)
    loss = objective.loss(batch, [batch], 0)
    summed, count = loss.sums["loss"]
    logp_BTV = model(batch.ids_BT).logits_BTV.log_softmax(-1)
    by_hand, places = 0.0, 0
    for row, length in enumerate(batch.length_B.tolist()):
        ids = batch.ids_BT[row, :length].tolist()
        for place in range(answer_start(folder, ids), length):
            by_hand -= float(logp_BTV[row, place - 1, ids[place]].detach())
            places += 1
    assert count == places
    assert summed == pytest.approx(by_hand, rel=1e-5)
    assert places < batch.tokens / 2


def answer_start(folder, ids):
    """The place of the first token that the assistant writes."""
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    at = ids.index(tokenizer.control_id(ASSISTANT))
    assert ids[at + 1] == tokenizer.control_id(THINK_CLOSE)
    return at + 2


def test_loss_falls_and_a_cut_run_goes_on_exactly(folder, corpora, tmp_path):
    def run(out, **changes):
        records = []
        prepared = prepare(settings(folder, corpora, tmp_path / out, **changes))
        return fine_tune(prepared, report=records.append), records

    def numbers(records):
        return [(r["loss"], r["grad_norm"], r.get("validation_loss")) for r in records]

    whole, records = run("whole")
    assert whole.finished and len(records) == STEPS
    assert records[-1]["loss"] < records[0]["loss"] - 1
    assert records[-1]["validation_loss"] < records[0]["loss"] - 1
    cut, first = run("cut", max_minutes=0.0)
    assert not cut.finished and cut.step == 1
    again, rest = run("cut")
    assert numbers([*first, *rest]) == numbers(records)
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_what_is_frozen_stays_and_the_rest_moves(folder, corpora, tmp_path):
    frozen = ("embed", "layers.0.attn.")
    before = dict(initial_model(checkpoint.read_config(folder), folder, 0).named_parameters())
    for minutes in (0.0, None):  # the second run goes on
        plan = settings(folder, corpora, tmp_path, frozen=frozen, max_minutes=minutes)
        trained = fine_tune(prepare(plan))
    assert trained.finished
    after = dict(trained.model.named_parameters())
    for name, value in after.items():
        if any(part in name for part in frozen):
            assert torch.equal(value, before[name]), name
    for name in ("head.weight", "layers.1.attn.wkv.weight", "layers.1.ffn.gate.bias"):
        assert not torch.equal(after[name], before[name]), name
    plan = settings(folder, corpora, tmp_path / "routers", frozen=(".gate.",))
    for name, value in fine_tune(prepare(plan)).model.named_parameters():
        assert ".gate." not in name or torch.equal(value, before[name]), name
    for parts, told in (
        (("layer.",), "no parameter has 'layer.'"),
        (("",), "no parameter has ''"),
        (tuple(before), "nothing is left"),
    ):
        with pytest.raises(UsageError, match=told):
            fine_tune(prepare(replace(plan, frozen=parts)))


def test_a_run_with_another_vocabulary_keeps_its_folder(folder, corpora, tmp_path):
    fine_tune(prepare(settings(folder, corpora, tmp_path / "run", max_minutes=0.0)))
    other = shutil.copytree(folder, tmp_path / "other")
    text = (folder / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text + " ")
    with pytest.raises(UsageError, match="a run with another tokenizer"):
        prepare(settings(other, corpora, tmp_path / "run"))
    assert (tmp_path / "run" / "tokenizer.json").read_text() == text


def test_epochs_become_steps(folder, corpora, tmp_path):
    plan = settings(folder, corpora, tmp_path, epochs=2.0)
    prepared = prepare(plan)
    documents = prepared.mix.shards[0].documents
    passes = math.ceil(documents / (256 // 64))
    assert prepared.config.schedule.steps == 2 * passes
    for epochs in (math.inf, math.nan, 0.0):
        with pytest.raises(UsageError, match="passes over the documents"):
            prepare(replace(plan, epochs=epochs))
    half = prepare(replace(plan, schedule=replace(plan.schedule, accumulate=2)))
    assert half.config.schedule.steps == passes


def test_mistakes(folder, corpora, tmp_path):
    given = settings(folder, corpora, tmp_path)
    with pytest.raises(DataError, match=r"no file matches"):
        prepare(replace(given, sources=(Source("none", "none.jsonl", 1.0, "CC0"),)))
    (tmp_path / "asked").mkdir()
    asked = {"messages": [{"role": "user", "content": "And?"}]}
    (tmp_path / "asked" / "a.jsonl").write_text(json.dumps(asked))
    with pytest.raises((UsageError, DataError)):
        source = Source("asked", "a.jsonl", 1.0, "CC0")
        prepare(replace(given, sources=(source,), corpora=tmp_path / "asked", heldout=()))
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in folder.iterdir():
        if path.name != "tokenizer.json":
            (bare / path.name).symlink_to(path)
    with pytest.raises(CheckpointError, match="tokenizer"):
        prepare(replace(given, init=bare))
