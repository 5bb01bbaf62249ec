"""Attention backends, masks, packed batches and compilation give one and the same encoder.

Run: python -m pytest tests/modeling/test_onevision_attention.py
"""

from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from onevision_hf import OneVisionConfig, OneVisionModel
from onevision_hf.modeling import modeling_onevision


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def model() -> OneVisionModel:
    torch.manual_seed(0)
    return OneVisionModel(OneVisionConfig.tiny(initializer_range=0.2)).eval()


class Clips:
    """Patches of several clips of unequal length, alone, padded with garbage, and packed."""

    def __init__(self, lengths: list[int]):
        generator = torch.Generator().manual_seed(len(lengths))
        total = sum(lengths)
        self.lengths = lengths
        self.patches = torch.randn(total, 588, generator=generator)
        self.positions = torch.randint(0, 60, (total, 3), generator=generator)

    def alone(self):
        for patches, positions in zip(
            self.patches.split(self.lengths), self.positions.split(self.lengths), strict=True
        ):
            yield {"pixel_values_videos": patches[None], "patch_positions": positions[None]}

    def padded(self, garbage: float = 1e4) -> dict[str, torch.Tensor]:
        def pad(rows, value):
            return pad_sequence(rows.split(self.lengths), batch_first=True, padding_value=value)

        mask = pad(torch.ones(len(self.patches), dtype=torch.bool), False)
        return {
            "pixel_values_videos": pad(self.patches, garbage),
            "patch_positions": pad(self.positions, -5),
            "pixel_attention_mask": mask,
        }

    def packed(self) -> dict[str, torch.Tensor]:
        bounds = torch.tensor([0, *self.lengths]).cumsum(0).int()
        return {"pixel_values_videos": self.patches, "patch_positions": self.positions, "cu_seqlens": bounds}

    def assert_equal(self, model: OneVisionModel, expected_from: OneVisionModel | None = None) -> None:
        """Packed and padded give what each clip gives alone, to 1e-5 of the largest value."""
        single = [(expected_from or model)(**inputs) for inputs in self.alone()]
        states = torch.cat([output.last_hidden_state[0] for output in single])
        pooled = torch.cat([output.pooler_output for output in single])
        padded, packed = self.padded(), self.packed()
        output = model(**packed)
        assert relative_difference(output.last_hidden_state, states) <= 1e-5
        assert relative_difference(output.pooler_output, pooled) <= 1e-5
        output = model(**padded)
        assert relative_difference(output.last_hidden_state[padded["pixel_attention_mask"]], states) <= 1e-5
        assert relative_difference(output.pooler_output, pooled) <= 1e-5


@torch.no_grad()
@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), attention=st.sampled_from(["sdpa", "eager"])
)
def test_packed_padded_and_single_clips_agree(lengths, attention):
    torch.manual_seed(0)
    model = OneVisionModel(OneVisionConfig.tiny(initializer_range=0.2)).eval()
    model.set_attn_implementation(attention)
    Clips(lengths).assert_equal(model)


@torch.no_grad()
@pytest.mark.slow  # the library compiles flex attention, also on the CPU
def test_flex_attention_agrees_with_sdpa(model):
    reference = OneVisionModel(model.config).eval()
    reference.load_state_dict(model.state_dict())
    model.set_attn_implementation("flex_attention")
    Clips([5, 17, 1, 30]).assert_equal(model, expected_from=reference)


@torch.no_grad()
def test_packed_sdpa_builds_no_mask(model, monkeypatch):
    def refuse(**kwargs):
        raise AssertionError("a mask was built")

    monkeypatch.setattr(modeling_onevision, "create_bidirectional_mask", refuse)
    model(**Clips([7, 9]).packed())


class LargestTensor(TorchDispatchMode):
    """Records how many values the largest tensor holds that any operation returns."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.values = max(self.values, value.untyped_storage().nbytes() // value.element_size())
        return result


@torch.no_grad()
@pytest.mark.parametrize("form", ["padded", "packed"])
def test_sdpa_makes_no_tensor_of_length_times_length(model, form):
    clips = Clips([1500, 700])
    with LargestTensor() as largest:
        model(**getattr(clips, form)())
    assert largest.values < 1500 * 1500
    model.set_attn_implementation("eager")
    with LargestTensor() as largest:
        model(**getattr(clips, form)())
    assert largest.values > 1500 * 1500


@torch.no_grad()
def test_packed_input_reaches_flash_kernels_as_variable_lengths(model, monkeypatch):
    """A stand-in with the kernel's contract: items are told apart by the bounds alone."""

    def flash_varlen(module, query, key, value, attention_mask, scaling, **kwargs):
        assert attention_mask is None and query.shape[0] == 1
        bounds = kwargs["cu_seq_lens_q"]
        assert bounds.dtype == torch.int32 and torch.equal(bounds, kwargs["cu_seq_lens_k"])
        assert kwargs["max_length_q"] == kwargs["max_length_k"] == int(bounds.diff().max())
        pieces = [state.split(bounds.diff().tolist(), dim=2) for state in (query, key, value)]
        attend = torch.nn.functional.scaled_dot_product_attention
        out = torch.cat([attend(*piece, scale=scaling) for piece in zip(*pieces, strict=True)], dim=2)
        return out.transpose(1, 2), None

    clips = Clips([5, 17, 1])
    expected = model(**clips.packed()).last_hidden_state
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_stand_in", flash_varlen)
    monkeypatch.setitem(
        ALL_MASK_ATTENTION_FUNCTIONS._local_mapping, "flash_stand_in", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    )
    model.config._attn_implementation = "flash_stand_in"
    assert relative_difference(model(**clips.packed()).last_hidden_state, expected) <= 1e-5


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash_attn is installed here")
def test_a_missing_kernel_is_the_librarys_own_error(model):
    with pytest.raises(ImportError, match="FlashAttention"):
        model.set_attn_implementation("flash_attention_2")


@torch.no_grad()
def test_the_whole_graph_of_padded_clips_compiles(model):
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = Clips([5, 17]).padded()
    found, expected = compiled(**inputs), model(**inputs)
    assert relative_difference(found.last_hidden_state, expected.last_hidden_state) <= 1e-6
    assert relative_difference(found.pooler_output, expected.pooler_output) <= 1e-6
    torch._dynamo.reset()


PACKED = Clips([5, 17]).packed()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cu_seqlens": torch.tensor([0, 5, 21])}, r"from 0 to 22.*\[0, 5, 21\]"),
        ({"cu_seqlens": torch.tensor([1, 5, 22])}, r"from 0 to 22.*\[1, 5, 22\]"),
        ({"cu_seqlens": torch.tensor([0, 5, 5, 22])}, "without repeats"),
        ({"cu_seqlens": torch.tensor([0.0, 22.0])}, "integer.*float32"),
        ({"cu_seqlens": torch.tensor([22])}, r"\(B\+1,\).*\(1,\)"),
        ({"cu_seqlens": None}, r"got shape \(22, 588\) without cu_seqlens"),
        ({"pixel_attention_mask": torch.ones(22).long()}, "came with pixel_attention_mask"),
        ({"attention_mask": torch.ones(1, 22)}, "called pixel_attention_mask"),
        ({"pixel_values_videos": None, "pixel_values": torch.zeros(1, 3, 14, 14)}, "came with dense pixels"),
    ],
)
def test_packing_that_does_not_fit_is_refused(model, changes, message):
    with pytest.raises(ValueError, match=message):
        model(**{**PACKED, **({"patch_positions": None} if "pixel_values" in changes else {}), **changes})
