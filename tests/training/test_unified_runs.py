"""From stage 1 to stage 2, what lies in the folder at the end, the plan, and validation."""

import pytest
import torch
import unified_workers as workers
import yaml
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModelForPreTraining, AutoTokenizer

from onevision_hf import OneVisionModel, OpenVision3Config, OpenVision3Model, UnifiedForPreTraining
from onevision_hf.training.__main__ import main as module
from onevision_hf.training.config import ConfigError, load_config
from onevision_hf.training.loop import Trainer
from onevision_hf.training.report import read_lines
from onevision_hf.training.tasks import unified as unified_task
from onevision_hf.training.tasks.task import make_task


class PixelDistance(nn.Module):
    def forward(self, one, two):
        return (one - two).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return workers.save_vae(tmp_path_factory.mktemp("frozen"))


@pytest.fixture(scope="module")
def stage1(tmp_path_factory, vae):
    """A finished run with validation on a folder of two classes."""
    folder = tmp_path_factory.mktemp("runs")
    for number in range(6):
        path = folder / "classes" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (200 * (number % 2), 40 * number, 90)).save(path)
    validation = {"every": 2, "source": str(folder / "classes"), "neighbours": 1}
    config = workers.make_config(folder / "stage1", vae, max_steps=2, validation=validation)
    trainer = Trainer(config, workers.make_rows(config))
    assert trainer.fit() == 0
    return trainer


def test_a_finished_run_is_a_folder_with_all_heads_the_tokenizer_and_the_processor(stage1):
    folder = stage1.out / "model"
    model = AutoModelForPreTraining.from_pretrained(folder)
    assert isinstance(model, UnifiedForPreTraining)
    trained = stage1.task.model.model.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.vocab_size == model.config.vocab_size
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(workers.drawn()[0].media, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 32, 32)
    assert len(model.generate_caption(pixels, tokenizer=tokenizer)) == 1  # the VAE is found by its name


def test_validation_asks_the_features_of_labelled_pictures(stage1):
    lines = read_lines(stage1.out / "validation.jsonl")
    assert [line["step"] for line in lines] == [0, 2]
    assert all(0 <= line["accuracy"] <= 1 for line in lines)


def test_stage_2_goes_on_with_the_weights_of_stage_1_at_another_size_and_with_lpips(
    stage1, vae, tmp_path, monkeypatch
):
    monkeypatch.setattr(unified_task, "load_lpips", lambda path: PixelDistance())
    base = workers.merged(workers.BASE, {"max_steps": 1, "out": str(tmp_path / "stage2")})
    base["model"] = {"init_from": str(stage1.out / "model")}
    base["unified"] = {"vae": vae, "lpips_weight": 0.5, "pairs": {"batch_size": 4, "size": 64, "texts": 1}}
    config = workers.make_config(tmp_path / "stage2", base=base)
    trainer = Trainer(config, {"pairs": workers.drawn()})
    first = stage1.task.model.model.state_dict()
    assert all(
        torch.equal(tensor, first[name]) for name, tensor in trainer.task.model.model.state_dict().items()
    )
    assert trainer.fit() == 0
    line = read_lines(trainer.out / "log.jsonl")[0]
    assert line["loss"] == pytest.approx(
        0.5 * (line["pixel/loss"] + 0.4 * line["latent/loss"] + 0.5 * line["lpips/loss"])
        + line["caption/loss"] + line["contrastive/loss"]
    )  # fmt: skip
    for changes, named in (
        ({"unified": {"decoder": workers.TOWER}}, "cannot change the heads"),
        ({"model": {"overrides": {"hidden_size": 64}}}, "model.overrides cannot change"),
    ):
        with pytest.raises(ConfigError, match=named):
            make_task(
                workers.make_config(tmp_path, base=workers.merged(base, changes)), {"pairs": workers.drawn()}
            )


