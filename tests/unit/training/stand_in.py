"""A model with the interface of the real one that trains in milliseconds."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from dsv4.numerics.policy import EXACT
from dsv4.presets import preset

CONFIG = replace(preset("tiny"), vocab_size=64, hidden_size=32, num_hidden_layers=1,
                 compress_ratios=(0, 0), num_hash_layers=0, n_routed_experts=4,
                 num_experts_per_tok=2)  # fmt: skip


@dataclass(frozen=True)
class Routing:
    scores_NE: torch.Tensor
    experts_NK: torch.Tensor


@dataclass(frozen=True)
class Features:
    x_BTD: torch.Tensor
    streams_BTSD: torch.Tensor
    routing: tuple[Routing, ...]


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 32))
        self.bias = nn.Parameter(torch.zeros(4), requires_grad=False)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.ffn = nn.Module()
        self.ffn.gate = Gate()
        self.mix = nn.Linear(32, 32, bias=False)

    def forward(self, x):
        scores = torch.sigmoid(x.flatten(0, 1) @ self.ffn.gate.weight.T)
        chosen = (scores + self.ffn.gate.bias).topk(2).indices
        return x + torch.tanh(self.mix(x)), Routing(scores, chosen)


class Bigram(nn.Module):
    """Predicts a token from the one before it, and the token after next from two."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(64, 32)
        self.layers = nn.ModuleList([Layer()])
        self.mtp = nn.ModuleList([Layer()])
        self.head = nn.Linear(32, 64, bias=False)
        self.numerics = EXACT

    def features(self, ids_BT):
        x, routing = self.layers[0](self.embed(ids_BT))
        return Features(x, x[:, :, None], (routing,))

    def next_features(self, streams_BTSD, next_ids_BT):
        x, routing = self.mtp[0](streams_BTSD[:, :, 0] + self.embed(next_ids_BT))
        return Features(x, streams_BTSD, (routing,))
