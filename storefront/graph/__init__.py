"""The GraphQL layer that features share: context, loaders, object types, connections, scalars, inputs and mutations."""
