// Follows a store over server-sent events with graphql-sse, for networks that block WebSockets.

// [guide]
import { createClient } from 'graphql-sse';
import { Catalogue, FEED, follow, post } from './catalogue.mjs';

export function run({ url, token, configId, onState, signal }) {
  const events = createClient({
    url,
    headers: async () => ({ authorization: `Bearer ${await token()}` }),
    retryAttempts: 0, // follow() subscribes anew, from the new position
  });
  signal.addEventListener('abort', () => events.dispose());

  async function feed(after, take) {
    for await (const { data, errors } of events.iterate({ query: FEED, variables: { configId, after } })) {
      if (errors) throw errors;
      await take(data.productFeed);
    }
  }

  const catalogue = new Catalogue({ ask: post({ url, token }), configId, onState });
  return { catalogue, done: follow(catalogue, feed, signal) };
}
// [/guide]
