// The reference server of graphql-transport-ws, which the tests compare ours with. Prints its port.
import { once } from 'node:events';
import { GraphQLInt, GraphQLFloat, GraphQLObjectType, GraphQLSchema, GraphQLString } from 'graphql';
import { useServer } from 'graphql-ws/use/ws';
import { WebSocketServer } from 'ws';

const args = { text: { type: GraphQLString }, int: { type: GraphQLInt }, float: { type: GraphQLFloat } };

async function* wait() {
  yield { wait: 0 };
  await new Promise(() => {});
}

const schema = new GraphQLSchema({
  query: new GraphQLObjectType({
    name: 'Query',
    fields: { hello: { type: GraphQLString, args, resolve: () => 'world' } },
  }),
  subscription: new GraphQLObjectType({
    name: 'Subscription',
    fields: { wait: { type: GraphQLInt, args: { first: { type: GraphQLInt } }, subscribe: wait } },
  }),
});

console.error = () => {}; // it tells of each message that it fails at
const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
useServer({ schema }, server);
await once(server, 'listening');
console.log(server.address().port);

// It lives as long as the test that holds its input.
process.stdin.resume().on('end', () => process.exit());
