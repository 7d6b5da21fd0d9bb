"""Reviews of products: commands and mutations."""
