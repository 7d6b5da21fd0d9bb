"""Settings, database, authentication, storage, outbound HTTP: the base of all other packages. No products, no GraphQL."""
