// urql over HTTP: automatic persisted queries, and subscriptions over server-sent events.

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
