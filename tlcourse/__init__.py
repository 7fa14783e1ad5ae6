"""The helper package of the transfer learning course: files, plots, timing and checks.

What a notebook teaches stands in the notebook; see notebooks/.
"""

__version__ = "0.5.0"
