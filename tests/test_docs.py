"""What the documentation points at is there."""

import re

from tlcourse.notebooks import project_root

ROOT = project_root()
ROW = re.compile(r"^\| [^|]+ \| (\d\d) \| ([^|]+) \|$", re.MULTILINE)


def test_every_topic_points_at_a_section_that_exists():
    rows = ROW.findall((ROOT / "docs" / "coverage.md").read_text())
    assert len(rows) > 50
    for number, section in rows:
        (source,) = (ROOT / "notebooks" / "source").glob(f"{number}_*.py")
        assert f"# ## {section}\n" in source.read_text(), f"{source.name} has no section {section}"


def test_every_section_of_a_lesson_is_found_by_topic():
    listed = set(ROW.findall((ROOT / "docs" / "coverage.md").read_text()))
    ends = re.compile("What was seen|What you have seen|What is commonly taught.*")
    for source in sorted((ROOT / "notebooks" / "source").glob("*.py")):
        number = source.name[:2]
        if number == "00":
            continue
        sections = re.findall(r"^# ## (.+)$", source.read_text(), re.MULTILINE)
        missing = [s for s in sections if (number, s) not in listed and not ends.fullmatch(s)]
        assert not missing, f"docs/coverage.md does not list {number}: {', '.join(missing)}"
