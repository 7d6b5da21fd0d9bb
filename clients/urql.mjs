// Follows a store with urql.

// [guide]
import { Client, fetchExchange, subscriptionExchange } from '@urql/core';
import { toAsyncIterable } from 'wonka';
import { Catalogue, FEED, credentials, follow } from './catalogue.mjs';
import { openSocket } from './socket.mjs';

export function run({ url, token, configId, filter, onState, signal }) {
  const socket = openSocket({ url, token });
  signal.addEventListener('abort', () => socket.dispose());

  const client = new Client({
    url,
    preferGetMethod: false,
    fetch: async (address, options) =>
      fetch(address, { ...options, headers: { ...options.headers, ...(await credentials(token)) } }),
    exchanges: [
      fetchExchange,
      subscriptionExchange({
        forwardSubscription: (request) => ({
          subscribe: (sink) => ({ unsubscribe: socket.subscribe({ ...request, query: request.query ?? '' }, sink) }),
        }),
      }),
    ],
  });

  const dataOf = ({ data, error }) => {
    if (error) throw error.networkError ?? error;
    return data;
  };
  const ask = async (document, variables) =>
    dataOf(await (document.startsWith('mutation') ? client.mutation(document, variables) : client.query(document, variables)));

  async function feed(variables, take) {
    for await (const result of toAsyncIterable(client.subscription(FEED, variables))) {
      await take(dataOf(result).productFeed);
    }
  }

  const catalogue = new Catalogue({ ask, configId, filter, onState });
  return { catalogue, done: follow(catalogue, feed, signal) };
}
// [/guide]
