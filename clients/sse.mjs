// Follows a store over server-sent events with graphql-sse, for networks that block WebSockets.

// [guide]
import { createClient } from 'graphql-sse';
import { Catalogue, FEED, credentials, follow, post } from './catalogue.mjs';

export function run({ url, token, configId, filter, onState, signal }) {
  const events = createClient({
    url,
    headers: () => credentials(token),
    retryAttempts: 0, // follow() subscribes anew, from the new position
  });
  signal.addEventListener('abort', () => events.dispose());

  async function feed(variables, take) {
    for await (const { data, errors } of events.iterate({ query: FEED, variables })) {
      if (errors) throw errors;
      await take(data.productFeed);
    }
  }

  const catalogue = new Catalogue({ ask: post({ url, token }), configId, filter, onState });
  return { catalogue, done: follow(catalogue, feed, signal) };
}
// [/guide]
