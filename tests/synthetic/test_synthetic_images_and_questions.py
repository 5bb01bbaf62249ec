"""Images say in words what is in them; questions have one right answer, and it is the truth's."""

import numpy as np
import pytest

from onevision_hf.synthetic import (
    CLIP_FAMILIES,
    HELD_OUT_OBJECTS,
    IMAGE_FAMILIES,
    OBJECTS,
    ClipSettings,
    ImageSettings,
    ask,
    ask_clip,
    draw_image,
)
from onevision_hf.synthetic.rng import StableRNG

SMALL = ClipSettings(num_frames=32, height=32, width=32)


def test_captions_and_words_name_what_is_drawn():
    for index in range(24):
        image = draw_image(3, index)
        shapes = [sprite for sprite in image.truth.sprites if sprite["word"] is None]
        written = [sprite["word"] for sprite in image.truth.sprites if sprite["word"]]
        assert image.words == written == [image.labels["word"]] * bool(image.labels["word"])
        assert len(shapes) == int(image.labels["count"])
        long, middle, short = image.captions
        for sprite in shapes:
            assert f"{sprite['texture']} {sprite['colour']} {sprite['shape']}" in long
            assert f"{sprite['colour']} {sprite['shape']}" in middle
        assert all((word in long) and (word in middle) for word in written)
        assert f"{image.labels['texture']} {image.labels['colour']} {image.labels['shape']}" in short
        assert f"{shapes[0]['colour']}-{shapes[0]['shape']}" == image.labels["object"]


def test_the_object_of_an_image_is_the_largest_and_every_thing_is_seen_where_its_caption_says():
    for index in range(16):
        truth = draw_image(1, index).truth
        areas = truth.masks.sum(axis=(1, 2, 3))
        plain = [n for n, sprite in enumerate(truth.sprites) if sprite["word"] is None]
        assert areas[0] == max(areas[plain]) and areas.min() > 0
        caption = draw_image(1, index).captions[0]
        for n in plain[1:]:
            left, top, right, bottom = truth.boxes[n, 0]
            corner = (
                f"{'top' if top + bottom < 128 else 'bottom'} {'left' if left + right < 128 else 'right'}"
            )
            sprite = truth.sprites[n]
            assert f"{sprite['texture']} {sprite['colour']} {sprite['shape']} in the {corner}" in caption


def test_every_image_family_gives_each_of_its_labels_in_turn():
    for name, family in IMAGE_FAMILIES.items():
        labels = [
            draw_image(0, index, name, ImageSettings(32, 32)).labels[name]
            for index in range(len(family.labels))
        ]
        assert labels == list(family.labels)


def test_what_is_held_out_is_in_no_image_of_the_other_part():
    assert {o.split("-")[0] for o in HELD_OUT_OBJECTS} == {"red", "green", "blue", "yellow"}
    assert len({o.split("-")[1] for o in HELD_OUT_OBJECTS}) == 4
    seen = {}
    for split in ("train", "held-out", "all"):
        images = [draw_image(0, i, settings=ImageSettings(32, 32, split)) for i in range(120)]
        sprites = [s for image in images for s in image.truth.sprites if s["word"] is None]
        seen[split] = {f"{s['colour']}-{s['shape']}" for s in sprites}
    assert seen["held-out"] == set(HELD_OUT_OBJECTS) and seen["all"] == set(OBJECTS)
    assert seen["train"] == set(OBJECTS) - set(HELD_OUT_OBJECTS)
    labels = {
        draw_image(0, i, "object", ImageSettings(32, 32, "held-out")).labels["object"] for i in range(4)
    }
    assert labels == set(HELD_OUT_OBJECTS)


@pytest.mark.parametrize(("options", "said"), [({"height": 33}, "33 x 128"), ({"split": "test"}, "'test'")])
def test_image_settings_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ImageSettings(**options)


def test_a_question_has_one_right_choice_in_a_place_of_chance():
    letters = []
    for index in range(200):
        family = CLIP_FAMILIES["direction"]
        question = ask(family, family.labels[index % 8], StableRNG(index))
        assert len(set(question.choices)) == 4 and set(question.choices) <= set(family.labels)
        assert question.label == family.labels[index % 8]
        assert question.prompt().count("\n") == 4 and family.question in question.prompt()
        letters.append(question.answer)
    assert np.bincount([ord(letter) - ord("A") for letter in letters], minlength=4).min() > 30
    assert len(ask(CLIP_FAMILIES["growth"], "grows", StableRNG(0)).choices) == 2
    with pytest.raises(ValueError, match="'sideways'"):
        ask(CLIP_FAMILIES["growth"], "sideways", StableRNG(0))


def test_questions_about_a_clip_are_answered_by_its_labels():
    for index in range(20):
        clip, questions = ask_clip(0, index, settings=SMALL)
        assert len(questions) == 3 and len({q.family for q in questions}) == 3
        assert all(question.label == clip.labels[question.family] for question in questions)
        assert CLIP_FAMILIES[questions[0].family].scenes == (clip.scene,)
        assert CLIP_FAMILIES[questions[-1].family].kind in ("static", "sustained")
    clip, (question,) = ask_clip(0, 5, "binding", SMALL)
    assert question.family == "binding" and question.label == clip.labels["binding"]
