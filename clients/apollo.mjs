// Follows a store with Apollo Client. The list is written to its cache, where components read it.

// [guide]
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { SetContextLink } from '@apollo/client/link/context';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { OperationTypeNode } from 'graphql';
import { concatMap, lastValueFrom } from 'rxjs';
import { Catalogue, FEED, PRODUCTS, credentials, follow } from './catalogue.mjs';
import { openSocket } from './socket.mjs';

export function run({ url, token, configId, filter, onState, signal }) {
  const socket = openSocket({ url, token });
  signal.addEventListener('abort', () => socket.dispose());

  const signedIn = new SetContextLink(async ({ headers }) => ({
    headers: { ...headers, ...(await credentials(token)) },
  }));
  const client = new ApolloClient({
    cache: new InMemoryCache(),
    link: ApolloLink.split(
      ({ operationType }) => operationType === OperationTypeNode.SUBSCRIPTION,
      new GraphQLWsLink(socket),
      ApolloLink.from([signedIn, new HttpLink({ uri: url })]),
    ),
  });

  const ask = async (document, variables) => {
    const fetchPolicy = 'no-cache'; // what is fetched reaches the cache as part of the list
    const { data } = document.startsWith('mutation')
      ? await client.mutate({ mutation: gql(document), variables, fetchPolicy })
      : await client.query({ query: gql(document), variables, fetchPolicy });
    return data;
  };

  async function feed(variables, take) {
    const results = client.subscribe({ query: gql(FEED), variables, fetchPolicy: 'no-cache' });
    const taken = concatMap(async ({ data, error }) => {
      if (error) throw error;
      await take(data.productFeed);
    });
    await lastValueFrom(results.pipe(taken), { defaultValue: null });
  }

  // In a component: useQuery(gql(PRODUCTS), { variables: { configId, filter }, fetchPolicy: 'cache-only' })
  const list = { query: gql(PRODUCTS), variables: { configId, filter } };
  const show = ({ products, position }, event) => {
    const pageInfo = { __typename: 'PageInfo', hasNextPage: false, endCursor: null };
    client.writeQuery({ ...list, data: { products: { __typename: 'ProductConnection', nodes: products, pageInfo } } });
    onState({ products: client.readQuery(list).products.nodes, position }, event);
  };

  const catalogue = new Catalogue({ ask, configId, filter, onState: show });
  return { catalogue, done: follow(catalogue, feed, signal) };
}
// [/guide]
