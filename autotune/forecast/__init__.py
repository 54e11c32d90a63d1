"""Closed-form prediction of memory and step time, for many configurations at once."""
