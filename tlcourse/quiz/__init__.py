"""Questions that teach, remember and run code: the bank, its record and its rooms.

In a notebook: `quiz.room()`, `quiz.ask(question_id)` and `quiz.interview(minutes, level)`.
"""


def __getattr__(name: str):
    # Widgets take a third of a second to import; the terminal does without.
    if name not in ("room", "ask", "interview"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tlcourse.quiz import rooms

    return getattr(rooms, name)
