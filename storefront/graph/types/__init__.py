"""The object types of the schema that more than one feature returns, and their edges."""
