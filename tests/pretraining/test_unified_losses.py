"""What the unified model learns: the sum of the paper, and which gradients go where."""

import copy

import pytest
import torch
from small import PixelDistance, random_vae, small_batch, small_model
from torch.nn import functional as F

from onevision_hf.objectives import contrastive_loss
from onevision_hf.pretraining import modeling_unified


@pytest.fixture(scope="module")
def model():
    return small_model(lpips_weight=0.5).train()


def seeded(batch, seed=5):
    return batch | {"noise_seeds": torch.arange(len(batch["pixel_values"])) + seed}


def reached(module):
    return sorted(
        {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
    )


def test_the_loss_is_the_sum_of_equations_4_to_6(model):
    output = model(**seeded(small_batch()))
    found = output.losses
    assert set(found) == {"pixel", "latent", "lpips", "caption", "contrastive"}
    expected = 0.5 * (found["pixel"] + 0.4 * found["latent"] + 0.5 * found["lpips"]) + 1.0 * (
        found["caption"] + 1.0 * found["contrastive"]
    )
    torch.testing.assert_close(output.loss, expected)


def test_each_loss_is_what_its_name_says(model):
    batch = small_batch()
    evaluated = copy.deepcopy(model).eval()
    output = evaluated(**batch)
    with torch.no_grad():
        latents = evaluated.encode_pixels(batch["pixel_values"])
        encoded = evaluated.encode(batch["pixel_values"])
        image = evaluated.decode(encoded.tokens, encoded.grid)
        rebuilt = evaluated.decoder(encoded.tokens, encoded.grid)
        captions = batch["input_ids"][:, 0]
        logits = evaluated.caption_decoder(captions[:, :-1], encoded.tokens).logits
        texts = evaluated.get_text_features(batch["input_ids"].flatten(0, 1)).view(4, 2, -1)
    found = {name: loss.item() for name, loss in output.losses.items()}
    assert found["pixel"] == pytest.approx(F.l1_loss(image, batch["pixel_values"]).item(), rel=1e-5)
    assert found["latent"] == pytest.approx(F.l1_loss(rebuilt, latents).item(), rel=1e-5)
    assert found["lpips"] == pytest.approx(
        PixelDistance()(image, batch["pixel_values"]).mean().item(), rel=1e-5
    )
    words = F.cross_entropy(logits.transpose(1, 2), captions[:, 1:].masked_fill(captions[:, 1:] == 0, -100))
    assert found["caption"] == pytest.approx(words.item(), rel=1e-5)
    contrast = contrastive_loss(encoded.features, texts, evaluated.logit_scale)
    assert found["contrastive"] == pytest.approx(contrast.loss.item(), rel=1e-5)
    assert output.metrics["token_rms"].item() == pytest.approx(encoded.tokens.square().mean().sqrt().item())
    torch.testing.assert_close(evaluated.reconstruct(batch["pixel_values"]), image.clamp(-1, 1))


def test_several_texts_are_the_mean_over_the_texts():
    model, batch = small_model(reconstruction_weight=0.0, caption_weight=0.0).eval(), small_batch()
    both = model(**batch).losses["contrastive"]
    alone = [
        model(batch["pixel_values"], batch["input_ids"][:, t], batch["attention_mask"][:, t]).loss
        for t in (0, 1)
    ]
    torch.testing.assert_close(both, sum(alone) / 2)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"understanding_weight": 0.0, "latent_weight": 0.0}, ["decoder", "encoder"]),
        ({"understanding_weight": 0.0, "pixel_weight": 0.0}, ["decoder", "encoder"]),
        ({"reconstruction_weight": 0.0, "contrastive_weight": 0.0}, ["caption_decoder", "encoder"]),
        ({"reconstruction_weight": 0.0, "caption_weight": 0.0}, ["encoder", "logit_scale", "text_encoder"]),
    ],
)
@pytest.mark.parametrize("encoder", ["openvision3", "onevision"])
def test_a_loss_reaches_its_own_head_and_the_encoder_and_never_the_vae(weights, expected, encoder):
    vae = random_vae()
    model = small_model(encoder, vae, **weights).train()
    before = [p.clone() for p in vae.parameters()]
    model(**seeded(small_batch(side=32 if encoder == "openvision3" else 112))).loss.backward()
    found = [name for name in reached(model) if name != "image_projection"]
    assert found == expected
    assert all(p.grad is None for p in vae.parameters())
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert all(torch.equal(old, new) for old, new in zip(before, vae.parameters(), strict=True))
    assert not vae.training


@pytest.mark.parametrize("encoder", ["openvision3", "onevision16"])
def test_probe_flags_keep_a_branch_s_gradient_from_the_encoder(encoder):
    batch = seeded(small_batch())

    def encoder_gradient(**changes):
        model = small_model(encoder, **changes).train()
        model(**batch).loss.backward()
        name = "patch_embedding.weight"
        return next(p.grad for n, p in model.encoder.named_parameters() if n.endswith(name)), reached(model)

    both, _ = encoder_gradient()
    semantic, heads = encoder_gradient(detach_reconstruction=True)
    assert "decoder" in heads  # the probe itself learns
    generative, heads = encoder_gradient(detach_understanding=True)
    assert {"caption_decoder", "text_encoder"} <= set(heads)
    torch.testing.assert_close(semantic + generative, both, rtol=1e-4, atol=1e-6)
    neither = encoder_gradient(detach_reconstruction=True, detach_understanding=True)[0]
    assert neither is None or not neither.any()


