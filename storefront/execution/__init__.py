"""The breadth-first executor: knows GraphQL, knows no product."""
