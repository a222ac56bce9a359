"""The native forms of whole sublayers; each computes what its module's op-by-op form means.

Shapes: B batch, T tokens, N = B * T tokens in one row, S residual streams, D hidden channels,
E experts, K experts per token, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsv4.ops.cpu.handles import Handles, require, stored_matrix
from dsv4.ops.cpu.native import native
from dsv4.ops.cpu.views import reached, views


class Connection:
    """One hyper-connection: the input of its sublayer, and the mixing back in of its output."""

    def __init__(self, fn: Tensor, base: Tensor, scale: Tensor, norm: Tensor, config: Any) -> None:
        require(config.hc_mult <= 16, f"{config.hc_mult} residual streams, at most 16")
        self._handles = Handles()
        vector = self._handles.vector
        self.native = native.Connection(
            fn=vector(fn),
            base=vector(base),
            scale=vector(scale),
            norm=vector(norm),
            streams=config.hc_mult,
            width=config.hidden_size,
            iterations=config.hc_sinkhorn_iters,
            hc_eps=config.hc_eps,
            eps=config.rms_norm_eps,
        )

    def enter(self, streams_BTSD: Tensor) -> tuple[Tensor, Tensor]:
        """(normed input `[B, T, D]`, coefficients for `leave`)."""
        B, T, S, D = streams_BTSD.shape
        streams_BTSD = streams_BTSD.contiguous()
        x_BTD = torch.empty(B, T, D)
        mixing = torch.empty(B * T * S * (S + 1))
        post = mixing.data_ptr()
        self.native.enter(
            streams_BTSD.data_ptr(), B * T, x_BTD.data_ptr(), post, post + 4 * B * T * S
        )
        return x_BTD, mixing

    def leave(self, y_BTD: Tensor, streams_BTSD: Tensor, mixing: Tensor) -> Tensor:
        """The streams after the sublayer, `[B, T, S, D]`."""
        B, T, S, _ = streams_BTSD.shape
        streams_BTSD = streams_BTSD.contiguous()
        out_BTSD = torch.empty_like(streams_BTSD)
        post = mixing.data_ptr()
        self.native.leave(
            y_BTD.data_ptr(),
            streams_BTSD.data_ptr(),
            post,
            post + 4 * B * T * S,
            B * T,
            out_BTSD.data_ptr(),
        )
        return out_BTSD


def connections(block: Any) -> tuple[Connection, Connection]:
    """The hyper-connections of a block's attention and of its experts."""
    return (
        Connection(
            block.hc_attn_fn,
            block.hc_attn_base,
            block.hc_attn_scale,
            block.attn_norm.weight,
            block.config,
        ),
        Connection(
            block.hc_ffn_fn,
            block.hc_ffn_base,
            block.hc_ffn_scale,
            block.ffn_norm.weight,
            block.config,
        ),
    )


class Attention:
    """A layer's attention over its packed decoding state."""

    def __init__(self, module: Any) -> None:
        config = module.config
        width, rotated = config.head_dim, config.qk_rope_head_dim
        require((width - rotated) % 8 == 0, f"{width - rotated} channels that are not rotated")
        require(width <= 1024, f"heads of {width} channels, at most 1024")
        require(config.index_head_dim <= 1024, f"index heads of {config.index_head_dim} channels")
        self.ratio = module.ratio
        self._handles = Handles()
        matrix, vector = self._handles.matrix, self._handles.vector
        self.native = native.Attention(
            wq_a=matrix(module.wq_a.weight),
            wq_b=matrix(module.wq_b.weight),
            wkv=matrix(module.wkv.weight),
            wo_a=matrix(module.wo_a.weight),
            wo_b=matrix(module.wo_b.weight),
            q_norm=vector(module.q_norm.weight),
            kv_norm=vector(module.kv_norm.weight),
            sinks=vector(module.attn_sink),
            omega=vector(module.omega()),
            heads=config.num_attention_heads,
            width=width,
            rotated=rotated,
            groups=config.o_groups,
            window=config.sliding_window,
            ratio=module.ratio,
            eps=config.rms_norm_eps,
            compressor=self._compressor(module.compressor),
            indexer=self._indexer(module.indexer),
        )

    def _compressor(self, module: Any) -> Any | None:
        if module is None:
            return None
        matrix, vector = self._handles.matrix, self._handles.vector
        width = module.norm.weight.shape[0]
        return native.Compressor(
            wkv=matrix(module.wkv.weight),
            wgate=matrix(module.wgate.weight),
            ape=vector(module.ape),
            norm=vector(module.norm.weight),
            ratio=module.ratio,
            width=width,
            overlaps=module.ape.shape[1] == 2 * width,
        )

    def _indexer(self, module: Any) -> Any | None:
        if module is None:
            return None
        width = module.compressor.norm.weight.shape[0]
        require(width % 32 == 0 and width & (width - 1) == 0, f"index heads of {width} channels")
        return native.Indexer(
            wq_b=self._handles.matrix(module.wq_b.weight),
            weights_proj=self._handles.matrix(module.weights_proj.weight),
            compressor=self._compressor(module.compressor),
            heads=module.heads,
            topk=module.topk,
            scale=module.scale,
        )

    def __call__(self, x_BTD: Tensor, start: int, state: Any) -> Tensor:
        """Output `[B, T, D]` of tokens at positions `start ...`; extends `state`."""
        B, T, D = x_BTD.shape
        y_BTD = torch.empty(B, T, D)
        extents = [(T, start, state.table.sealed)] * B
        self.native.run(x_BTD.data_ptr(), extents, views(state), y_BTD.data_ptr())
        reached(state, start + T)
        return y_BTD


