// GraphQL Code Generator's client preset: typed documents, and the manifest of them that the server can be started with.
// node codegen.mjs '{"schema": …, "documents": […], "folder": …}' does what `graphql-codegen` does with docs/http.md's configuration.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { codegen } from '@graphql-codegen/core';
import { preset } from '@graphql-codegen/client-preset';
import { buildASTSchema, parse } from 'graphql';

const { schema, documents, folder } = JSON.parse(process.argv[2]);

// [guide]
const scalars = { CurrencyCode: 'string', DateTime: 'string', Decimal: 'string', FileSize: 'number', HTML: 'string', JSON: 'unknown', Position: 'string' };
const config = { scalars, strictScalars: true, useTypeImports: true, enumsAsTypes: true };
const presetConfig = { persistedDocuments: { hashAlgorithm: 'sha256' } };
// [/guide]

const read = (location) => {
  const rawSDL = readFileSync(location, 'utf8');
  return { location, rawSDL, document: parse(rawSDL) };
};
const { document: ast } = read(schema);
const sections = await preset.buildGeneratesSection({
  baseOutputDir: `${folder}/`,
  schema: ast,
  schemaAst: buildASTSchema(ast),
  documents: documents.map(read),
  config,
  presetConfig,
  plugins: [],
  pluginMap: {},
});
mkdirSync(folder, { recursive: true });
// Together: one of them waits for another.
const texts = await Promise.all(sections.map((section) => codegen(section)));
sections.forEach(({ filename }, place) => writeFileSync(join(folder, basename(filename)), texts[place]));
