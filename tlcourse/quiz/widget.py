"""The room: one widget for every kind of question, with plain text where no widget can run.

The browser is given what may be seen and nothing else: the key stays here until an answer came.
What is open (which question, drawn from which seed, what was typed) stands in a small file beside
the record, so that running the cell again after a restart goes on where it was.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import anywidget
import traitlets

from tlcourse import notebooks, progress
from tlcourse.quiz import card, memory, rubric
from tlcourse.quiz.render import as_html

HERE = Path(__file__).parent
# What the browser may ask for.
REQUESTS = ("answer", "next", "more", "hint", "rate", "overrule", "pick")
REQUESTS += ("resume", "pause", "end", "again")


class Room(anywidget.AnyWidget):
    """Asks its questions one after the other, marks the answers and notes them in the record.

    Options, lines and steps count from 1, as they are shown. Each method returns the room.
    """

    _esm, _css = HERE / "widget.js", HERE / "widget.css"
    shown = traitlets.Dict().tag(sync=True)  # all that the browser knows
    given = traitlets.Any(None, allow_none=True).tag(sync=True)  # what is typed or ticked so far

    name = "room"  # how the room is called where nothing can be clicked

    def __init__(self, questions: dict, slug: str, seed: int | None = None):
        super().__init__()
        self._questions, self._slug = questions, slug
        # Without a record a room asks the same each time, so that a view does, too.
        self._fixed = 0 if seed is None and progress.path() is None else seed
        self._rng = random.Random(self._fixed)
        self._tally, self._passed = Counter(), set()
        self._posed = self._marked = self._follow_up = None
        self._hinted = False
        self.on_msg(self._received)
        if not self._restored():
            self.next()

    def answer(self, answer) -> Room:
        """Mark an answer. Raises ValueError for one of another form; the question then stays."""
        self._may_answer()
        kind = self._posed.question.kind
        if hasattr(answer, "tolist"):  # NumPy's numbers and arrays
            answer = answer.tolist()
        try:
            if kind == "single":
                answer = int(answer) - 1
            elif kind in ("several", "order"):
                answer = [int(place) - 1 for place in answer]
        except TypeError:
            raise ValueError(f"{answer!r} is no answer to this kind of question") from None
        self._answer(answer)
        return self

    def next(self) -> Room:
        """Ask the next question: a follow-up, the one most forgotten, or a new one."""
        if self._posed and not self._marked:
            self._passed.add(self._posed.question.id)  # skipped
        question = self._questions.get(self._follow_up) or next(iter(self._waiting()), None)
        self._pose(question and question.pose(self._rng.getrandbits(31)))
        return self

    def hint(self) -> Room:
        """Show a hint; a right answer is then noted as hard."""
        self._may_answer()
        self._hinted = True
        self._show()
        return self

    def rate(self, rating: str) -> Room:
        """Say how hard the answered question was: again, hard, good or easy."""
        self._revise(rating)
        return self

    def overrule(self, points: list[int]) -> Room:
        """Judge these points of an open answer (from 1) otherwise than the scorer; [] undoes it."""
        if self._marked is not None:
            if self._posed.question.kind != "open":
                raise ValueError("only the points of an open answer can be overruled")
            chosen = [int(point) - 1 for point in points]
            self._marked = rubric.mark(self._posed.question, self._last, chosen)
        self._revise()
        return self

    def __repr__(self) -> str:
        if self._posed is None:
            return self._ended
        return card.as_text(self._posed, self.name, self._marked)

    def _repr_mimebundle_(self, **_):
        # Where the widget cannot run, the page takes the next best of these.
        static = as_html(self._ended)
        if self._posed is not None:
            static = card.as_static(self._posed, self.name, self._marked)
        data, metadata = super()._repr_mimebundle_()
        return data | {"text/plain": repr(self), "text/html": f"<div>{static}</div>"}, metadata

    # --- what it does -------------------------------------------------------------------------

    _ended = ""

    def _may_answer(self) -> None:
        if self._posed is None or self._marked is not None:
            raise ValueError("there is no open question: ask for the next one")

    def _answer(self, answer) -> None:
        self._may_answer()
        posed = self._posed
        self._marked = posed.mark(answer)
        self._last, self.given = answer, answer
        self._seconds = time.monotonic() - self._since if self._since else None
        rating = memory.rate(posed.question.kind, self._marked.score, self._seconds)
        self._remember("hard" if self._hinted and rating == "good" else rating)
        self._tally["answered"] += 1
        self._tally["right"] += self._marked.right
        if progress.path() is None:  # then nothing else knows that it was asked
            self._passed.add(posed.question.id)
        follow_up = posed.question.follow_up
        self._follow_up = follow_up.right if self._marked.right else follow_up.wrong
        self._show()

    def _remember(self, rating=None, revised=False) -> None:
        kind = self._posed.question.kind
        self._rating = rating or memory.rate(kind, self._marked.score, self._seconds)
        memory.remember(self._posed, self._marked, self._last, self._seconds, self._rating, revised)

    def _revise(self, rating=None) -> None:
        if self._marked is None:
            raise ValueError("answer the question first")
        self._remember(rating, revised=True)
        self._show()

    def _waiting(self) -> list:
        """The questions to ask, in order."""
        return list(self._questions.values())

    def _pose(self, posed, given=None, hinted=False) -> None:
        self._posed, self._marked, self._hinted, self._follow_up = posed, None, hinted, None
        self._since, self.given = time.monotonic(), given
        self._show()

    def _show(self) -> None:
        posed, marked = self._posed, self._marked
        shown = {"front": posed and card.front(posed), "progress": self._progress()}
        shown |= {"hint": "", "back": None, "buttons": self._buttons(), "html": ""}
        if posed is None:
            shown["html"] = as_html(self._ended)
        elif marked is not None:
            shown["back"] = card.back(posed, marked) | {"rating": self._rating}
        elif self._hinted:
            shown["hint"] = card.hint(posed)
        self.shown = shown | self._extras()
        self._keep()

    def _buttons(self) -> list:
        if self._marked is not None:
            return [["next", "Next question"]]
        hint = [] if self._hinted else [["hint", "Hint"]]
        return [["answer", "Answer"], *hint, ["next", "Skip"]]

    def _progress(self) -> str:
        return ""

    def _extras(self) -> dict:
        """What else is shown."""
        return {}

    def _received(self, _, message, __) -> None:
        """Do what the browser asks for; what goes wrong is said there."""
        do, value = message.get("do"), message.get("value")
        try:
            if do not in REQUESTS or not hasattr(self, do):
                raise ValueError(f"unknown request {do!r}")
            if do == "answer":
                self._answer(value)
            elif isinstance(value, dict):
                getattr(self, do)(**value)
            else:
                getattr(self, do)(*([] if value is None else [value]))
        except Exception as error:
            known = isinstance(error, ValueError)
            self.send({"problem": str(error) if known else f"{type(error).__name__}: {error}"})
            if not known:
                raise

    # --- what is open -------------------------------------------------------------------------

    @property
    def _file(self) -> Path | None:
        place = progress.path()
        return place and place.with_name(f"{place.name}-open-{self._slug}.json")

    @traitlets.observe("given")
    def _keep(self, _=None) -> None:
        """Write down what is open, as a whole, so that two notebooks do each other no harm."""
        state = self._state()
        if self._file is None:
            return
        try:
            if state is None:
                self._file.unlink(missing_ok=True)
            else:
                notebooks.write_whole(self._file, json.dumps(state))
        except OSError:
            pass  # the record has said already that nothing can be written there

    def _state(self) -> dict | None:
        if self._posed is None or self._marked is not None:
            return None
        where = {"id": self._posed.question.id, "seed": self._posed.seed, "given": self.given}
        return where | {"hinted": self._hinted}

    def _restored(self) -> bool:
        try:
            state = json.loads(self._file.read_text(encoding="utf-8"))
            self._restore(state)
        except (AttributeError, OSError, KeyError, TypeError, ValueError):
            return False  # nothing was open, or it was written by another version
        return True

    def _restore(self, state: dict) -> None:
        posed = self._questions[state["id"]].pose(state["seed"])
        self._pose(posed, state["given"], state["hinted"])
        self._since = None  # how long it took is not known any more
