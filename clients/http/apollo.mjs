// Apollo Client over HTTP: automatic persisted queries, and subscriptions over multipart responses.

// [guide]
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache } from '@apollo/client';
import { BatchHttpLink } from '@apollo/client/link/batch-http';
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries';
import { OperationTypeNode } from 'graphql';

const sha256 = async (text) => {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
};

export function open({ url, token, fetch }) {
  const http = { uri: url, headers: token ? { authorization: `Bearer ${token}` } : {}, fetch };
  return new ApolloClient({
    cache: new InMemoryCache(),
    link: ApolloLink.split(
      ({ operationType }) => operationType === OperationTypeNode.QUERY,
      // By their hashes with GET, which caches on the way can keep; and with text and hash, by POST, the first time.
      ApolloLink.from([new PersistedQueryLink({ sha256, useGETForHashedQueries: true }), new HttpLink(http)]),
      new HttpLink(http), // subscriptions come over multipart, of itself
    ),
  });
}

/** Queries of the same moment in one request. */
export function openBatching({ url, token, fetch }) {
  const http = { uri: url, headers: token ? { authorization: `Bearer ${token}` } : {}, fetch };
  return new ApolloClient({
    cache: new InMemoryCache(),
    link: ApolloLink.from([new PersistedQueryLink({ sha256 }), new BatchHttpLink({ ...http, batchMax: 10, batchInterval: 10 })]),
  });
}
// [/guide]
