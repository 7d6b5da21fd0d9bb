"""GraphQL over HTTP: requests in, results out. Knows GraphQL and the web, but nothing of what is served."""
