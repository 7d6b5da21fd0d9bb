// Compares our signatures and objects with AWS's SDK: `node check.mjs '{"endpoint": …, "bucket": …, …}'`. The tests run it.
import { createHash, createHmac } from 'node:crypto';
import { GetObjectCommand, ListObjectsV2Command, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';

const given = JSON.parse(process.argv[2]);
const credentials = { accessKeyId: given.key, secretAccessKey: given.secret };
const region = given.region;

class Sha256 {
  constructor(secret) {
    this.secret = secret;
    this.parts = [];
  }
  update(part) {
    this.parts.push(Buffer.from(part));
  }
  async digest() {
    const hash = this.secret === undefined ? createHash('sha256') : createHmac('sha256', Buffer.from(this.secret));
    this.parts.forEach((part) => hash.update(part));
    return new Uint8Array(hash.digest());
  }
}

// The same request at the same moment, signed by the SDK.
async function signed({ method, url, headers }) {
  const { protocol, hostname, host, pathname: path, searchParams } = new URL(url);
  const [year, month, day, hour, minute, second] = searchParams.get('X-Amz-Date').match(/(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z/).slice(1);
  const query = Object.fromEntries([...searchParams].filter(([name]) => !name.startsWith('X-Amz-')));
  const payload = { 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' };
  const request = new HttpRequest({ method, protocol, hostname, path, query, headers: { host, ...headers, ...payload } });
  const signer = new SignatureV4({ credentials, region, service: 's3', sha256: Sha256, uriEscapePath: false, applyChecksum: false });
  const aside = new Set(Object.keys(payload));
  const made = await signer.presign(request, {
    expiresIn: Number(searchParams.get('X-Amz-Expires')),
    signingDate: new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`),
    signableHeaders: new Set(['host', ...Object.keys(headers)]),
    unsignableHeaders: aside,
    unhoistableHeaders: aside,
  });
  return { signature: made.query['X-Amz-Signature'], headers: made.query['X-Amz-SignedHeaders'] };
}

const client = new S3Client({ endpoint: given.endpoint, region, credentials, forcePathStyle: true });

async function read(key) {
  const found = await client.send(new GetObjectCommand({ Bucket: given.bucket, Key: key }));
  const content = await found.Body.transformToByteArray();
  const digest = createHash('sha256').update(content).digest('hex');
  return { size: content.length, type: found.ContentType, cache: found.CacheControl ?? null, digest };
}

const answers = { signed: await Promise.all((given.requests ?? []).map(signed)) };
if (given.read) answers.read = await read(given.read);
if (given.write) {
  await client.send(new PutObjectCommand({ Bucket: given.bucket, Key: given.write, Body: 'from the SDK', ContentType: 'text/plain' }));
  const { Contents } = await client.send(new ListObjectsV2Command({ Bucket: given.bucket, Prefix: given.write }));
  answers.listed = Contents.map(({ Key }) => Key);
}
console.log(JSON.stringify(answers));
