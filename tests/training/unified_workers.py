"""Tiny unified trainings on drawn images, and what their processes run."""

import functools
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from training_workers import merged
from vae import tiny_vae

STEPS, STOP = 5, 2
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = TOWER | {"max_positions": 48}
BASE = {
    "task": "openvision3", "max_steps": STEPS, "dataloader_num_workers": 0, "logging_steps": 1,
    "save_steps": 100, "report_to": [], "seed": 3, "device": "cpu",
    "model": {"size": "tiny", "overrides": TOWER | {"projection_dim": 16}},
    "unified": {
        "pairs": {"batch_size": 6, "size": 32, "texts": 2, "target": "drawn", "min_crop_scale": 0.8},
        "decoder": TOWER, "text": TEXT, "caption": TEXT,
    },
    "optim": {"learning_rate": 1e-3, "warmup_steps": 2, "lr_scheduler_type": "cosine", "max_grad_norm": 5.0},
}  # fmt: skip
VIDEO = {"size": 32, "do_center_crop": True, "num_frames": 4, "num_patches": 6}
HEAD = {"batch_size": 4, "classes": 7, "processor": {"size": 32}, "max_labels": 1, "labels_per_sample": 1}
# A OneVision encoder with patches of 16 pixels, a head of pictures and one of videos.
JOINT = {
    "task": "unified",
    "model": {"overrides": {"hidden_size": 64, "num_attention_heads": 2, "patch_size": 16, "image_size": 32,
                            "num_hidden_layers": 1, "projection_dim": None}},
    "unified": {"encoder": "onevision", "projection_dim": 16},
    "cluster": {"sample_rate": 1.0, "heads": {
        "image": HEAD, "video": HEAD | {"kind": "video", "processor": VIDEO},
    }},
}  # fmt: skip
JOINT["model"]["overrides"].pop("projection_dim")


@functools.cache
def drawn(count=24):
    """Images with captions."""
    from onevision_hf.data.captions import CaptionedImage
    from onevision_hf.synthetic.images import ImageSettings, draw_image

    settings = ImageSettings(height=32, width=32)
    images = [draw_image(0, index, settings=settings) for index in range(count)]
    return [
        CaptionedImage(f"{number}.png", to_picture(image.pixels), tuple(image.captions))
        for number, image in enumerate(images)
    ]


def to_picture(pixels):
    from PIL import Image

    return Image.fromarray(np.asarray(pixels))


def save_vae(folder):
    path = Path(folder) / "vae"
    if not path.exists():
        vae = tiny_vae()
        # Far above what is to be rebuilt, and latents far above what the decoder begins with: the derivative
        # of |x| jumps at 0, where the rounding of another number of processes, processor or torch decides its
        # sign. A single pixel of -7e-7 that came out as 1e-5 took the losses 1.3e-4 apart a step later.
        with torch.no_grad():
            vae.encoder.conv_out.bias += 4
            vae.decoder.conv_out.bias += 4
        vae.save_pretrained(path)
    return str(path)


def make_config(out, vae=None, base=BASE, **changes):
    from onevision_hf.training.config import from_dict

    values = merged(merged(base, {"out": str(out)}), changes)
    if vae is not None:
        values = merged(values, {"unified": {"vae": vae}})
    return from_dict(values)


def joint(**changes):
    values = merged(BASE, JOINT)
    values["model"]["overrides"] = JOINT["model"]["overrides"]
    return merged(values, changes)


def make_task_encoder():
    """The OneVision encoder of `JOINT`."""
    from onevision_hf import OneVisionConfig

    return OneVisionConfig.tiny(**JOINT["model"]["overrides"])


def make_rows(config):
    from onevision_hf.training.dry_run.dummy_data import DummyExamples

    rows = {
        name: DummyExamples(head, head.classes, 16, 30).transformed()
        for name, head in config.cluster.heads.items()
    }
    return rows | {"pairs": drawn()}


def train(out, stop_at=None, vae=None, base=BASE, **changes):
    """Train (on), and give the log and everything that is saved."""
    from onevision_hf.training.loop import Trainer
    from onevision_hf.training.report import read_lines

    config = make_config(out, vae, base, **changes)
    trainer = Trainer(config, make_rows(config), max_steps=stop_at)
    status = trainer.fit()
    tensors = {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()
        for name, tensor in trainer.tensors().items()
    }
    return {"status": status, "log": read_lines(Path(out) / "log.jsonl"), "tensors": tensors}


def both(folder, size):
    """All that one number of processes has to show: the published recipe, and everything at once."""
    vae = save_vae(folder)
    few = {"max_steps": 2}
    results = {
        "recipe": train(folder / f"recipe{size}", vae=vae),
        "joint": train(folder / f"joint{size}", vae=vae, base=joint(), **few),
        "chunked": train(folder / f"chunked{size}", vae=vae, unified={"contrastive_chunk": 2}, **few),
        "sigmoid": train(folder / f"sigmoid{size}", vae=vae, unified={"contrastive_form": "sigmoid"}, **few),
    }
    if size > 1:
        fsdp = {"optim": {"parallel": "fsdp"}}
        results["fsdp"] = train(folder / "fsdp", vae=vae, **few, **fsdp)
        semantic = {"unified": {"reconstruction_weight": 0.0, "contrastive_weight": 0.0}}
        results["captions alone"] = train(folder / "captions", vae=vae, max_steps=2, **semantic)
    return results


def resumed(folder, size):
    """Stop, and go on as if nothing had been; from the other number of processes too."""
    vae = save_vae(folder)
    out = folder / f"stopped{size}"
    train(out, STOP, vae=vae)
    if size > 1:
        copy = folder / "other"
        if int(os.environ.get("RANK", 0)) == 0:
            shutil.copytree(folder / "stopped1", copy, dirs_exist_ok=True)
        torch.distributed.barrier()
        return {"same": train(out, vae=vae), "other": train(copy, vae=vae)}
    return {"same": train(out, vae=vae)}
