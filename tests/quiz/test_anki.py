"""An Anki deck whose second import updates: the same notes by their guid, whatever the text."""

import json
import re
import sqlite3
import zipfile

import pytest

from tlcourse.quiz import anki


def notes(file, folder):
    """What an .apkg holds: guid -> (fields, tags, id of the kind of note), and the deck's names."""
    with zipfile.ZipFile(file) as packed:
        packed.extract("collection.anki2", folder)
    with sqlite3.connect(folder / "collection.anki2") as content:
        rows = content.execute("SELECT guid, flds, tags, mid FROM notes").fetchall()
        (decks,) = content.execute("SELECT decks FROM col").fetchone()
    content.close()
    assert len({guid for guid, *_ in rows}) == len(rows)
    named = {int(number): deck["name"] for number, deck in json.loads(decks).items()}
    return {guid: (fields.split("\x1f"), tags, mid) for guid, fields, tags, mid in rows}, named


@pytest.fixture
def written(small, tmp_path):
    def write(questions=None, name="first.apkg"):
        anki.write(list(small.values()) if questions is None else questions, tmp_path / name)
        return notes(tmp_path / name, tmp_path)

    return write


def test_two_exports_hold_the_same_notes_in_the_same_deck(written, small):
    first, second = written(), written(name="second.apkg")
    assert first == second and len(first[0]) == len(small)
    # These numbers must never change: decks that were imported before are found by them.
    assert first[1][1_911_306_117] == "Transfer learning interview"
    assert {mid for *_, mid in first[0].values()} == {1_427_905_118}


def test_changed_text_keeps_its_note(written, small):
    before, _ = written()
    changed = [q.model_copy(update={"ask": f"Say: {q.ask}"}) for q in small.values()]
    after, _ = written(changed, "changed.apkg")
    assert set(after) == set(before)
    assert all(after[guid][0][0] != before[guid][0][0] for guid in before)


def test_another_question_is_another_note_and_leaves_the_rest(written, small):
    before, _ = written()
    renamed = small["open-why-freeze"].model_copy(update={"id": "open-why-not"})
    rest = [question for question in small.values() if question.id != "open-why-freeze"]
    after, _ = written([*rest, renamed], "renamed.apkg")
    assert len(set(after) - set(before)) == len(set(before) - set(after)) == 1


def test_a_card_shows_the_question_first_and_says_that_its_numbers_stay(written):
    held, _ = written()
    (card,) = (f for f, tags, _ in held.values() if "kind::number" in tags)
    question, answer, topic, where = card
    assert "How many parameters" in question and "stay the same" in question
    number = re.search(r"[\d,]+ parameters", answer)[0]
    assert number not in question and topic == "Feature extraction · screening"
    assert "notebook 04, “Cut the head off”" in where
    (choice,) = (f for f, tags, _ in held.values() if "kind::single" in tags)
    assert "stay the same" not in choice[0] and "<p>A. " in choice[0] and "A: " in choice[1]
    assert "{{FrontSide}}" in anki.BACK and "{{Answer}}" not in anki.FRONT


def test_formulas_stand_between_the_marks_of_ankis_mathjax(written):
    held, _ = written()
    (code,) = (f for f, tags, _ in held.values() if "kind::code" in tags)
    assert r"\(1/h_{\max}\)" in code[0]
    assert "def largest_rate(H):" in code[0] and "<pre>" in code[0]


def test_code_with_angle_brackets_stays_text(written, small):
    question = small["open-why-freeze"].model_copy(
        update={"ask": "Is `a < b` in <script>x</script>?"}
    )
    ((fields, *_),) = written([question], "angle.apkg")[0].values()
    assert "<script>" not in fields[0] and "a &lt; b" in fields[0]
