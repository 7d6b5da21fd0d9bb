"""GraphQL over HTTP: requests are read, responses negotiated, rendered and streamed."""
