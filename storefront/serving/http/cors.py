"""CORS headers of public endpoints: any origin may read the response, and the request has no credentials."""

ANY_ORIGIN_HEADERS = {"access-control-allow-origin": "*"}
