"""Settings, database, authentication, storage, outbound HTTP, texts, amounts: the base of all packages. No tables, no GraphQL."""
