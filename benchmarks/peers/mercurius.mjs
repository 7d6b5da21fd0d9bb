// Fastify, Mercurius and graphql-jit over hand-written SQL: every statement reads just the columns that the document selects.
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import DataLoader from 'dataloader'
import Fastify from 'fastify'
import { GraphQLScalarType } from 'graphql'
import mercurius from 'mercurius'
import pg from 'pg'

const moment = text => text && text.replace(' ', 'T').replace('+00', 'Z')
pg.types.setTypeParser(pg.types.builtins.TIMESTAMPTZ, moment)
pg.types.setTypeParser(pg.types.builtins.INT8, Number)
const pool = new pg.Pool({ max: 10 })

const snake = name => name.replace(/[A-Z]/g, letter => '_' + letter.toLowerCase())
const columns = (table, names) => names.map(name => `${table}.${snake(name)} AS "${name}"`).join(', ')
const EDGES = new Set(['variants', 'reviews', 'related', 'user'])
const WHOLE = `id title description price compareAtPrice images category tags inventory trackInventory seoTitle seoDescription status
  createdAt updatedAt`.split(/\s+/)

const selected = node => node.selectionSet.selections.map(field => field.name.value)
const within = (node, name) => node.selectionSet.selections.find(field => field.name.value === name)

// A statement is written once per place in a document, which stays the same object as long as Mercurius keeps the document.
const written = new WeakMap()
let statements = 0
function statement (node, key, write) {
  let known = written.get(node)
  if (!known) written.set(node, known = new Map())
  let found = known.get(key)
  if (!found) known.set(key, found = { name: `s${statements++}`, text: write() })
  return found
}
const rows = async (prepared, values, client = pool) => (await client.query({ ...prepared, values })).rows

const SORTS = { CREATED: 'created_at DESC', PRICE: 'price, id', NAME: 'title, id' }
const TEXT = "to_tsvector('english', title || ' ' || coalesce(description, ''))"

async function products (_, { configId, search, minPrice, maxPrice, sort, first, offset }, context, info) {
  const node = info.fieldNodes[0]
  const values = [configId]
  const wanted = ['config_id = $1', "status = 'active'"]
  const where = (value, condition) => { if (value != null) wanted.push(condition(`$${values.push(value)}`)) }
  where(search, value => `${TEXT} @@ websearch_to_tsquery('english', ${value})`)
  const prices = []
  if (minPrice != null) prices.push(`price >= $${values.push(minPrice)}`)
  if (maxPrice != null) prices.push(`price <= $${values.push(maxPrice)}`)
  if (prices.length) {
    wanted.push(`EXISTS (SELECT FROM product_variants WHERE product_id = products.id AND is_available AND ${prices.join(' AND ')})`)
  }
  const which = wanted.join(' AND ')
  const fields = new Set(['id', ...selected(within(node, 'items')).filter(name => !EDGES.has(name))])
  const page = statement(node, sort + which, () => `SELECT ${columns('products', [...fields])} FROM products WHERE ${which}
    ORDER BY ${SORTS[sort]} LIMIT $${values.length + 1} OFFSET $${values.length + 2}`)
  const count = statement(node, 'count' + which, () => `SELECT count(*) AS total FROM products WHERE ${which}`)
  const [items, counted] = await Promise.all([
    rows(page, [...values, first, offset]), within(node, 'total') ? rows(count, values) : [{}]
  ])
  return { items, total: counted[0].total }
}

// An edge: the first few rows of each of many products, by one statement.
const edge = (table, order, wanted, also = []) => (product, { first }, context, info) => {
  const node = info.fieldNodes[0]
  let loader = context.loaders.get(node)
  if (!loader) {
    const fields = [...selected(node).filter(name => !EDGES.has(name)), ...also.filter(([name]) => within(node, name)).map(([, key]) => key)]
    const prepared = statement(node, 'edge', () => `SELECT ${columns('child', fields)}, parent.id AS "parent"
      FROM unnest($1::text[]) AS parent(id) CROSS JOIN LATERAL (
        SELECT * FROM ${table} WHERE product_id = parent.id ${wanted} ORDER BY ${order} LIMIT $2) AS child`)
    loader = new DataLoader(async ids => {
      const found = new Map(ids.map(id => [id, []]))
      for (const row of await rows(prepared, [ids, first])) found.get(row.parent).push(row)
      return [...found.values()]
    }, { cache: false })
    context.loaders.set(node, loader)
  }
  return loader.load(product.id)
}

