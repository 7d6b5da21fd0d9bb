"""The owner's page: the report and the live counters, asked for by GraphQL as any front end would."""
