"""Features are those of the extractor, item by item; what is broken is named, and nothing stands for it."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawn import MOVES, as_bytes, clip, draw_pictures, picture
from torch.nn.functional import normalize

from onevision_hf.clustering.descriptors import describe_video
from onevision_hf.clustering.extractors import make_extractor
from onevision_hf.clustering.features import FeatureShards, extract_features
from onevision_hf.data.items import MediaError
from onevision_hf.data.media import open_picture, picture_size, segment_centers
from onevision_hf.data.sources import open_source
from onevision_hf.jobs.prefetch import ahead
from onevision_hf.modeling.video_reader import VideoReader


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory):
    """A tiny CLIP, saved with its image processor: any encoder that transformers loads would do."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**small, "image_size": 32, "patch_size": 8}, text_config=small, projection_dim=24
    )
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dino_model(tmp_path_factory):
    """A tiny DINOv2: no `get_image_features`, so its `pooler_output` is the feature."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    Dinov2Model(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 28}, crop_size=size).save_pretrained(folder)
    return str(folder)


def test_a_feature_is_what_the_model_gives_for_that_picture(tmp_path, clip_model):
    from transformers import AutoImageProcessor, AutoModel

    source = open_source(draw_pictures(tmp_path / "media", each=2))
    extract_features(
        source, tmp_path / "out", make_extractor(clip_model), "image", batch_size=5, shard_items=6
    )
    shards = FeatureShards(tmp_path / "out")
    assert shards.rows == [6, 6, 4] and shards.dim == 24
    model, processor = (
        AutoModel.from_pretrained(clip_model).eval(),
        AutoImageProcessor.from_pretrained(clip_model),
    )
    for number in (0, 7, 15):
        pixels = processor(open_picture(source.open(source.items[number])), return_tensors="pt")[
            "pixel_values"
        ]
        with torch.no_grad():
            expected = normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=1)[0]
        found = torch.tensor(shards.matrix(number // 6)[number % 6]).float()
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
        assert shards.table(number // 6)["key"][number % 6].as_py() == source.items[number].key


def test_a_model_without_image_features_gives_its_pooled_output(tmp_path, dino_model):
    extractor = make_extractor(dino_model)
    feature = extractor.encode([extractor.prepare(as_bytes(picture("red", "disc", 0)), "image")])
    assert feature.shape == (1, 32)
    torch.testing.assert_close(feature.norm(dim=1), torch.ones(1))


def test_a_videos_feature_is_its_frames_features_in_a_row_as_published(clip_model):
    content = clip("red", "right", 0, frames=20)
    extractor, pictures = make_extractor(clip_model, keep_dims=10), make_extractor(clip_model)
    feature = extractor.encode([extractor.prepare(content, "video")])[0]
    assert feature.shape == (80,)
    frames = pictures.prepare(content, "video")
    single = normalize(pictures.encode(list(frames[:, None]))[:, :10], dim=1)
    torch.testing.assert_close(feature.view(8, 10), single / 8**0.5, atol=1e-5, rtol=1e-4)
    mean = make_extractor(clip_model, pool="mean")
    assert mean.encode([mean.prepare(content, "video")]).shape == (1, 24)


def test_frames_are_the_middles_of_equal_segments():
    assert segment_centers(64, 8) == [4, 12, 20, 28, 36, 44, 52, 60]
    assert segment_centers(3, 8) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_other_weights_under_the_same_name_are_another_plan(tmp_path, clip_model):
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(clip_model, copy)
    before = make_extractor(str(copy)).identity
    weights = next(copy.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert make_extractor(str(copy)).identity != before


def test_broken_media_are_rejected_with_a_reason_and_the_rest_goes_on(tmp_path):
    media = draw_pictures(tmp_path / "media", each=1)
    whole = as_bytes(picture("red", "disc", 1), "jpg")
    (media / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (media / "empty.png").write_bytes(b"")
    (media / "text.png").write_text("no picture at all")
    source = open_source(media)
    summary = extract_features(source, tmp_path / "out", make_extractor("descriptors"), "image", batch_size=3)
    assert (summary["items"], summary["rejected"]) == (8, 3)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [r["key"] for r in rejected] == ["cut.jpg", "empty.png", "text.png"]
    assert all(len(r["reason"]) > 10 for r in rejected)
    extractor = make_extractor("descriptors")
    shards = FeatureShards(tmp_path / "out")
    for key, row in zip(shards.table(0)["key"].to_pylist(), shards.matrix(0), strict=True):
        expected = extractor.encode([extractor.prepare(str(media / key), "image")])[0].half().numpy()
        assert np.array_equal(row, expected)


def test_a_folder_of_nothing_but_broken_media_is_an_error(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").write_text("nothing")
    with pytest.raises(ValueError, match=r"none of the 1 items .* a\.png: not a readable picture"):
        extract_features(
            open_source(tmp_path / "media"), tmp_path / "out", make_extractor("descriptors"), "image"
        )


def test_changed_files_are_never_taken_for_finished_work(tmp_path):
    media = draw_pictures(tmp_path / "media", each=1)
    extractor = make_extractor("descriptors")
    extract_features(open_source(media), tmp_path / "out", extractor, "image")
    before = pq.read_table(tmp_path / "out" / "features-00000.parquet")
    picture("green", "stripes", 9).save(media / "red-disc" / "00.png")
    with pytest.raises(ValueError, match="sources have changed"):
        extract_features(open_source(media), tmp_path / "out", extractor, "image")
    extract_features(open_source(media), tmp_path / "out", extractor, "image", redo=True)
    after = pq.read_table(tmp_path / "out" / "features-00000.parquet")
    same = [a == b for a, b in zip(before["feature"].to_pylist(), after["feature"].to_pylist(), strict=True)]
    assert same.count(False) == 1


def test_the_batch_size_is_no_other_plan_but_the_shard_size_is(tmp_path):
    source, extractor = open_source(draw_pictures(tmp_path / "media", each=1)), make_extractor("descriptors")
    extract_features(source, tmp_path / "out", extractor, "image", batch_size=2)
    extract_features(source, tmp_path / "out", extractor, "image", batch_size=3)
    with pytest.raises(ValueError, match="shard_items was 4096, now 3"):
        extract_features(source, tmp_path / "out", extractor, "image", shard_items=3)


def test_pictures_are_read_as_they_are_displayed(tmp_path):
    from PIL import Image

    sideways = Image.new("RGB", (40, 20), "red")
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(str(tmp_path / "a.jpg")).size == (20, 40)
    assert picture_size((tmp_path / "a.jpg").read_bytes()) == (20, 40)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "b.png")
    assert open_picture(str(tmp_path / "b.png")).getpixel((0, 0)) == (255, 255, 255)


def test_results_come_in_order_from_threads_and_errors_come_through():
    assert list(ahead(lambda n: n * n, range(50), workers=4, depth=7)) == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda n: 1 // (n - 3), range(50), workers=4, depth=2))


def described(content, part):
    with VideoReader(content) as reader:
        return describe_video(reader, (part,))


def test_motion_tells_directions_and_is_blind_to_colour():
    clips = {(m, c): described(clip(c, m, 1), "motion") for m in MOVES for c in ("red", "blue")}
    for move in MOVES:
        own = float(clips[move, "red"] @ clips[move, "blue"])
        others = [float(clips[move, "red"] @ clips[other, "blue"]) for other in MOVES if other != move]
        assert own > max(others) + 0.2


def test_object_tells_the_colour_of_what_moves_and_is_blind_to_where_it_goes():
    clips = {(m, c): described(clip(c, m, 1), "object") for m in MOVES for c in ("red", "blue")}
    same = [float(clips["left", c] @ clips["right", c]) for c in ("red", "blue")]
    other = float(clips["left", "red"] @ clips["left", "blue"])
    assert min(same) > 0.99 and other < 0.9  # the same silhouette in another colour


def test_descriptors_say_what_they_cannot_describe(tmp_path):
    with pytest.raises(MediaError, match="a picture has no motion"):
        make_extractor("descriptors:motion").prepare(as_bytes(picture("red", "disc", 0)), "image")
    with pytest.raises(ValueError, match="unknown descriptors"):
        make_extractor("descriptors:smell")
    with pytest.raises(ValueError, match="--keep-dims"):
        make_extractor("descriptors", keep_dims=4)
