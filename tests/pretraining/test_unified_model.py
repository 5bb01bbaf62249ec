"""What the unified model does: rebuild, describe, name; what it saves; what it refuses."""

import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from processes import fresh
from safetensors.torch import load_file
from small import VOCABULARY, random_vae, small_batch, small_config, small_model
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from onevision_hf import MissingVAEError, UnifiedForPreTraining, UnifiedPreTrainingConfig
from onevision_hf.objectives import prefix_lm_mask
from onevision_hf.pretraining import MissingLPIPSError, load_lpips
from onevision_hf.pretraining.perceptual import load_backbone
from onevision_hf.pretraining.towers import unpatchify


@pytest.fixture(scope="module")
def model():
    return small_model().eval()


def pixels(side, images=1):
    return torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("side", "tokens"), [(128, 64), (224, 196), (256, 256)])
def test_the_published_sizes_have_the_published_numbers_of_tokens(model, side, tokens):
    encoded = model.encode(pixels(side))
    assert encoded.tokens.shape == (1, tokens, 32) and encoded.grid == (side // 16,) * 2
    assert model.decode(encoded.tokens, encoded.grid).shape == (1, 3, side, side)


def test_tokens_become_their_latents_in_place():
    latents = torch.arange(2 * 3 * 4 * 6).float().view(2, 3, 4, 6)
    cut = nn.functional.unfold(latents, 2, stride=2).transpose(1, 2)  # rows (C, p, p), raster
    assert torch.equal(unpatchify(cut, (2, 3), 3, 2), latents)


def test_the_tokens_of_a_onevision_encoder_are_resized_to_the_decoder_s_grid():
    model = small_model("onevision").eval()
    encoded = model.encode(pixels(112))
    assert encoded.grid == (8, 8)  # patches of 14 pixels; the decoder has 7 x 7 tokens of 16
    assert model.reconstruct(pixels(112)).shape == (1, 3, 112, 112)
    # A token map without a slope is the same on any grid.
    flat = encoded.tokens[:, :1].expand(-1, 64, -1)
    direct = model.decode_latents(model.decoder(flat[:, :49], (7, 7)))
    torch.testing.assert_close(model.decode(flat, (8, 8)), direct, rtol=1e-4, atol=1e-5)
    same = small_model("onevision16").eval()
    assert same.encode(pixels(32)).grid == (2, 2)


def test_wrong_grids_and_sparse_selections_are_named(model):
    encoded = model.encode(pixels(64))
    with pytest.raises(ValueError, match=r"a grid of 4 x 3 has 12.*sparse selection"):
        model.decode(encoded.tokens, (4, 3))
    other = small_model("onevision").eval()
    with pytest.raises(ValueError, match=r"makes 28 x 28 pixels.*multiples of 112"):
        other.decode(torch.zeros(1, 4, 64), (2, 2))
    with pytest.raises(ValueError, match=r"patch_positions: a sparse selection has no full grid"):
        other(pixels(112), patch_positions=torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match=r"whole images .*found \(1, 3, 4, 112, 112\)"):
        other.reconstruct(torch.zeros(1, 3, 4, 112, 112))
    with pytest.raises(ValueError, match=r"reads pixels"):
        other.encode(latents=torch.zeros(1, 16, 4, 4))
    with pytest.raises(ValueError, match=r"multiples of 16"):
        model.reconstruct(torch.zeros(1, 3, 40, 40))
    with pytest.raises(ValueError, match=r"latents and pixels of one size"):
        other(**small_batch(side=112), latents=torch.zeros(4, 16, 4, 4))
    with pytest.raises(TypeError, match="pixels"):
        model(pixels=pixels(32))


def test_losses_name_what_they_lack(model):
    with pytest.raises(ValueError, match=r"contrastive loss needs texts.*contrastive_weight"):
        model(pixels(32))
    described = small_model(contrastive_weight=0.0)
    with pytest.raises(ValueError, match="caption loss needs captions"):
        described(pixels(32))
    batch = small_batch()
    latents = model.encode_pixels(batch.pop("pixel_values"))
    with pytest.raises(ValueError, match="pixel compares pixels: give pixel_values beside latents"):
        model(latents=latents, **batch)
    with pytest.raises(ValueError, match="neither"):
        small_model(pixel_weight=0.0)(**batch)
    with pytest.raises(ValueError, match=r"a text of 17 tokens.*takes 16"):
        model.get_text_features(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match="a mask of"):
        model.get_text_features(torch.ones(1, 6, dtype=torch.long), torch.ones(1, 5))
    with pytest.raises(ValueError, match="every weight is 0"):
        small_model(reconstruction_weight=0.0, understanding_weight=0.0)(**small_batch())


def test_no_vae_is_an_error_that_says_what_to_do():
    model = UnifiedForPreTraining(small_config())
    model.config.vae_name_or_path = None
    with pytest.raises(MissingVAEError, match="set_vae"):
        model.reconstruct(pixels(32))


def test_absent_lpips_weights_are_an_error_that_says_where_to_get_them(tmp_path, monkeypatch):
    model = small_model(lpips_weight=0.5)
    object.__setattr__(model, "_lpips", None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MissingLPIPSError, match=r"vgg16-397923af.pth does not exist: fetch https"):
        model(**small_batch())
    (tmp_path / "other.pth").write_bytes(b"not weights")
    with pytest.raises(MissingLPIPSError, match=r"holds no weights of torchvision's VGG-16"):
        load_lpips(tmp_path / "other.pth")
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingLPIPSError, match="pip install"):
        load_lpips(tmp_path / "other.pth")


