// Compares two versions of a schema with GraphQL Inspector. node compare.mjs old.graphql new.graphql prints one change per line.
import { readFileSync } from 'node:fs';
import { diff } from '@graphql-inspector/core';
import { buildSchema } from 'graphql';

const [before, after] = process.argv.slice(2).map((path) => buildSchema(readFileSync(path, 'utf8')));
// Costs are estimates: they change without notice.
const isCost = (path) => /\.@(cost|listSize)(\.|$)/.test(path ?? '');
for (const { criticality, type, message, path } of await diff(before, after)) {
  if (!isCost(path)) console.log(JSON.stringify({ level: criticality.level, type, message, coordinate: path ?? null }));
}
