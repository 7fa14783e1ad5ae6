"""Questions that teach, remember and run code: the bank, its record and its rooms."""