function user (review, _, context) {
  context.users ??= new DataLoader(async ids => {
    const found = await rows({ name: 'users', text: 'SELECT id, name, image FROM users WHERE id = ANY($1)' }, [ids])
    const byId = new Map(found.map(row => [row.id, row]))
    return ids.map(id => byId.get(id))
  })
  return context.users.load(review.userId)
}

const related = (product, { first }, context, info) => rows(
  statement(info.fieldNodes[0], 'related', () => `SELECT ${columns('other', selected(info.fieldNodes[0]))} FROM products AS product
    JOIN products AS other USING (config_id, category) WHERE product.id = $1 AND other.id <> $1 AND other.status = 'active'
    ORDER BY other.created_at DESC LIMIT $2`), [product.id, first])

const WRITTEN = "'page_view', 'product_click', 'add_to_cart'"
const REPORT = {
  name: 'report',
  text: `WITH seen AS MATERIALIZED (
    SELECT event, properties->>'productId' AS product FROM analytics_events
    WHERE config_id = $1 AND "timestamp" >= $2 AND "timestamp" < $3 AND event IN (${WRITTEN}))
  SELECT event, NULL AS product, count(*) AS times FROM seen GROUP BY event
  UNION ALL (SELECT NULL, product, count(*) FROM seen WHERE event = 'product_click' GROUP BY product ORDER BY 3 DESC, 2 LIMIT 10)`
}
async function analytics (_, { configId, from, to }) {
  const found = await rows(REPORT, [configId, from, to])
  const times = Object.fromEntries(found.map(row => [row.event, row.times]))
  const { page_view: pageViews = 0, product_click: productClicks = 0, add_to_cart: addToCarts = 0 } = times
  const topProducts = found.filter(row => row.event === null).map(row => ({ productId: row.product, clicks: row.times }))
  return { pageViews, productClicks, addToCarts, conversionRate: productClicks && addToCarts / productClicks * 100, topProducts }
}

const MAKE = {
  name: 'make',
  text: `INSERT INTO products (id, config_id, title, description, price, category, images) VALUES ($1, $2, $3, $4, $5, $6, $7)
    RETURNING ${columns('products', WHOLE)}`
}
const MAKE_VARIANTS = {
  name: 'variants',
  text: `INSERT INTO product_variants (id, product_id, name, price, inventory, attributes)
    SELECT gen_random_uuid()::text, $1, name, price, inventory, attributes
    FROM jsonb_to_recordset($2) AS given(name text, price numeric, inventory integer, attributes jsonb)`
}
async function createProduct (_, { input }, context) {
  if (!context.viewer) throw new mercurius.ErrorWithProps('Sign in first.', { code: 'UNAUTHENTICATED' })
  if (!input.title || input.description.length < 10 || !(Number(input.price) > 0)) {
    throw new mercurius.ErrorWithProps('The product is not complete.', { code: 'BAD_USER_INPUT' })
  }
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    const { configId, title, description, price, category, images, variants } = input
    const [made] = await rows(MAKE, [randomUUID(), configId, title, description, price, category, JSON.stringify(images)], client)
    if (variants.length) await rows(MAKE_VARIANTS, [made.id, JSON.stringify(variants)], client)
    await client.query('COMMIT')
    return made
  } catch (error) {
    await client.query('ROLLBACK')
    throw error
  } finally {
    client.release()
  }
}

const plain = name => new GraphQLScalarType({ name, serialize: value => value, parseValue: value => value })
const app = Fastify()
app.register(mercurius, {
  schema: readFileSync(new URL('catalogue.graphql', import.meta.url), 'utf8'),
  resolvers: {
    Decimal: plain('Decimal'),
    DateTime: plain('DateTime'),
    JSON: plain('JSON'),
    Query: {
      products,
      analytics,
      product: async (_, { id }, context, info) => (await rows(statement(info.fieldNodes[0], 'one', () => `SELECT
        ${columns('products', selected(info.fieldNodes[0]).filter(name => !EDGES.has(name)))} FROM products
        WHERE id = $1 AND status = 'active'`), [id]))[0]
    },
    Product: {
      variants: edge('product_variants', 'created_at', 'AND is_available'),
      reviews: edge('reviews', 'created_at DESC', '', [['user', 'userId']]),
      related
    },
    Review: { user },
    Mutation: { createProduct }
  },
  jit: 1,
  context: request => ({ viewer: request.headers.authorization?.replace('Bearer ', ''), loaders: new Map() })
})
await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' })
