// Drives the examples for the tests: prints results and the requests sent for them, as a line of JSON.
import { CombinedGraphQLErrors, CombinedProtocolErrors, gql } from '@apollo/client';
import { firstValueFrom, take, toArray } from 'rxjs';
import { fetchQuery } from 'relay-runtime';
import { pipe, take as taken, toPromise } from 'wonka';
import * as apollo from './apollo.mjs';
import * as relay from './relay.mjs';
import * as tanstack from './tanstack.mjs';
import * as urql from './urql.mjs';

const STORE = 'query Store($id: ID!) { config(by: { id: $id }) { id storeName } }';
const RENAME = 'mutation Rename($input: UpdateConfigInput!) { updateConfig(input: $input) { config { id storeName } userErrors { message } } }';
const FEED = 'subscription Feed($id: ID!) { productFeed(configId: $id) { __typename } }';
const WRONG = 'query Wrong { shoeSize }';

const [name, given] = process.argv.slice(2);
const options = JSON.parse(given);
const sent = [];

async function recorded(address, init = {}) {
  const response = await fetch(address, init);
  const body = init.body ? JSON.parse(init.body) : Object.fromEntries(new URL(address).searchParams);
  const texts = [body].flat().map((one) => Boolean(one.query));
  sent.push({ method: init.method ?? 'GET', texts, status: response.status, type: response.headers.get('content-type')?.split(';')[0], kept: response.headers.get('cache-status') });
  return response;
}

const codesOf = (error) => [error.errors ?? error.graphQLErrors ?? error.response?.errors ?? error].flat().map((one) => one.extensions?.code ?? String(one));
const refusal = (promise) => promise.then(() => 'no refusal', codesOf);

const scenarios = {
  async apollo({ id }) {
    const client = apollo.open({ ...options, fetch: recorded });
    const ask = () => client.query({ query: gql(STORE), variables: { id }, fetchPolicy: 'network-only' });
    const first = await ask();
    const again = await ask();
    const renamed = await client.mutate({ mutation: gql(RENAME), variables: { input: { id, storeName: 'Renamed' } } });
    const cached = client.readQuery({ query: gql(STORE), variables: { id } });
    const wrong = await refusal(client.query({ query: gql(WRONG) }));
    return { first: first.data, again: again.data, renamed: renamed.data, cached, wrong };
  },

  async 'apollo batching'({ id }) {
    const client = apollo.openBatching({ ...options, fetch: recorded });
    const ask = (query) => client.query({ query: gql(query), variables: { id }, fetchPolicy: 'network-only' }).then(({ data }) => data, codesOf);
    const both = () => Promise.all([ask(STORE.replace('Store', 'Batched')), ask('query Me { me { id } }'), ask(WRONG)]);
    return { first: await both(), again: await both() };
  },

  async 'apollo subscription'({ id }) {
    const client = apollo.open({ ...options, fetch: recorded });
    const events = firstValueFrom(client.subscribe({ query: gql(FEED), variables: { id } }).pipe(take(2), toArray()));
    console.log('{"ready":true}');
    const told = (await events).map(({ data }) => data.productFeed.__typename);
    const wrong = await firstValueFrom(client.subscribe({ query: gql(FEED), variables: { id: ['x'] } }).pipe(take(1)));
    return { told, wrong: codesOf(wrong.error), isProtocolError: CombinedProtocolErrors.is(wrong.error), isGraphQL: CombinedGraphQLErrors.is(wrong.error) };
  },

  async urql({ id }) {
    const client = urql.open({ ...options, fetch: recorded });
    const ask = (query, variables) => client.query(query, variables, { requestPolicy: 'network-only' }).toPromise();
    const first = await ask(STORE, { id });
    const again = await ask(STORE, { id });
    const renamed = await client.mutation(RENAME, { input: { id, storeName: 'Renamed' } }).toPromise();
    const wrong = await ask(WRONG, {});
    console.log('{"ready":true}');
    const event = await pipe(client.subscription(FEED, { id }), taken(1), toPromise);
    return { first: first.data, again: again.data, renamed: renamed.data, wrong: codesOf(wrong.error), told: event.data.productFeed.__typename };
  },

  async 'by anybody'({ id }) {
    const open = { ...options, token: null, fetch: recorded };
    const [first, second] = [apollo.open(open), urql.open(open)];
    const data = [];
    for (let time = 0; time < 2; time++) {
      data.push((await first.query({ query: gql(STORE), variables: { id }, fetchPolicy: 'network-only' })).data.config.storeName);
      data.push((await second.query(STORE, { id }, { requestPolicy: 'network-only' }).toPromise()).data.config.storeName);
    }
    return data;
  },

  async tanstack({ id }) {
    const { server, queries } = tanstack.open({ ...options, fetch: recorded });
    const { pages } = await queries.fetchInfiniteQuery({ ...tanstack.products(server, id), pages: 3 });
    const wrong = await refusal(queries.fetchQuery({ queryKey: ['wrong'], queryFn: () => server.request(WRONG) }));
    const batch = await server.batchRequests([{ document: STORE, variables: { id } }, { document: 'query Me { me { id } }' }]);
    return { pages: pages.map(({ nodes }) => nodes.map(({ title }) => title)), wrong, batch: batch.map(({ data }) => data) };
  },

  async relay({ id, documentId }) {
    const environment = relay.open({ ...options, fetch: recorded });
    const ask = (operation, variables) => fetchQuery(environment, operation, variables).toPromise();
    const data = await ask(storeQuery(documentId), { id });
    const stored = environment.getStore().getSource().get(id);
    const unknown = await ask(storeQuery('unknown'), { id }).then(() => 'no refusal', (error) => error.source?.errors?.[0].extensions.code ?? String(error));
    return { data, stored: stored.storeName, unknown };
  },
};

/** What Relay's compiler makes of `query Store($id: ID!) { config(by: {id: $id}) { id storeName } }`. */
function storeQuery(documentId) {
  const by = { kind: 'ObjectValue', name: 'by', fields: [{ kind: 'Variable', name: 'id', variableName: 'id' }] };
  const scalar = (field) => ({ alias: null, args: null, kind: 'ScalarField', name: field, storageKey: null });
  const config = {
    alias: null, args: [by], concreteType: 'Config', kind: 'LinkedField', name: 'config', plural: false,
    selections: [scalar('id'), scalar('storeName')], storageKey: null,
  };
  const argumentDefinitions = [{ defaultValue: null, kind: 'LocalArgument', name: 'id' }];
  return {
    fragment: { argumentDefinitions, kind: 'Fragment', metadata: null, name: 'Store', selections: [config], type: 'Query', abstractKey: null },
    kind: 'Request',
    operation: { argumentDefinitions, kind: 'Operation', name: 'Store', selections: [config] },
    params: { id: documentId, cacheID: documentId, metadata: {}, name: 'Store', operationKind: 'query', text: null },
  };
}

console.log(JSON.stringify({ result: await scenarios[name](options), sent }));
process.exit(0);
