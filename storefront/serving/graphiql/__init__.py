"""GraphiQL from files on this machine. `assets` fetches the files, `page` serves them. Knows no product."""
