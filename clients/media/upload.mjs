// Uploads an image for a product: `node upload.mjs ENDPOINT TOKEN CONFIG_ID PRODUCT_ID FILE TYPE`. docs/media.md explains it.
import { readFile } from 'node:fs/promises';

const [, , ENDPOINT, TOKEN, configId, productId, path, type] = process.argv;

// [guide]
async function ask(query, input) {
  const response = await fetch(ENDPOINT, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${TOKEN}` },
    body: JSON.stringify({ query, variables: { input } }),
  });
  const { data, errors } = await response.json();
  if (errors) throw new Error(errors[0].message);
  const [payload] = Object.values(data);
  if (payload.userErrors.length) throw new Error(payload.userErrors[0].message);
  return payload;
}

// `file` is what <input type="file"> gives.
async function showPicture(file, { configId, productId, alt }) {
  const { upload } = await ask(
    `mutation ($input: CreateImageUploadInput!) {
      createImageUpload(input: $input) { userErrors { message } upload { id url method headers { name value } } }
    }`,
    { configId, contentType: file.type, size: file.size, fileName: file.name },
  );
  const headers = Object.fromEntries(upload.headers.map(({ name, value }) => [name, value]));
  const sent = await fetch(upload.url, { method: upload.method, headers, body: file });
  if (!sent.ok) throw new Error(`The upload was refused: ${sent.status}`);
  const { image } = await ask(
    `mutation ($input: ConfirmImageUploadInput!) {
      confirmImageUpload(input: $input) {
        userErrors { message }
        image { id width height alt placeholder small: url(width: 320, format: WEBP) large: url(width: 1280, format: WEBP) }
      }
    }`,
    { uploadId: upload.id, productId, alt },
  );
  return image;
}
// [/guide]

const file = new File([await readFile(path)], path.split('/').at(-1), { type });
try {
  console.log(JSON.stringify(await showPicture(file, { configId, productId, alt: 'A picture' })));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
}
