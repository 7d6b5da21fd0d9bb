"""Pictures of products: uploads, what is made of them, and the sweep of what nobody shows any more."""
