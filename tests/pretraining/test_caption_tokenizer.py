"""The tokenizer of the package, and any other, between texts and the text heads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from onevision_hf.pretraining.tokenizer import CaptionTokenizer, load_tokenizer, token_ids

BUILTIN = load_tokenizer()


@given(st.text(max_size=30))
def test_any_text_comes_back(text):
    ids = BUILTIN(text, add_special_tokens=False)["input_ids"]
    import unicodedata

    assert BUILTIN.decode(ids) == unicodedata.normalize("NFC", text)


def test_texts_are_marked_padded_cut_and_counted():
    tokenizer = CaptionTokenizer(BUILTIN, 6)
    batch = tokenizer(["a red", "a large striped red disc on a ground"])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 6)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert batch["input_ids"][0].tolist()[0] == 1 and batch["input_ids"][0].tolist()[3:] == [2, 0, 0]
    assert batch["input_ids"][1].tolist()[-1] == 2 and tokenizer.cut == 1
    with pytest.raises(ValueError, match="an empty caption"):
        tokenizer(["  "])
    with pytest.raises(ValueError, match="max_length is 2"):
        CaptionTokenizer(BUILTIN, 2)


def words(**marks):
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "red": 4}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, **marks)


def test_a_tokenizer_of_another_kind_brings_its_own_marks(tmp_path):
    words(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        tmp_path
    )
    found = load_tokenizer(str(tmp_path))
    assert token_ids(found) == (1, 2, 0, 5)
    assert CaptionTokenizer(found, 5)("red")["input_ids"].tolist() == [[1, 4, 2, 0, 0]]
    with pytest.raises(ValueError, match="no mark bos_token or cls_token"):
        token_ids(words())


def test_the_tokenizer_is_saved_beside_a_model(tmp_path):
    BUILTIN.save_pretrained(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert found("a red disc")["input_ids"] == BUILTIN("a red disc")["input_ids"]
