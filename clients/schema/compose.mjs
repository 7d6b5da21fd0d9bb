// Composes subgraphs as a router's tools do. node compose.mjs products.graphql reviews.graphql … prints {"errors": […], "supergraph": …}.
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { composeServices } from '@theguild/federation-composition';
import { parse } from 'graphql';

const services = process.argv.slice(2).map((path) => ({
  name: basename(path, '.graphql'),
  typeDefs: parse(readFileSync(path, 'utf8')),
}));
const { errors = [], supergraphSdl = null, publicSdl = null } = composeServices(services);
console.log(JSON.stringify({ errors: errors.map(({ message }) => message), supergraph: supergraphSdl, api: publicSdl }));
