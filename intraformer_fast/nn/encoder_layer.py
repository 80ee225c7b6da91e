"""The layer of an ordinary Transformer's encoder, by the fused block where that serves it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraformer_fast.nn.attention import BlockSelfAttention, check_backend
from intraformer_fast.nn.packed import forget, packed_weights
from intraformer_fast.ops import encoder_block, routing


class FusedEncoderLayer(nn.TransformerEncoderLayer):
    """`torch.nn.TransformerEncoderLayer` that is one fused op in inference on the CPU.

    Its constructor, parameters, state_dict and call are those of `torch.nn.TransformerEncoderLayer`, and it is one. With
    SA the self-attention and FFN(x) = W_2 activation(W_1 x + b_1) + b_2,

        norm_first=False:  h = norm1(x + SA(x)),   y = norm2(h + FFN(h))
        norm_first=True:   h = x + SA(norm1(x)),   y = h + FFN(norm2(h))

    What the op does not serve (gradients, a src_mask, other activations than ReLU and exact GELU, hooks on the parts, other dtypes and
    devices) `torch.nn.TransformerEncoderLayer` computes, its attention by `BlockSelfAttention`; `intraformer_fast.explain` says which.

    Args:
        args, kwargs: those of `torch.nn.TransformerEncoderLayer`.
        backend: "auto", "reference" or "cpu", of the layer as a whole. A named one that cannot serve a call raises and says why.

    Raises:
        ValueError: there is no such backend.
    """

    # Of a module that was made as a torch.nn.TransformerEncoderLayer (intraformer_fast.accelerate).
    backend = "auto"

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backend = check_backend(backend)
        self.self_attn.__class__ = BlockSelfAttention

    def train(self, mode: bool = True) -> "FusedEncoderLayer":
        """As `torch.nn.Module.train`; going into training also frees the packed weights of inference."""
        if mode:
            forget(self)
        return super().train(mode)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """As `torch.nn.TransformerEncoderLayer.forward`.

        Returns:
            The shape of `src`. As in torch, padding asks like any other token; a sequence of padding alone, which torch makes NaN, is
            here what its tokens are with attention 0.

        Raises:
            NotImplementedError: a named backend cannot serve the call.
        """
        compiling = torch.compiler.is_compiling()
        refused = ["the call is being compiled, and packed weights are kept outside a graph"] if compiling else []
        refused = refused or self._refused(src, src_mask, src_key_padding_mask, is_causal)
        if refused:
            routing.select("encoder_block", src, backend=self.backend, refused=refused)
            return super().forward(src, src_mask, src_key_padding_mask, is_causal)
        attention = self.self_attn
        tokens, valid = src if attention.batch_first else src.transpose(0, 1), None
        if src.is_nested:  # as TransformerEncoder hands on what was padded
            lengths = torch.tensor([len(sequence) for sequence in src.unbind()])
            tokens = torch.nested.to_padded_tensor(src, 0.0)
            valid = torch.arange(tokens.shape[1]) < lengths[:, None]
        elif src_key_padding_mask is not None:
            padding = src_key_padding_mask
            valid = ~padding if padding.dtype == torch.bool else padding == 0
        parameters = self._parameters_of_block()
        sizes = encoder_block.Sizes(attention.num_heads, self.linear1.out_features, "float32")

        def fused() -> Tensor:
            output = encoder_block.encoder_block(
                tokens,
                valid,
                packed_weights(self, [parameters], sizes),
                sizes,
                anchor_asks=False,
                epsilon=self.norm1.eps,
                post_norm=not self.norm_first,
                relu=_is_relu(self.activation),
                padding_asks=True,
            )
            if src.is_nested and valid is not None:
                return torch._nested_tensor_from_mask(output, valid, mask_check=False)
            return output if attention.batch_first else output.transpose(0, 1)

        def unfused() -> Tensor:
            return super(FusedEncoderLayer, self).forward(src, src_mask, src_key_padding_mask, is_causal)

        module = routing.select(
            "encoder_block",
            *(tokens, valid, parameters, sizes, 0.0),
            backend=self.backend,
            candidates=lambda: {"cpu": fused, "reference": unfused},
        )
        return fused() if module is encoder_block else unfused()

    def _parameters_of_block(self) -> list[Tensor]:
        """In the order of csrc/encoder_block/op.h."""
        attention = self.self_attn
        parameters: list[Tensor] = [
            self.norm1.weight,
            self.norm1.bias,
            attention.in_proj_weight,
            attention.in_proj_bias,
            attention.out_proj.weight,
            attention.out_proj.bias,
            self.norm2.weight,
            self.norm2.bias,
            self.linear1.weight,
            self.linear1.bias,
            self.linear2.weight,
            self.linear2.bias,
        ]
        return parameters

    def _refused(
        self, src: Tensor, src_mask: Tensor | None, src_key_padding_mask: Tensor | None, is_causal: bool
    ) -> list[str]:
        """Why torch's own layer has to compute this."""
        reasons = layer_reasons(self)
        if self.training and any(d.p > 0 for d in (self.dropout, self.dropout1, self.dropout2)):
            reasons.append(f"dropout of {self.dropout.p} is in force (eval() turns it off)")
        if src_mask is not None or is_causal:
            reasons.append("a src_mask is given")
        if torch.is_autocast_enabled("cpu"):
            reasons.append("autocast is on, and torch's layer has rules of its own for what comes out in which dtype")
        if src.dim() != 3 or src.size(-1) != self.linear1.in_features:
            reasons.append(f"src is no batch [B, n, {self.linear1.in_features}]")
        elif src.is_nested and (src.layout != torch.strided or src.device.type != "cpu"):
            reasons.append("src is a nested tensor, and not a strided one on the CPU")
        mask = src_key_padding_mask
        # TransformerEncoder hands its mask on as numbers to add. The check looks at them, which on a GPU would wait for it.
        if mask is not None and mask.is_floating_point() and type(mask) is Tensor and mask.device.type == "cpu":
            known = torch.logical_or(mask == 0, mask == -torch.inf)
            if not known.all():
                reasons.append("src_key_padding_mask adds other numbers than 0 and -inf")
        return reasons


