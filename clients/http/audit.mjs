// Runs the audit suite of graphql-http against a server: node audit.mjs http://127.0.0.1:8000/graphql
import { auditServer } from 'graphql-http';

for (const { id, name, status, reason } of await auditServer({ url: process.argv[2] })) {
  console.log(JSON.stringify({ id, name, status, reason }));
}
