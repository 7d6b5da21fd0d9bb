// Follows a store with graphql-ws alone.

// [guide]
import { Catalogue, FEED, follow, post } from './catalogue.mjs';
import { openSocket } from './socket.mjs';

export function run({ url, token, configId, onState, signal }) {
  const socket = openSocket({ url, token });
  signal.addEventListener('abort', () => socket.dispose());

  async function feed(after, take) {
    for await (const { data, errors } of socket.iterate({ query: FEED, variables: { configId, after } })) {
      if (errors) throw errors;
      await take(data.productFeed);
    }
  }

  const catalogue = new Catalogue({ ask: post({ url, token }), configId, onState });
  return { catalogue, done: follow(catalogue, feed, signal) };
}
// [/guide]