class Mixture:
    """A layer's experts: routed ones and the shared one."""

    def __init__(self, module: Any) -> None:
        gate = module.gate
        self.experts_per_token = gate.experts_per_token
        require(self.experts_per_token <= 256, f"{self.experts_per_token} experts per token")
        self._handles = Handles()
        self.experts = gate.weight.shape[0]
        self.native = native.Mixture(
            gate=self._handles.matrix(gate.weight),
            bias=0 if gate.bias is None else self._handles.vector(gate.bias),
            table=0 if gate.tid2eid is None else self._handles.integers(gate.tid2eid),
            shared=self._expert(module.shared_experts.matrices()),
            experts=[self._expert(expert.matrices()) for expert in module.experts],
            chosen=self.experts_per_token,
            scale=module.scale,
            limit=module.limit,
        )

    def _expert(self, matrices: tuple[Any, Any, Any]) -> Any:
        return native.Expert(*[self._handles.matrix(weight) for weight in matrices])

    def route(self, x_BTD: Tensor, ids_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(affinities `[N, E]`, experts `[N, K]` int64, their weights `[N, K]`)."""
        N, K = ids_BT.numel(), self.experts_per_token
        scores_NE = torch.empty(N, self.experts)
        experts_NK = torch.empty(N, K, dtype=torch.int64)
        weights_NK = torch.empty(N, K)
        ids = ids_BT.long().contiguous()
        self.native.route(
            x_BTD.data_ptr(),
            ids.data_ptr(),
            N,
            scores_NE.data_ptr(),
            experts_NK.data_ptr(),
            weights_NK.data_ptr(),
        )
        return scores_NE, experts_NK, weights_NK

    def __call__(self, x_BTD: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """The experts' output `[B, T, D]`."""
        y_BTD = torch.empty_like(x_BTD)
        self.native.run(
            x_BTD.data_ptr(),
            experts_NK.shape[0],
            experts_NK.data_ptr(),
            weights_NK.data_ptr(),
            None,
            True,
            0,
            y_BTD.data_ptr(),
        )
        return y_BTD


class StreamedMixture(Mixture):
    """Experts that a source brings into memory, some of them at a time."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._source, self._layer = module.source, module.layer

    def __call__(self, x_BTD: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
        source, layer = self._source, self._layer
        groups = source.groups(layer, experts_NK.flatten().tolist())
        y_BTD = torch.empty_like(x_BTD)
        # Outputs of single experts wait here for the last one, so that they are added up in the
        # same order whenever they came.
        parts = torch.empty(experts_NK.numel() + experts_NK.shape[0], x_BTD.shape[-1])

        def compute(ready: dict[int, Any], also: list[int], last: bool) -> None:
            for expert, weights in ready.items():
                matrices = native.Expert(*[stored_matrix(weight) for weight in weights])
                self.native.set_expert(expert, matrices)
            self.native.run(
                x_BTD.data_ptr(),
                experts_NK.shape[0],
                experts_NK.data_ptr(),
                weights_NK.data_ptr(),
                [*ready, *also],
                last,
                parts.data_ptr(),
                y_BTD.data_ptr(),
            )

        for i, group in enumerate(groups):
            final = i + 1 == len(groups)
            ready = source.acquire(layer, group)
            try:
                if not final:
                    source.prefetch(layer, groups[i + 1])
                waiting = set(group) - ready.keys()
                # The shared expert is always there: something to do while others come.
                compute(ready, [self.experts] if i == 0 else [], final and not waiting)
                while waiting:
                    ready = source.arrived(layer, waiting)
                    waiting -= ready.keys()
                    compute(ready, [], final and not waiting)
            finally:
                source.release(layer, group)
        return y_BTD


def mixture(module: Any) -> Mixture:
    """The experts of a layer, in memory or streamed."""
    return Mixture(module) if module.source is None else StreamedMixture(module)


class Collapse:
    """The final collapse of the streams and its norm; `module` holds both."""

    def __init__(self, module: Any) -> None:
        config = module.config
        self._handles = Handles()
        vector = self._handles.vector
        self.native = native.Collapse(
            fn=vector(module.hc_head_fn),
            base=vector(module.hc_head_base),
            scale=vector(module.hc_head_scale),
            norm=vector(module.norm.weight),
            streams=config.hc_mult,
            width=config.hidden_size,
            hc_eps=config.hc_eps,
            eps=config.rms_norm_eps,
        )

    def __call__(self, streams_BTSD: Tensor) -> Tensor:
        """Normed `[B, T, D]`."""
        B, T, _, D = streams_BTSD.shape
        streams_BTSD = streams_BTSD.contiguous()
        x_BTD = torch.empty(B, T, D)
        self.native.run(streams_BTSD.data_ptr(), B * T, x_BTD.data_ptr())
        return x_BTD


class Linear:
    """One product: `x[..., I] @ weight[O, I].T`, float32."""

    def __init__(self, module: Any) -> None:
        self._handles = Handles()
        self._matrix = self._handles.matrix(module.weight)
        self._outputs, self._inputs = module.weight.shape

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        y = torch.empty(*x.shape[:-1], self._outputs)
        native.multiply(x.data_ptr(), x.numel() // self._inputs, self._matrix, y.data_ptr())
        return y
