"""Make the tokenizer that ships with the package: bytes, and pairs of them that drawn captions hold often.

python scripts/make_tokenizer.py            # writes onevision_hf/pretraining/builtin_tokenizer
"""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from onevision_hf.synthetic.images import ImageSettings, draw_image

FOLDER = Path(__file__).parents[1] / "onevision_hf" / "pretraining" / "builtin_tokenizer"
SIZE, IMAGES = 512, 600


def main() -> None:
    settings = ImageSettings(height=32, width=32)
    captions = [c for index in range(IMAGES) for c in draw_image(0, index, settings=settings).captions]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(FOLDER)
    lengths = [len(tokenizer.encode(caption).ids) for caption in captions]
    print(f"{tokenizer.get_vocab_size()} tokens; captions of {min(lengths)} to {max(lengths)} tokens")


if __name__ == "__main__":
    main()