def test_a_run_starts_from_an_encoder_alone(tmp_path, vae):
    torch.manual_seed(5)
    for kind, encoder in (
        ("openvision3", OpenVision3Model(OpenVision3Config.tiny(**workers.TOWER, projection_dim=16))),
        ("onevision", OneVisionModel(workers.make_task_encoder())),
    ):
        encoder.save_pretrained(tmp_path / kind)
        base = workers.merged(workers.BASE, {"task": "unified", "unified": {"encoder": kind}})
        base["model"] = {"init_from": str(tmp_path / kind), "size": "tiny"}
        config = workers.make_config(tmp_path / "out", vae, base)
        task = make_task(config, {"pairs": workers.drawn()})
        task.build()
        state = task.model.model.encoder.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in encoder.state_dict().items())
        other = {"openvision3": "onevision", "onevision": "openvision3"}[kind]
        with pytest.raises(ConfigError, match=f"unified.encoder says '{other}'"):
            make_task(workers.make_config(tmp_path / "out", vae, base, unified={"encoder": other}))


def test_a_head_of_clusters_goes_with_an_openvision3_encoder_too(tmp_path, vae):
    heads = {"image": workers.HEAD}
    config = workers.make_config(tmp_path, vae, task="unified", max_steps=2, cluster={"heads": heads})
    trainer = Trainer(config, workers.make_rows(config))
    assert trainer.fit() == 0
    assert trainer.task.sharded["image"].centers.shape == (7, 16)  # as wide as the pooled output
    assert {"image/loss", "contrastive/loss"} <= read_lines(tmp_path / "log.jsonl")[0].keys()


def test_a_dry_run_plans_every_part_and_takes_two_steps_on_random_images(tmp_path, capsys):
    values = workers.merged(workers.BASE, {"out": str(tmp_path / "out"), "max_steps": 50})
    absent = {"vae": str(tmp_path / "absent"), "lpips_weight": 0.5, "lpips_weights": str(tmp_path / "absent")}
    absent |= {"pairs": {"latents": "cached", "min_crop_scale": 1.0}}
    values["unified"] = workers.merged(values["unified"], absent)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    assert module(["--config", str(tmp_path / "tiny.yaml"), "--dry-run", "--processes", "2"]) == 0
    said = capsys.readouterr().out
    assert "pairs: no data (no source is named); random images instead" in said
    for part in ("encoder", "decoder", "text encoder", "caption decoder"):
        assert f"M in the {part}" in said
    assert "6 samples, 24 patches in 1 micro-batch(es)" in said and "steps: 50, 300 samples" in said
    assert "latents: none of these images at cached" in said
    assert "LPIPS: left out" in said and "with random weights, instead" in said
    assert "two steps done" in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("size", ["base", "large"])
def test_the_published_configs_have_the_published_numbers(size, stage):
    config = load_config(f"openvision3_{size}_stage{stage}")
    pairs, unified, optim = config.unified.pairs, config.unified, config.optim
    expected = {1: (128, 8192, 0.0, 8e-6, 4000, 40), 2: (256, 4096, 0.5, 4e-7, 400, 20)}[stage]
    side, batch, lpips, base_rate, epochs, warmup = expected
    assert (pairs.size, pairs.batch_size, unified.lpips_weight) == (side, batch, lpips)
    assert optim.learning_rate == pytest.approx(base_rate * batch / 256)
    assert config.samples == epochs * 1281167 and optim.warmup_steps == warmup * 1281167 // batch
    assert (unified.reconstruction_weight, unified.latent_weight, unified.understanding_weight) == (
        0.5,
        0.4,
        1.0,
    )
    assert (unified.contrastive_weight, unified.caption_weight, optim.lr_scheduler_type) == (
        1.0,
        1.0,
        "cosine",
    )


def losses(out, vae, **optim):
    config = workers.make_config(out, vae, max_steps=2, optim=optim)
    assert Trainer(config, workers.make_rows(config)).fit() == 0
    return [line["loss"] for line in read_lines(out / "log.jsonl")]


def test_checkpointing_changes_no_loss_and_bfloat16_goes_the_same_way(tmp_path, vae):
    plain = losses(tmp_path / "plain", vae)
    assert losses(tmp_path / "checkpointed", vae, gradient_checkpointing=True) == pytest.approx(
        plain, rel=1e-6
    )
    assert losses(tmp_path / "low", vae, precision="bfloat16") == pytest.approx(plain, rel=1e-2)
