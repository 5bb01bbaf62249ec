"""Multiple-choice questions about drawn clips, with their answers, from the truth.

clip, questions = ask_clip(seed=0, index=5)
questions[0].prompt()      # the question, its choices by letter
"""

from dataclasses import dataclass

from .clips import Clip, ClipSettings, draw_clip
from .families import CLIP_FAMILIES, Family
from .rng import StableRNG

LETTERS = "ABCDEFGH"
MAX_CHOICES = 4
QUESTIONS_PER_CLIP = 3


@dataclass(frozen=True)
class Question:
    """A question with lettered choices, one of which is right.

    Attributes:
        family: the family it belongs to.
        text: the question.
        choices: at most four.
        answer: the letter of the right one.
    """

    family: str
    text: str
    choices: tuple[str, ...]
    answer: str

    @property
    def label(self) -> str:
        return self.choices[LETTERS.index(self.answer)]

    def prompt(self) -> str:
        """The question and a line for each choice."""
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False)]
        return "\n".join([self.text, *lines])


def ask(family: Family, label: str, rng: StableRNG) -> Question:
    """The question of a family whose answer is `label`, with up to three wrong choices, shuffled.

    Args:
        family: of the question.
        label: the right answer.
        rng: draws the wrong ones and the order.

    Raises:
        ValueError: the family has no such label.
    """
    if label not in family.labels:
        raise ValueError(f"{family.name} has no label {label!r}; it has {', '.join(family.labels)}")
    wrong = rng.shuffled([other for other in family.labels if other != label])[: MAX_CHOICES - 1]
    choices = rng.shuffled([label, *wrong])
    return Question(family.name, family.question, tuple(choices), LETTERS[choices.index(label)])


def ask_clip(
    seed: int,
    index: int,
    family: str | None = None,
    settings: ClipSettings = ClipSettings(),  # noqa: B008
) -> tuple[Clip, list[Question]]:
    """A clip and what is asked of it: the one question of `family`, or three of which the scene's come first.

    Args:
        seed: of the world, 0 or more.
        index: of the clip, 0 or more.
        family: of the one question; None is three questions.
        settings: of the clip.

    Raises:
        ValueError: as `draw_clip`.
    """
    clip = draw_clip(seed, index, family, settings)
    rng = StableRNG(seed, "questions", family or "", index)
    if family is not None:
        families = [CLIP_FAMILIES[family]]
    else:
        answered = [f for f in CLIP_FAMILIES.values() if clip.labels[f.name] is not None]
        of_scene = rng.shuffled([f for f in answered if f.scenes and f.name != "shape"])
        of_any = rng.shuffled([f for f in answered if not f.scenes or f.name == "shape"])
        # One question at least that no event of the scene answers.
        families = [*of_scene[: QUESTIONS_PER_CLIP - 1], *of_any][:QUESTIONS_PER_CLIP]
    return clip, [ask(f, str(clip.labels[f.name]), rng) for f in families]
