"""Stores (`Config` in the schema): settings, publishing, integrations, and their mutations."""
