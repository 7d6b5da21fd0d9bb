"""The owner's dashboard: a page that shows report and live counters, by GraphQL like any front end."""
