// Relay over HTTP, with the persisted documents of its compiler's manifest (persistConfig: {file}).

// [guide]
import { Environment, Network, RecordSource, Store } from 'relay-runtime';

export function open({ url, token, fetch = globalThis.fetch }) {
  async function fetchOperation(params, variables) {
    const response = await fetch(url, {
      method: 'POST',
      headers: {
        accept: 'application/graphql-response+json',
        'content-type': 'application/json',
        ...(token && { authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify({ documentId: params.id, query: params.text ?? undefined, variables }),
    });
    return response.json();
  }
  return new Environment({ network: Network.create(fetchOperation), store: new Store(new RecordSource()) });
}
// [/guide]
