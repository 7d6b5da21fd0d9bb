// One WebSocket for all subscriptions of a page, over the protocol graphql-transport-ws.

// [guide]
import { createClient } from 'graphql-ws';
import { credentials } from './catalogue.mjs';

export function openSocket({ url, token }) {
  let silence;
  const socket = createClient({
    url: url.replace(/^http/, 'ws'),
    connectionParams: () => credentials(token), // asked for anew on each connection
    retryAttempts: 0, // its own retries would ask from the old position again: follow() subscribes anew instead
    connectionAckWaitTimeout: 10_000,
    keepAlive: 10_000,
    on: {
      // A network that is gone says nothing: no answer to a ping within five seconds counts as a lost connection.
      ping: (received) => !received && (silence = setTimeout(() => socket.terminate(), 5_000)),
      pong: (received) => received && clearTimeout(silence),
      closed: () => clearTimeout(silence),
    },
  });
  return socket;
}
// [/guide]
