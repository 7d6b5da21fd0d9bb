"""Settings, database, identity: the ground that every room stands on. Knows no product and no GraphQL."""
