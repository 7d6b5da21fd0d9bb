// Follows a store with graphql-ws alone.

// [guide]
import { Catalogue, FEED, follow, post } from './catalogue.mjs';
import { openSocket } from './socket.mjs';

export function run({ url, token, configId, filter, onState, signal }) {
  const socket = openSocket({ url, token });
  signal.addEventListener('abort', () => socket.dispose());

  async function feed(variables, take) {
    for await (const { data, errors } of socket.iterate({ query: FEED, variables })) {
      if (errors) throw errors;
      await take(data.productFeed);
    }
  }

  const catalogue = new Catalogue({ ask: post({ url, token }), configId, filter, onState });
  return { catalogue, done: follow(catalogue, feed, signal) };
}
// [/guide]
