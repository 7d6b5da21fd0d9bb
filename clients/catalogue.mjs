// A client-side copy of a store's products: fetched once, then updated by the feed. Independent of GraphQL libraries.

// [guide]
export const POSITION = `query Position($configId: ID!) { config(by: { id: $configId }) { position } }`;

export const PRODUCTS = `query Products($configId: ID!, $filter: ProductFilterInput, $after: String) {
  products(configId: $configId, filter: $filter, first: 100, after: $after) {
    nodes { id title price version }
    pageInfo { hasNextPage endCursor }
  }
}`;

export const FEED = `subscription Feed($configId: ID!, $filter: ProductFilterInput, $after: Position) {
  productFeed(configId: $configId, filter: $filter, after: $after) {
    __typename
    position
    ... on ProductCreated { clientMutationId product { id title price version } }
    ... on ProductUpdated { clientMutationId changedFields product { id title price version } }
    ... on ProductDeleted { clientMutationId productId }
    ... on FeedReset { reason }
  }
}`;

export const CREATE = `mutation Create($input: CreateProductInput!) {
  createProduct(input: $input) {
    product { id title price version }
    userErrors { message path }
  }
}`;

export class Catalogue {
  products = [];
  position = null;

  /** `ask(document, variables)` answers with data; `onState(catalogue, event)` is called after each change. */
  constructor({ ask, configId, filter, onState }) {
    Object.assign(this, { ask, configId, filter, onState });
  }

  /** The variables that the list and its feed share. */
  get variables() {
    return { configId: this.configId, filter: this.filter };
  }

  /** Read the whole list. The position comes first: what changes while the list is read is told again, and nothing is missed. */
  async load(event) {
    const { config } = await this.ask(POSITION, { configId: this.configId });
    const fetched = config ? await this.#pages() : []; // null: the store is closed, and the feed tells when it opens
    this.products = [...this.products.filter(isPending), ...fetched];
    this.position = config?.position ?? event?.position ?? '0';
    this.onState(this, event);
  }

  /** Apply an event of the feed, once. */
  async take(event) {
    if (event.__typename === 'FeedReset') return this.load(event);
    if (BigInt(event.position) <= BigInt(this.position)) return; // the list was read after it
    this.products = applied(this.products, event);
    this.position = event.position;
    this.onState(this, event);
  }

  /** Show a product at once, and create it. The feed or the answer brings the real one, whichever comes first. */
  async create(values) {
    const id = crypto.randomUUID();
    const input = { ...values, configId: this.configId, clientMutationId: id, idempotencyKey: id };
    this.#show([{ __typename: 'Product', id, ...values, version: 0 }, ...this.products]);
    // Sent again where the answer was lost: with the same key it is done once.
    const { createProduct } = await untilAnswered(() => this.ask(CREATE, { input }));
    const { product, userErrors } = createProduct;
    this.#show(product ? merged(this.products, product, id) : this.products.filter((row) => row.id !== id));
    return { product, userErrors };
  }

  #show(products) {
    this.products = products;
    this.onState(this);
  }

  async #pages() {
    const rows = [];
    for (let after = null; ; ) {
      const { products } = await this.ask(PRODUCTS, { ...this.variables, after });
      rows.push(...products.nodes);
      if (!products.pageInfo.hasNextPage) return rows;
      after = products.pageInfo.endCursor;
    }
  }
}

const isPending = (row) => row.version === 0;

/** The list after an event. */
export function applied(products, event) {
  if (event.__typename === 'ProductDeleted') return products.filter((row) => row.id !== event.productId);
  // A heartbeat, or a type that is newer than this client, has no product: only its position counts.
  return event.product ? merged(products, event.product, event.clientMutationId) : products;
}

/** The list with a product in its place: that of its older self, or of the pending row of the mutation that made it. */
export function merged(products, product, clientMutationId) {
  const known = products.findIndex((row) => row.id === product.id);
  const pending = products.findIndex((row) => row.id === clientMutationId);
  if (known < 0) return pending < 0 ? [product, ...products] : products.with(pending, product);
  const newer = products[known].version > product.version ? products : products.with(known, product);
  return newer.filter((row) => row.id !== clientMutationId);
}

/** Load the list, then follow the feed until `signal` aborts. `feed(variables, take)` is one subscription: over when its promise is. */
export async function follow(catalogue, feed, signal) {
  for (let failures = 0; !signal.aborted; failures += 1) {
    try {
      if (catalogue.position === null) await catalogue.load();
      // Each subscription starts after the last position that was applied: nothing is lost, nothing is told twice.
      await feed({ ...catalogue.variables, after: catalogue.position }, async (event) => {
        await catalogue.take(event);
        failures = 0;
      });
    } catch (error) {
      if (isFinal(error)) throw error;
    }
    await pause(failures, signal);
  }
}

/** The answer, however often the connection is lost on the way. */
async function untilAnswered(ask) {
  for (let failures = 0; ; failures += 1) {
    try {
      return await ask();
    } catch (error) {
      if (isFinal(error)) throw error;
      await pause(failures);
    }
  }
}

/** Whether the server has refused, so that asking again is of no use. Everything else is a lost connection. */
function isFinal(error) {
  const codes = [error, error?.errors, error?.graphQLErrors].flat().map((one) => one?.extensions?.code);
  const refused = codes.some((code) => code && !['INTERNAL_SERVER_ERROR', 'SERVICE_UNAVAILABLE', 'TIMEOUT'].includes(code));
  return refused || /\b(4400|4401|4406)\b/.test(error?.code ?? error?.message) || error?.response?.status === 401;
}

/** Twice as long each time, up to half a minute, and never all clients at once. */
function pause(failures, signal) {
  const ms = Math.min(30_000, 200 * 2 ** failures) * (0.5 + Math.random() / 2);
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** What signs a user in: headers, or the payload of a socket. Without a token one reads as a shopper. */
export async function credentials(token) {
  const value = await token?.();
  return value ? { authorization: `Bearer ${value}` } : {};
}

/** Queries and mutations over plain HTTP. */
export function post({ url, token }) {
  return async (query, variables) => {
    const headers = { 'content-type': 'application/json', ...(await credentials(token)) };
    const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ query, variables }) });
    const { data, errors } = await response.json();
    if (errors) throw errors;
    return data;
  };
}
// [/guide]
