import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

// The kit is built from its sources, with the packages of this folder. One script and one style sheet with fixed names: the server
// adds the digest of their content to the URLs.
export default defineConfig({
  base: './',
  resolve: {
    alias: [
      { find: '@storefront/client/react', replacement: at('../typescript/src/react/index.ts') },
      { find: '@storefront/client', replacement: at('../typescript/src/index.ts') },
    ],
    dedupe: ['react', 'react-dom', '@tanstack/react-query', 'graphql-ws'],
  },
  esbuild: { jsx: 'automatic' },
  build: {
    target: 'es2022',
    modulePreload: false,
    cssCodeSplit: false,
    rollupOptions: {
      input: at('src/main.tsx'),
      output: { inlineDynamicImports: true, entryFileNames: 'shop.js', assetFileNames: 'shop[extname]' },
    },
  },
});