def test_the_backbone_s_file_fills_every_slice_of_lpips():
    net = nn.Module()
    net.slice1, net.slice2 = nn.Sequential(), nn.Sequential()
    net.slice1.add_module("0", nn.Conv2d(3, 4, 3))
    net.slice2.add_module("5", nn.Conv2d(4, 4, 3))
    stored = {f"features.{i}.{n}": torch.randn_like(p) for i, s in ((0, net.slice1), (5, net.slice2))
              for n, p in s[0].named_parameters()}  # fmt: skip
    load_backbone(net, stored | {"classifier.0.weight": torch.zeros(1)})
    assert torch.equal(net.slice2[0].weight, stored["features.5.weight"])
    with pytest.raises(KeyError):
        load_backbone(net, {})


def test_a_caption_sees_the_whole_image_and_never_what_comes_after(model):
    mask = prefix_lm_mask(2, 5)
    assert mask.tolist() == [
        [True, True, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True, True, True, True, False],
        [True, True, True, True, True],
    ]
    tokens = model.encode(pixels(32)).tokens
    ids = torch.randint(3, VOCABULARY, (1, 8), generator=torch.Generator().manual_seed(0))
    logits = model.caption_decoder(ids, tokens).logits
    other = ids.clone()
    other[0, 5] = 3 + (ids[0, 5] + 1) % 30
    changed = (model.caption_decoder(other, tokens).logits != logits).any(-1)[0]
    assert changed.tolist() == [False] * 5 + [True] * 3
    last = tokens.clone()
    last[:, -1] += 1
    assert (model.caption_decoder(ids, last).logits != logits).any(-1).all()


def test_padding_changes_neither_features_nor_losses(model):
    batch = small_batch()
    plain = model(**batch)
    padded = nn.functional.pad(batch["input_ids"], (0, 5))
    mask = nn.functional.pad(batch["attention_mask"], (0, 5))
    torch.testing.assert_close(model(batch["pixel_values"], padded, mask).loss, plain.loss)
    torch.testing.assert_close(model(batch["pixel_values"], padded).loss, plain.loss)  # by its pad_token_id
    noise = torch.where(mask == 0, 7, padded)
    torch.testing.assert_close(model(batch["pixel_values"], noise, mask).loss, plain.loss)


