"""The nouns as clients see them, their edges, and what lists and scalars look like."""
