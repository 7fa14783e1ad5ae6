"""The report on a mock interview: what was strong, what to review and where, model answers."""

from __future__ import annotations

from dataclasses import dataclass

from . import bank, key


@dataclass(frozen=True)
class Asked:
    """A question as it was asked: what was answered (None: skipped), in how many seconds."""

    posed: bank.Posed
    answer: object
    marked: bank.Marked
    seconds: float
    follow_up: bool


@dataclass(frozen=True)
class Report:
    """What an interview showed; `spent` is in seconds."""

    minutes: int
    level: str
    spent: float
    asked: tuple[Asked, ...]

    def as_markdown(self) -> str:
        """Return the report: by topic, what was strong, what to review and where, model answers."""
        right = sum(one.marked.right for one in self.asked)
        head = f"{right} of {len(self.asked)} answered in full, in {self.spent / 60:.0f} minutes."
        strong = [one for one in self.asked if one.marked.right]
        weak = sorted(
            (one for one in self.asked if not one.marked.right), key=lambda one: one.marked.score
        )
        parts = [f"# Interview of {self.minutes} minutes, {self.level}", head]
        if not self.asked:
            return "\n\n".join(parts) + "\n"
        parts.append(self._by_topic())
        if strong:
            parts.append("## Strong")
            parts.append("\n".join(f"- {_line(one)}" for one in strong))
        if weak:
            parts.append("## To review")
            parts += [_reviewed(one) for one in weak]
        if spoken := [one for one in self.asked if one.posed.question.kind == "open"]:
            parts.append("## Model answers")
            parts += [
                f"**{one.posed.ask}**\n\n{one.posed.question.answers.medium}" for one in spoken
            ]
        return "\n\n".join(parts) + "\n"

    def _by_topic(self) -> str:
        topics: dict[str, list[float]] = {}
        for one in self.asked:
            topics.setdefault(one.posed.question.topic, []).append(one.marked.score)
        rows = [
            f"| {topic} | {len(scores)} | {sum(scores) / len(scores):.0%} |"
            for topic, scores in sorted(topics.items(), key=lambda row: sum(row[1]) / len(row[1]))
        ]
        return "\n".join(["| topic | questions | score |", "|---|---|---|", *rows])


def _line(one: Asked) -> str:
    return f"{one.posed.question.topic}: {' '.join(one.posed.ask.split())} ({one.seconds:.0f} s)"


def _reviewed(one: Asked) -> str:
    """A question that went wrong: what was answered, what is right, where to read."""
    question, said = one.posed.question, key.in_words(one.posed, one.answer).strip()
    parts = [f"### {question.topic}", one.posed.ask.strip()]
    if one.posed.code:
        parts.append(f"```python\n{one.posed.code.rstrip()}\n```")
    if said and question.kind == "code":
        said = f"\n\n```python\n{said}\n```"
    parts.append(f"You answered: {said}" if said else "Not answered.")
    if question.kind not in key.CHOICES:  # there the key says why of every option
        wrong = [note for note in one.marked.notes if note.chosen and not note.right and note.why]
        parts += [f"- {note.text}: {note.why}" for note in wrong]
    if question.kind != "open":  # its model answer comes at the end
        parts.append(f"The answer:\n\n{key.as_markdown(one.posed)}")
    where = [f"[{text}]({place})" if place else text for text, place in key.links(question)]
    parts.append(f"Review: {', '.join(where)}.")
    return "\n\n".join(parts)
