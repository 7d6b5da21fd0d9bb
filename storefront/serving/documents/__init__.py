"""Documents: parsed, limited, validated, costed and cached."""