@pytest.mark.parametrize("encoder", ["openvision3", "onevision16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"understanding_weight": 0.0},
        {"reconstruction_weight": 0.0, "contrastive_weight": 0.0},
        {"caption_weight": 0.0, "contrastive_form": "sigmoid"},
        {"detach_reconstruction": True, "understanding_weight": 0.0},
        {"detach_reconstruction": True, "detach_understanding": True},
    ],
)
def test_freeze_idle_leaves_what_gets_a_gradient_and_nothing_else(encoder, changes):
    model = small_model(encoder, **changes).train()
    model.freeze_idle()
    model(**seeded(small_batch())).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


def test_what_has_weight_zero_is_not_computed(monkeypatch):
    def never(*_, **__):
        raise AssertionError("computed, though its weight is 0")

    monkeypatch.setattr(modeling_unified, "load_lpips", never)
    batch = small_batch()
    model = small_model()
    object.__setattr__(model, "_lpips", None)
    assert "lpips" not in model(**batch).losses  # stage 1: LPIPS is not even built
    model = small_model(pixel_weight=0.0)
    monkeypatch.setattr(model.vae, "decode", never)
    assert set(model(**batch).losses) == {"latent", "caption", "contrastive"}
    model = small_model(understanding_weight=0.0)
    for module in (model.text_encoder, model.caption_decoder):
        monkeypatch.setattr(module, "forward", never)
    assert set(model(batch["pixel_values"]).losses) == {"pixel", "latent"}
    model = small_model("onevision16", reconstruction_weight=0.0)
    for module, name in ((model.decoder, "forward"), (model.vae, "encode")):
        monkeypatch.setattr(module, name, never)
    assert set(model(**batch).losses) == {"caption", "contrastive"}


@pytest.mark.parametrize("encoder", ["openvision3", "onevision16"])
def test_chunks_give_the_gradients_of_the_whole_batch_in_a_chunk_s_memory(encoder):
    # In float64, so that what is compared is what is computed: in float32 the two differ by the order of sums
    # alone, 1e-6 of a gradient's largest value, which another processor or torch makes more or less of.
    batch = seeded(small_batch(images=7))
    batch["pixel_values"] = batch["pixel_values"].double()
    model = small_model(encoder, random_vae()).double().train()
    model.vae.double()
    seen = []
    model.encoder.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(len(next(iter([*args, *kwargs.values()])))), with_kwargs=True
    )
    losses, gradients = [], []
    for chunk in (0, 3):
        model.zero_grad()
        output = model(**batch, contrastive_chunk=chunk)
        output.loss.backward()
        losses.append(output.loss.item())
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert seen == [7, 3, 3, 1, 1, 3, 3]  # once forward, and each once more in the backward pass
    # The terms are float32 whatever the model is: seven of them added in another order differ by at most six
    # roundings of 2^-24 of the sum, 3.6e-7 of it.
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for whole, part in zip(*gradients, strict=True):
        assert (whole - part).abs().max() <= 1e-12 * whole.abs().max().clamp(min=1e-2)


def test_noise_is_on_the_way_to_the_decoder_alone_and_only_in_training():
    batch = seeded(small_batch())
    model = small_model(noise_tau=2.0)
    quiet, loud = model.eval()(**batch), model.train()(**batch)
    assert model.eval()(**batch).loss == quiet.loss
    assert model.train()(**batch).loss == loud.loss  # its seeds are its noise
    other = model(**(batch | {"noise_seeds": batch["noise_seeds"] + 100}))
    for name in ("caption", "contrastive"):
        assert loud.losses[name] == quiet.losses[name] == other.losses[name]
    for name in ("pixel", "latent"):
        assert len({x.losses[name].item() for x in (quiet, loud, other)}) == 3
    torch.manual_seed(0)
    drawn = model(**small_batch()).loss
    assert drawn != model(**small_batch()).loss  # without seeds, another noise in each call
    torch.manual_seed(0)
    assert model(**small_batch()).loss == drawn
    silent = small_model(noise_tau=0.0).train()
    assert silent(**batch).loss == silent.eval()(**batch).loss


def test_cached_latents_stand_for_the_vae_s_encoder(monkeypatch):
    model, batch = small_model().train(), seeded(small_batch())
    plain = model(**batch)
    latents = model.encode_pixels(batch["pixel_values"])
    monkeypatch.setattr(model.vae, "encode", lambda *_: pytest.fail("the VAE encodes"))
    assert model(**batch, latents=latents).loss == plain.loss
    del batch["pixel_values"]
    model = small_model(pixel_weight=0.0).train()
    assert set(model(latents=latents, **batch).losses) == {"latent", "caption", "contrastive"}


def test_the_scale_of_the_logits_is_learned_and_capped_at_100():
    model, batch = small_model(reconstruction_weight=0.0, caption_weight=0.0), small_batch()
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    torch.nn.init.constant_(model.logit_scale, 50.0)
    output = model(**batch)
    assert output.metrics["logit_scale"].item() == pytest.approx(100.0)
    output.loss.backward()
    assert output.loss.isfinite() and model.logit_scale.grad is not None
    sigmoid = small_model(contrastive_form="sigmoid")
    assert (sigmoid.logit_scale.exp().item(), sigmoid.logit_bias.item()) == (pytest.approx(10.0), -10.0)
