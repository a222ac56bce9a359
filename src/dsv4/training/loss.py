"""The training objective: next token, MTP, expert balance; and the routing bias, moved by load.

Dimensions: B rows, T positions, N = B * T, V vocabulary, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dsv4 import ops
from dsv4.data.batches import Batch
from dsv4.model.parameters import Dense
from dsv4.numerics.policy import Numerics

BALANCE_WEIGHT = 1e-4


class Routing(Protocol):
    """What `dsv4.model` reports about one MoE layer."""

    @property
    def scores_NE(self) -> Tensor: ...
    @property
    def experts_NK(self) -> Tensor: ...


class Features(Protocol):
    """A forward pass of `dsv4.model` up to the head."""

    @property
    def x_BTD(self) -> Tensor: ...
    @property
    def streams_BTSD(self) -> Tensor: ...
    @property
    def routing(self) -> Sequence[Routing]: ...


class LanguageModel(Protocol):
    """The part of `dsv4.model.Transformer` that training runs."""

    mtp: nn.ModuleList
    head: Dense
    numerics: Numerics

    def features(self, ids_BT: Tensor) -> Features: ...
    def next_features(self, streams_BTSD: Tensor, next_ids_BT: Tensor) -> Features: ...


@dataclass(frozen=True)
class Losses:
    """Sums over the tokens of one micro-batch, and the load of every layer.

    total: what is differentiated, already divided by the step's targets. The others are not.
    token, mtp: summed cross-entropies; targets, mtp_targets: how many tokens they sum over.
    balance: balance loss, mean over layers. load: layer -> tokens per expert [E].
    """

    total: Tensor
    token: Tensor
    mtp: Tensor
    targets: int
    mtp_targets: int
    balance: Tensor
    load: dict[int, Tensor]


def count_targets(batches: Iterable[Batch]) -> int:
    """Tokens predicted in the batches: all that are learned but the first of each row."""
    return sum(int(batch.predicted_BT(1).sum()) for batch in batches)


def compute_losses(
    model: LanguageModel, batch: Batch, *, targets: int, mtp_weight: float, hash_layers: int
) -> Losses:
    """Run the model on a micro-batch.

    targets: predicted tokens of the whole optimizer step, so that gradients of micro-batches sum
    to those of one large batch. hash_layers: layers below it route by token id, so neither loss
    nor bias acts on them.
    """
    output = model.features(batch.ids_BT)
    token, count = cross_entropy(model, output, batch, ahead=1)
    layers = [(choice, batch.valid_BT()) for choice in output.routing]
    mtp, mtp_count = torch.zeros(()), 0
    if mtp_weight and model.mtp:
        following = torch.roll(batch.ids_BT, -1, dims=1)
        drafted = model.next_features(output.streams_BTSD, following)
        mtp, mtp_count = cross_entropy(model, drafted, batch, ahead=2)
        # The last token of a row has no next one for the MTP block to read.
        layers += [(choice, batch.valid_BT(1)) for choice in drafted.routing]
    routed = {number: layers[number] for number in range(hash_layers, len(layers))}
    balance = torch.zeros(())
    for choice, valid_BT in routed.values():
        balance = balance + balance_loss(choice, valid_BT) / len(routed)
    share = count / max(targets, 1)
    total = (token + mtp_weight * mtp) / max(targets, 1) + BALANCE_WEIGHT * balance * share
    return Losses(
        total,
        token.detach(),
        mtp.detach(),
        count,
        mtp_count,
        balance.detach(),
        {number: expert_load(*layer) for number, layer in routed.items()},
    )


def cross_entropy(
    model: LanguageModel, output: Features, batch: Batch, ahead: int
) -> tuple[Tensor, int]:
    """Summed cross-entropy of the token `ahead` positions later, and how many were summed."""
    chosen = batch.predicted_BT(ahead).flatten().nonzero().squeeze(1)
    wanted = torch.roll(batch.ids_BT, -ahead, dims=1).flatten()[chosen]
    x_ND = output.x_BTD.flatten(0, 1).index_select(0, chosen)
    return ops.head_loss(x_ND, model.head.weight, wanted, model.numerics), len(chosen)


def balance_loss(routing: Routing, valid_BT: Tensor) -> Tensor:
    """Sequence-wise balance loss, mean over rows (V3 report, equations 17-20).

    Per row: sum_e f_e P_e, with f_e = E / (K T) times the tokens that chose e and P_e the mean
    affinity of e after normalising each token's affinities to 1. It is 1 at perfect balance.
    """
    rows, experts = valid_BT.shape[0], routing.scores_NE.shape[1]
    weight_BT1 = (valid_BT / valid_BT.sum(1, keepdim=True).clamp_min(1)).unsqueeze(2)
    share_NE = routing.scores_NE / routing.scores_NE.sum(1, keepdim=True)
    mean_BE = (share_NE.view(rows, -1, experts) * weight_BT1).sum(1)
    chosen_NE = torch.zeros_like(share_NE).scatter_(1, routing.experts_NK, 1.0)
    often_BE = (chosen_NE.view(rows, -1, experts) * weight_BT1).sum(1)
    often_BE = often_BE * (experts / routing.experts_NK.shape[1])
    return (often_BE * mean_BE).sum(1).mean()


def expert_load(routing: Routing, valid_BT: Tensor) -> Tensor:
    """Tokens each expert received [E], padding not counted."""
    counted_NK = valid_BT.flatten().long()[:, None].expand_as(routing.experts_NK)
    load_E = counted_NK.new_zeros(routing.scores_NE.shape[1])
    return load_E.scatter_add_(0, routing.experts_NK.flatten(), counted_NK.flatten())


@torch.no_grad()
def move_biases(biases: dict[int, Tensor], load: dict[int, Tensor], speed: float) -> None:
    """Auxiliary-loss-free balancing: overloaded experts lose bias, starved ones gain it.

    Layers without a load (those of an MTP block that is not trained yet) stay as they are.
    """
    for layer in biases.keys() & load.keys():
        bias, counts = biases[layer], load[layer].float()
        bias += speed * torch.sign(counts.mean() - counts)
