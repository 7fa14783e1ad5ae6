"""Grading: release, sandbox, worker, judge, batch, gradebook, report."""
