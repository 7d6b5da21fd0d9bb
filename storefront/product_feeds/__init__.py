"""Product feeds: files of a store's published products for comparison sites and search engines."""
