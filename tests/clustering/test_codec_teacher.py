"""An encoder of ours as a teacher: features of what its codec processor keeps, one clip like many."""

import json

import numpy as np
import pytest
import torch
from drawn import as_bytes, clip, draw_clips, picture
from torch.nn.functional import normalize

from onevision_hf import OneVisionConfig, OneVisionModel, OneVisionVideoProcessor
from onevision_hf.clustering.features import FeatureShards, extract_features
from onevision_hf.clustering.items import MediaError
from onevision_hf.clustering.sources import open_source
from onevision_hf.clustering.teachers import make_teacher


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    OneVisionModel(OneVisionConfig.tiny()).save_pretrained(folder)
    OneVisionVideoProcessor(num_frames=6, size=56).save_pretrained(folder)
    return str(folder)


def test_a_feature_is_the_encoders_pooled_output_of_the_kept_patches(encoder, tmp_path):
    source = open_source(draw_clips(tmp_path / "clips", each=1))
    teacher = make_teacher(f"codec:{encoder}")
    extract_features(source, tmp_path / "out", teacher, "video", batch_size=5, shard_items=7)
    shards = FeatureShards(tmp_path / "out")
    assert shards.rows == [7, 5] and shards.dim == 64
    model = OneVisionModel.from_pretrained(encoder).eval()
    processor = OneVisionVideoProcessor.from_pretrained(encoder)
    for number in (0, 8):
        inputs = processor(source.open(source.items[number]), return_tensors="pt")
        with torch.inference_mode():
            expected = normalize(model(**inputs).pooler_output, dim=1)[0]
        found = torch.tensor(shards.matrix(number // 7)[number % 7]).float()
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_its_identity_tells_weights_and_processor_apart(encoder, tmp_path):
    own = make_teacher(f"codec:{encoder}").identity
    assert json.loads(json.dumps(own)) == own
    assert make_teacher(f"codec:{encoder}", num_frames=4).identity != own


def test_what_it_cannot_do_is_said(encoder, tmp_path):
    teacher = make_teacher(f"codec:{encoder}")
    with pytest.raises(MediaError, match="name the encoder without `codec:`"):
        teacher.prepare(as_bytes(picture("red", "disc", 0)), "image")
    with pytest.raises(ValueError, match="--keep-dims and --pool are for other models"):
        make_teacher(f"codec:{encoder}", keep_dims=8)
    OneVisionModel(OneVisionConfig.tiny(use_head=False)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no pooling head"):
        make_teacher(f"codec:{tmp_path}")
    many = OneVisionVideoProcessor(num_frames=6, size=56, num_patches=5000)
    OneVisionModel(OneVisionConfig.tiny()).save_pretrained(tmp_path / "b")
    many.save_pretrained(tmp_path / "b")
    with pytest.raises(MediaError, match="no selection of its patches: num_patches=5000"):
        make_teacher(f"codec:{tmp_path / 'b'}").prepare(clip("red", "right", 0), "video")
    assert np.isfinite(teacher.encode([teacher.prepare(clip("red", "right", 0), "video")]).numpy()).all()
