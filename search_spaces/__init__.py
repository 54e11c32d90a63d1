"""What may vary: the dimensions of a search, and which of their combinations are legal."""
