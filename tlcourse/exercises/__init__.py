"""Tasks checked in the notebook: from tlcourse.exercises import check."""

from .kit import check

__all__ = ["check"]
