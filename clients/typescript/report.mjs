// Writes api-report.txt: the declarations of everything that the package exports, as they were built, with their documentation. A
// change of it is a change of the public API. `node report.mjs FILE` writes to another file.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const files = readdirSync(at('dist'), { recursive: true }).filter((name) => name.endsWith('.d.ts') && name !== 'generated.d.ts').sort();
const parts = files.map((name) => `// ${name}\n${readFileSync(at(`dist/${name}`), 'utf8').trim()}\n`);
writeFileSync(process.argv[2] ?? at('api-report.txt'), parts.join('\n'));
