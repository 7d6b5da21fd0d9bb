"""Responses that are cached, and what makes a response cacheable."""
