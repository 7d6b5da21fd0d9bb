// Bundles a page that uses the core and the hooks, without the peers, and prints its size; `--write-manifest` writes the documents'
// manifest for trusted documents instead. dist/ must have been built.
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

if (process.argv.includes('--write-manifest')) {
  const texts = Object.entries(await import('./dist/generated.js')).filter(([name]) => name.endsWith('Document'));
  const manifest = Object.fromEntries(texts.map(([, text]) => [createHash('sha256').update(text).digest('hex'), text]));
  writeFileSync(at('dist/documents.json'), `${JSON.stringify(manifest, null, 1)}\n`);
} else {
  const { build } = await import('esbuild');
  // What is loaded later, such as the library of the socket, is counted on its own.
  const measure = async (contents) => {
    const { metafile, outputFiles } = await build({
      stdin: { contents, resolveDir: at('.'), loader: 'js' },
      bundle: true, minify: true, write: false, metafile: true, splitting: true, format: 'esm', target: 'es2022', outdir: at('dist/size'),
      external: ['react', 'react/jsx-runtime', '@tanstack/react-query', '@tanstack/db'],
    });
    const sizes = { loaded: 0, later: 0 };
    const first = new Set(['stdin.js']);
    for (const [path, { imports }] of Object.entries(metafile.outputs)) {
      if (path.endsWith('stdin.js')) for (const { path: other, kind } of imports) if (kind === 'import-statement') first.add(other.split('/').at(-1));
    }
    for (const { path, contents: code } of outputFiles) sizes[first.has(path.split('/').at(-1)) ? 'loaded' : 'later'] += gzipSync(code, { level: 9 }).length;
    return sizes;
  };
  const entries = {
    'core and react': "export { createStorefront, indexedDbStorage } from './dist/index.js'; export * from './dist/react/index.js';",
    core: "export { createStorefront, indexedDbStorage } from './dist/index.js';",
    'all exports but tanstack-db': "export * from './dist/index.js'; export * from './dist/react/index.js';",
    'tanstack-db': "export * from './dist/index.js'; export * from './dist/tanstack-db.js';",
    'a document alone': "export { PositionDocument } from './dist/index.js';",
  };
  for (const [name, contents] of Object.entries(entries)) console.log(JSON.stringify({ name, ...(await measure(contents)) }));
}
