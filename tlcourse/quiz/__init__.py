"""Questions that teach, remember and run code: the bank, its record and its rooms.

In a notebook: `quiz.room()`, `quiz.ask(question_id)` and `quiz.interview(minutes, level)`.
"""


def __getattr__(name: str):
    # Widgets take a third of a second to import; the terminal does without.
    if name not in ("room", "ask", "interview"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tlcourse.quiz import rooms

    # All at once: importing the module interview has just put itself under that name.
    globals().update(room=rooms.room, ask=rooms.ask, interview=rooms.interview)
    return globals()[name]
