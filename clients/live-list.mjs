// Keeps the first products of a sorted and filtered list up to date with graphql-ws.

// [guide]
import { follow } from './catalogue.mjs';
import { openSocket } from './socket.mjs';

export const LIST = `subscription List(
  $configId: ID!, $filter: ProductFilterInput, $search: String, $sort: ProductSortInput, $first: Int! = 20
) {
  productList(configId: $configId, filter: $filter, search: $search, sort: $sort, first: $first) {
    __typename
    position
    totalCount
    ... on ProductListSnapshot { products { id title price version } }
    ... on ProductListEnter { index product { id title price version } }
    ... on ProductListLeave { index }
    ... on ProductListMove { fromIndex toIndex product { id title price version } }
    ... on ProductListUpdate { index product { id title price version } }
  }
}`;

/** The products after an event. */
export function applied(products, event) {
  const rows = [...products];
  switch (event.__typename) {
    case 'ProductListSnapshot': return event.products;
    case 'ProductListEnter': rows.splice(event.index, 0, event.product); break;
    case 'ProductListLeave': rows.splice(event.index, 1); break;
    case 'ProductListMove': rows.splice(event.fromIndex, 1); rows.splice(event.toIndex, 0, event.product); break;
    case 'ProductListUpdate': rows.splice(event.index, 1, event.product);
  }
  return rows;
}

export function run({ url, token, configId, filter, search, sort, first, onState, signal }) {
  const socket = openSocket({ url, token });
  signal.addEventListener('abort', () => socket.dispose());

  const list = {
    products: [],
    totalCount: 0,
    position: '0',
    variables: { configId, filter, search, sort, first },
    take(event) {
      Object.assign(this, { products: applied(this.products, event), totalCount: event.totalCount, position: event.position });
      onState(this, event);
    },
  };

  // It has no position to resume from: each subscription begins with the whole list.
  async function feed({ after, ...variables }, take) {
    for await (const { data, errors } of socket.iterate({ query: LIST, variables })) {
      if (errors) throw errors;
      await take(data.productList);
    }
  }

  return { catalogue: list, done: follow(list, feed, signal) };
}
// [/guide]
