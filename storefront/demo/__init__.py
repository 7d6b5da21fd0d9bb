"""Stores to look at on the first day: made-up, the same every time, loaded in one go."""
