// TanStack Query with graphql-request: cursor pagination, and errors by code.

// [guide]
import { QueryClient } from '@tanstack/query-core';
import { ClientError, GraphQLClient, gql } from 'graphql-request';

const PRODUCTS = gql`
  query Products($configId: ID!, $after: String) {
    products(configId: $configId, first: 2, after: $after) {
      nodes { id title }
      pageInfo { endCursor hasNextPage }
    }
  }
`;

export function open({ url, token, fetch }) {
  const server = new GraphQLClient(url, { fetch, headers: token ? { authorization: `Bearer ${token}` } : {} });
  const queries = new QueryClient({
    // What the server refuses, it refuses again: only lost connections and failures of the server are worth another try.
    defaultOptions: { queries: { retry: (failures, error) => failures < 3 && !isRefusal(error) } },
  });
  return { server, queries };
}

/** For useInfiniteQuery. */
export function products(server, configId) {
  return {
    queryKey: ['products', configId],
    queryFn: ({ pageParam, signal }) =>
      server.request({ document: PRODUCTS, variables: { configId, after: pageParam }, signal }).then((data) => data.products),
    initialPageParam: null,
    getNextPageParam: ({ pageInfo }) => (pageInfo.hasNextPage ? pageInfo.endCursor : undefined),
  };
}

export function isRefusal(error) {
  const code = error instanceof ClientError && error.response.errors?.[0]?.extensions?.code;
  return Boolean(code) && !['INTERNAL_SERVER_ERROR', 'SERVICE_UNAVAILABLE'].includes(code);
}
// [/guide]
