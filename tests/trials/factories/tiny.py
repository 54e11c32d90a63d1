"""A decoder of plain PyTorch, as a user might write one."""

import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHT_STD = 0.05
"""So small that bf16, with its 8 bits, keeps the better part of what a step of 1e-4 changes."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=WEIGHT_STD)


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=WEIGHT_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(Linear(width, 2 * width), nn.GELU(), Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.before_mlp(x))


class Decoder(nn.Module):
    def __init__(self, vocab_size: int = 96, width: int = 32, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.tokens = Embedding(vocab_size, width)
        self.positions = Embedding(64, width)
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.normalised = nn.LayerNorm(width, elementwise_affine=False)
        self.head = Linear(width, vocab_size, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.normalised(x))[:, :-1].float()
        return functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def build() -> Decoder:
    return Decoder()
