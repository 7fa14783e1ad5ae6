"""What holds for every test."""

import os

# No test may write into the record of whoever runs the tests.
os.environ["TLCOURSE_PROGRESS"] = "off"
