"""Answers that a task's own scoring reads and counts as wrong, for documents whose media are broken.

An empty or garbled answer is not simply wrong everywhere: some tasks draw a choice at random for it, some
drop the document from the denominator. A valid wrong choice is wrong in all of them. Each function takes a
document of the task's data set.
"""

from collections.abc import Callable, Mapping
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Shares no letter and no digit with an answer, so that neither a substring nor an edit distance is near.
UNLIKE_ANY_ANSWER = "§§§"


def no_answer(document: Mapping[str, Any]) -> str:
    """For answers in free text."""
    return UNLIKE_ANY_ANSWER


def nothing(document: Mapping[str, Any]) -> str:
    """For scorers of structure (tables, boxes), which find similarity in any text."""
    return ""


def other_of_yes_and_no(document: Mapping[str, Any]) -> str:
    return "No" if str(document["answer"]).strip().lower().startswith("yes") else "Yes"


def wrong_letter(field: str, letters: str) -> Callable[[Mapping[str, Any]], str]:
    """The answer is one of `letters`."""

    def wrong(document: Mapping[str, Any]) -> str:
        right = str(document[field]).strip().upper()
        return next(letter for letter in letters if letter != right)

    return wrong


def wrong_index(field: str, count: int = 0, options: str = "") -> Callable[[Mapping[str, Any]], str]:
    """The answer is the index of one of `count` options, or of those that another field lists."""

    def wrong(document: Mapping[str, Any]) -> str:
        right = int(document[field])
        choices = len(document[options]) if options else count
        return LETTERS[(right + 1) % max(choices, 2)]

    return wrong


def wrong_choice_of(options: str, field: str) -> Callable[[Mapping[str, Any]], str]:
    """The answer is the text of one of the options, answered by its letter."""

    def wrong(document: Mapping[str, Any]) -> str:
        right = list(document[options]).index(document[field])
        return LETTERS[(right + 1) % max(len(document[options]), 2)]

    return wrong


def wrong_option_column(document: Mapping[str, Any]) -> str:
    """The options are the columns A to D, of which some are empty ("nan")."""
    right = str(document["answer"]).strip().upper()
    given = [x for x in "ABCD" if document.get(x) not in (None, "", "nan")]
    return next((x for x in given if x != right), "A" if right != "A" else "B")


def wrong_letter_or_text(document: Mapping[str, Any]) -> str:
    """Some answers are letters, others are words or numbers."""
    right = str(document["answer"]).strip().upper()
    return next(x for x in "ABCD" if x != right) if right in "ABCD" else UNLIKE_ANY_ANSWER
