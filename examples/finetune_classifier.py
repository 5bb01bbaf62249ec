"""Fine-tune the encoder to tell your clips apart, with the Trainer of transformers.

    onevision synth clips --out drawn --count 400 --family mover_colour     # or a folder of your own
    python examples/finetune_classifier.py drawn --out out/classifier --epochs 4

A folder has a sub-folder for each class. Every fifth clip is kept to test on. Needs the extra `train`.
"""

import argparse
import functools
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainingArguments

import onevision_hf
from onevision_hf import OneVisionForVideoClassification, OneVisionVideoProcessor


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="a folder with a sub-folder for each class")
    parser.add_argument(
        "--model", default=str(onevision_hf.tiny()), help="an encoder (default: onevision-tiny)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/classifier"))
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    return parser


def main(argv: list[str] | None = None) -> dict[str, float]:
    args = build_parser().parse_args(argv)
    labels = sorted(folder.name for folder in args.clips.iterdir() if folder.is_dir())
    rows = [(clip, n) for n, name in enumerate(labels) for clip in sorted((args.clips / name).glob("*.mp4"))]
    if len(labels) < 2 or not rows:
        raise SystemExit(
            f"{args.clips}: found {len(labels)} sub-folders with {len(rows)} clips, two classes are needed"
        )
    test = [row for place, row in enumerate(rows) if place % 5 == 4]
    train = [row for place, row in enumerate(rows) if place % 5 != 4]

    processor = OneVisionVideoProcessor.from_pretrained(args.model)
    model = OneVisionForVideoClassification.from_pretrained(
        args.model,
        id2label=dict(enumerate(labels)),
        label2id={name: n for n, name in enumerate(labels)},
        probe_position=[0, 0, 0],  # the head stands at a place, so it can tell directions
    )

    @functools.cache  # read once: 0.2 MB a clip for onevision-tiny, 5 MB for 2048 patches of 14 pixels
    def read(clip: Path) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in processor(str(clip), return_tensors="pt").items()}

    def collate(batch: list[tuple[Path, int]]) -> dict[str, torch.Tensor]:
        clips = [read(clip) for clip, _ in batch]
        inputs = {name: pad_sequence([clip[name] for clip in clips], batch_first=True) for name in clips[0]}
        return {**inputs, "labels": torch.tensor([n for _, n in batch])}

    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(args.out),
            num_train_epochs=args.epochs,
            learning_rate=args.lr,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=args.batch_size,
            warmup_steps=10,
            lr_scheduler_type="cosine",
            logging_steps=5,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
        ),
        data_collator=collate,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=lambda told: {
            "accuracy": float((told.predictions.argmax(-1) == told.label_ids).mean())
        },
    )
    trainer.train()
    figures = trainer.evaluate()
    print(f"{100 * figures['eval_accuracy']:.1f} % of {len(test)} clips, chance {100 / len(labels):.1f} %")
    trainer.save_model(str(args.out))
    processor.save_pretrained(args.out)
    return figures


if __name__ == "__main__":
    main()