def test_captions_of_a_batch_are_those_of_its_images_and_a_cache_changes_nothing(model):
    images = pixels(32, 3)
    ids = model.generate_caption(images, max_new_tokens=6, eos_token_id=None)
    assert ids.shape == (3, 7) and (ids[:, 0] == 1).all()
    assert torch.equal(
        model.generate_caption(images, max_new_tokens=6, eos_token_id=None, use_cache=False), ids
    )
    for row, image in zip(ids, images, strict=True):
        assert torch.equal(model.generate_caption(image[None], max_new_tokens=6, eos_token_id=None)[0], row)
    # Greedy: each token is the likeliest after those before it.
    logits = model.caption_decoder(ids[:, :-1], model.encode(images).tokens).logits
    assert torch.equal(logits.argmax(-1), ids[:, 1:])
    assert model.generate_caption(images).shape[1] <= 16  # as many as there are positions
    ended = model.generate_caption(images, max_new_tokens=6, eos_token_id=int(ids[0, 2]))
    assert (ended[0, 3:] == model.config.pad_token_id).all()
    beams = model.generate_caption(images, max_new_tokens=4, num_beams=2)
    assert beams.shape[0] == 3


def test_one_folder_without_the_vae_holds_it_all(tmp_path):
    model = small_model(vae=random_vae(), contrastive_form="sigmoid", lpips_weight=0.5).eval()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == {name for name, _ in model.named_parameters()}
    assert {name.split(".")[0] for name in stored} == {
        "encoder", "decoder", "text_encoder", "caption_decoder", "logit_scale", "logit_bias",
    }  # fmt: skip
    batch = small_batch()
    for kind in (AutoModel, AutoModelForPreTraining, UnifiedForPreTraining):
        found = kind.from_pretrained(tmp_path)
        assert type(found) is UnifiedForPreTraining
        found.set_vae(model.vae)
        found.set_lpips(model.lpips)
        assert torch.equal(found.eval()(**batch).loss, model(**batch).loss)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, UnifiedPreTrainingConfig)
    assert config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    # What was trained at one size runs at another, with the same weights.
    assert found.reconstruct(pixels(96)).shape == (1, 3, 96, 96)
    assert found.encoder.vae is found.vae  # the encoder alone reads pixels too


def test_the_vae_follows_the_model(model):
    held = small_model()
    held.to(torch.bfloat16)
    assert held.vae.gain.dtype == torch.bfloat16
    held.to(torch.float32)
    assert held.vae.gain.dtype == torch.float32


def test_configs_name_what_is_wrong():
    with pytest.raises(ValueError, match="'bert', expected one of openvision3, onevision_encoder"):
        UnifiedPreTrainingConfig({"model_type": "bert"})
    with pytest.raises(ValueError, match="caption_weight is -1"):
        small_config(caption_weight=-1)
    with pytest.raises(ValueError, match="contrastive_form is 'hinge'"):
        small_config(contrastive_form="hinge")
    with pytest.raises(ValueError, match="noise_tau"):
        small_config(noise_tau=-0.1)
    with pytest.raises(ValueError, match="contrastive_chunk"):
        small_config(contrastive_chunk=-1)
    with pytest.raises(ValueError, match="no pooling head"):
        UnifiedPreTrainingConfig({"model_type": "onevision_encoder", "use_head": False})
    with pytest.raises(StrictDataclassClassValidationError, match="cannot be split over 3 heads"):
        small_config(text_config={"hidden_size": 32, "num_attention_heads": 3})


def test_the_vae_s_numbers_are_the_encoder_s():
    config = UnifiedPreTrainingConfig(
        {"model_type": "openvision3", "latent_scaling": 0.7, "projection_dim": 32}
    )
    assert (config.latent_scaling, config.projection_dim, config.encoder_stride) == (0.7, 32, 16)
    assert config.loss_weights == {"pixel": 0.5, "latent": 0.2, "caption": 1.0, "contrastive": 1.0}
    assert (config.decoder_config.hidden_size, config.caption_config.max_positions) == (768, 128)


def test_importing_needs_neither_diffusers_nor_lpips():
    code = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("diffusers", "lpips"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from onevision_hf import UnifiedForPreTraining, UnifiedPreTrainingConfig
UnifiedForPreTraining(UnifiedPreTrainingConfig.tiny())
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr
