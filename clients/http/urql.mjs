// urql over plain HTTP: hashes instead of documents, subscriptions as server-sent events.

// [guide]
import { Client, fetchExchange } from '@urql/core';
import { persistedExchange } from '@urql/exchange-persisted';

export function open({ url, token, fetch }) {
  return new Client({
    url,
    fetch,
    fetchOptions: { headers: token ? { authorization: `Bearer ${token}` } : {} },
    fetchSubscriptions: true,
    exchanges: [persistedExchange({ preferGetForPersistedQueries: true }), fetchExchange],
  });
}
// [/guide]
