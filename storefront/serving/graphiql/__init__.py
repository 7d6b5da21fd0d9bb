"""GraphiQL from local files, without a CDN. `assets` installs the files, `page` serves them. Independent of the product."""