def layer_reasons(layer: nn.TransformerEncoderLayer) -> list[str]:
    """Why the fused block can serve no call of a layer, made as it is; empty where it can."""
    reasons = []
    attention, linears, norms = layer.self_attn, (layer.linear1, layer.linear2), (layer.norm1, layer.norm2)
    if type(attention) not in (nn.MultiheadAttention, BlockSelfAttention) or getattr(attention, "num_blocks", 1) != 1:
        reasons.append("self_attn is not a torch.nn.MultiheadAttention")
    elif attention.in_proj_bias is None or attention.bias_k is not None or attention.add_zero_attn:
        reasons.append("the attention has no biases, or some of its own for keys and values")
    if any(type(linear) is not nn.Linear or linear.bias is None for linear in linears):
        reasons.append("linear1 or linear2 is not a torch.nn.Linear with a bias")
    if any(type(norm) is not nn.LayerNorm or norm.bias is None for norm in norms):
        reasons.append("norm1 or norm2 is not a torch.nn.LayerNorm with weight and bias")
    elif layer.norm1.eps != layer.norm2.eps:
        reasons.append("norm1.eps and norm2.eps differ")
    if not (_is_relu(layer.activation) or _is_gelu(layer.activation)):
        reasons.append("the activation is neither ReLU nor exact GELU")
    if any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules() if part is not layer):
        reasons.append("hooks are attached to its parts, which the fused block does not call")
    return reasons


def _is_relu(activation: object) -> bool:
    return activation is F.relu or isinstance(activation, nn.ReLU)


def _is_gelu(activation: object) -> bool:
    return activation is F.gelu or (isinstance(activation, nn.GELU) and activation.approximate == "none")
