"""A small transformer that reads patches with their (t, h, w), one probe and one linear head a family.

It is built to find out fast what an input holds, and is not the published encoder: rotations are in true
pairs and act on values too, and the probe stands at (0, 0, 0) with the keys and values that it sees rotated.
A direction is a sign in space times a sign in time; a probe without a place averages displacements that
cancel.

Shapes: B clips, K patches, D width, N heads, d head size, F families, L most labels of a family.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention

from ...modeling.configuration_onevision import ROTARY_SPLIT
from .settings import ClassifierSettings

_TIME_BASE, _SPACE_BASE, _SPACE_TOP = 100.0, 10.0, 1.5


def rotary_table(head_size: int, space: float) -> Tensor:
    """(3, d / 2): by how much each pair turns a step of t, h and w; pairs are divided 4:6:6.

    `space` is the length of a patch in units of eight pixels: the same way is the same angle.
    """
    unit = head_size // 2 // sum(ROTARY_SPLIT)
    table = torch.zeros(3, head_size // 2)
    start = 0
    for axis, part in enumerate(ROTARY_SPLIT):
        steps = torch.arange(part * unit) / (part * unit)
        speeds = _TIME_BASE**-steps if axis == 0 else space * _SPACE_TOP * _SPACE_BASE**-steps
        table[axis, start : start + part * unit] = speeds
        start += part * unit
    return table


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of values; the first half of x holds one member of each pair.

    Args:
        x: (..., d).
        cos: (..., d / 2) of the angles.
        sin: likewise.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def norm(x: Tensor) -> Tensor:
    return nn.functional.rms_norm(x, x.shape[-1:])


class ClassifierMLP(nn.Module):
    def __init__(self, width: int, expansion: int):
        super().__init__()
        self.fc1 = nn.Linear(width, expansion * width, bias=False)
        self.fc2 = nn.Linear(expansion * width, width, bias=False)
        nn.init.zeros_(self.fc2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(relu(self.fc1(x)).square())


class ClassifierLayer(nn.Module):
    def __init__(self, settings: ClassifierSettings):
        super().__init__()
        width = settings.width
        self.heads = settings.heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = ClassifierMLP(width, settings.expansion)
        with torch.no_grad():
            self.qkv.weight[width : 2 * width] = self.qkv.weight[:width]  # a patch first looks at its like

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, K, D) -> (B, K, D).

        Args:
            x: (B, K, D) tokens.
            cos: (B, K, 1, d / 2) of the angles of their positions.
            sin: likewise.
            seen: (B, 1, 1, K) bool, the patches that are there; None: all.
        """
        heads = rotate(self.qkv(norm(x)).unflatten(-1, (3 * self.heads, -1)), cos, sin)
        query, key, value = (part.transpose(1, 2) for part in heads.chunk(3, dim=2))
        read = scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2)
        # Turned back by its own place: a value arrives as it lies from here.
        x = x + self.out(rotate(read, cos, -sin).flatten(2))
        return x + self.mlp(norm(x))


class Probes(nn.Module):
    """One probe a family at (0, 0, 0), and its linear head: (B, K, D) -> (B, F, L)."""

    def __init__(self, width: int, heads: int, expansion: int, families: int, labels: int):
        """A probe a family.

        Args:
            width: of the tokens.
            heads: of the attention.
            expansion: of the MLP.
            families: F.
            labels: L, the most that a family has.
        """
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.randn(families, width))
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = ClassifierMLP(width, expansion)
        self.head = nn.Parameter(torch.zeros(families, width, labels))
        self.bias = nn.Parameter(torch.zeros(families, labels))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, K, D) -> logits (B, F, L).

        Args:
            x: (B, K, D) tokens.
            cos: (B, K, 1, d / 2) of the angles of their positions.
            sin: likewise.
            seen: (B, 1, 1, K) bool, the patches that are there; None: all.
        """
        heads = rotate(self.key_value(norm(x)).unflatten(-1, (2 * self.heads, -1)), cos, sin)
        key, value = (part.transpose(1, 2) for part in heads.chunk(2, dim=2))
        query = norm(self.probe).unflatten(-1, (self.heads, -1)).transpose(0, 1).to(key.dtype)
        read = scaled_dot_product_attention(query.expand(len(x), -1, -1, -1), key, value, attn_mask=seen)
        pooled = self.out(read.transpose(1, 2).flatten(2))
        pooled = norm(pooled + self.mlp(norm(pooled)))
        return torch.einsum("bfd,fdl->bfl", pooled.float(), self.head.float()) + self.bias.float()


class PatchClassifier(nn.Module):
    """Patches (B, K, C*p*p), or tubes (B, K, C*tube*p*p), and positions (B, K, 3) [t, h, w] -> logits
    (B, F, L); or tokens (B, K, E) of a frozen encoder, which are normalised and go to the probes."""

    table: Tensor

    def __init__(
        self,
        settings: ClassifierSettings,
        families: int,
        labels: int,
        tube: int = 1,
        tokens: int = 0,
        is_padded: bool = False,
    ):
        """Random weights.

        Args:
            settings: sizes.
            families: F.
            labels: L, the most that a family has.
            tube: frames of a tube; 1 for patches.
            tokens: E of an encoder's tokens, which are probed instead, without layers of its own.
            is_padded: patches whose t is below 0 are not there.
        """
        super().__init__()
        self.is_padded = is_padded
        self.embed = nn.Linear(tokens or 3 * tube * settings.patch_size**2, settings.width)
        self.layers = nn.ModuleList(
            ClassifierLayer(settings) for _ in range(0 if tokens else settings.layers)
        )
        self.reads_tokens = tokens > 0
        self.probes = Probes(settings.width, settings.heads, settings.expansion, families, labels)
        table = rotary_table(settings.width // settings.heads, settings.patch_size / 8)
        self.register_buffer("table", table, persistent=False)

    def begin_with(self, state: dict[str, Tensor], tube: int = 1) -> "PatchClassifier":
        """The weights of a classifier of patches; a tube is then read as the mean of its frames."""
        weight = state["embed.weight"].unflatten(1, (3, 1, -1)).expand(-1, -1, tube, -1) / tube
        self.load_state_dict(state | {"embed.weight": weight.flatten(1)})
        return self

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        angles = (positions.float() @ self.table.float())[:, :, None]
        x = self.embed(norm(patches) if self.reads_tokens else patches)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        seen = (positions[..., 0] >= 0)[:, None, None] if self.is_padded else None
        for layer in self.layers:
            x = layer(x, cos, sin, seen)
        return self.probes(x, cos, sin, seen)
