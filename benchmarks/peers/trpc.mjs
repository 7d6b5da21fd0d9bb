// The original data layer: tRPC 10 with superjson and zod over Drizzle, with the repairs that it needs to run at all.
import { createServer } from 'node:http'
import { randomUUID } from 'node:crypto'
import { initTRPC, TRPCError } from '@trpc/server'
import { createHTTPHandler } from '@trpc/server/adapters/standalone'
import { and, asc, count, desc, eq, exists, gte, lt, lte, ne, relations, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { boolean, decimal, integer, jsonb, pgTable, text, timestamp } from 'drizzle-orm/pg-core'
import pg from 'pg'
import superjson from 'superjson'
import { z } from 'zod'

const moment = name => timestamp(name, { withTimezone: true }).defaultNow().notNull()
const amount = name => decimal(name, { precision: 10, scale: 2 })
const users = pgTable('users', { id: text('id').primaryKey(), name: text('name'), image: text('image') })
const products = pgTable('products', {
  id: text('id').primaryKey(),
  configId: text('config_id').notNull(),
  title: text('title').notNull(),
  description: text('description'),
  price: amount('price').notNull(),
  compareAtPrice: amount('compare_at_price'),
  images: jsonb('images').default([]),
  category: text('category'),
  tags: jsonb('tags').default([]),
  inventory: integer('inventory').default(0),
  trackInventory: boolean('track_inventory').default(true),
  seoTitle: text('seo_title'),
  seoDescription: text('seo_description'),
  status: text('status').default('active'),
  createdAt: moment('created_at'),
  updatedAt: moment('updated_at')
})
const variants = pgTable('product_variants', {
  id: text('id').primaryKey(),
  productId: text('product_id').notNull(),
  name: text('name').notNull(),
  price: amount('price').notNull(),
  compareAtPrice: amount('compare_at_price'),
  attributes: jsonb('attributes').default({}),
  inventory: integer('inventory').default(0),
  sku: text('sku'),
  isAvailable: boolean('is_available').default(true),
  createdAt: moment('created_at')
})
const reviews = pgTable('reviews', {
  id: text('id').primaryKey(),
  productId: text('product_id').notNull(),
  userId: text('user_id').notNull(),
  rating: integer('rating').notNull(),
  title: text('title'),
  body: text('body'),
  createdAt: moment('created_at')
})
const events = pgTable('analytics_events', {
  id: text('id').primaryKey(),
  configId: text('config_id').notNull(),
  event: text('event').notNull(),
  properties: jsonb('properties').default({}),
  timestamp: moment('timestamp')
})
const schema = {
  users,
  products,
  variants,
  reviews,
  productRelations: relations(products, ({ many }) => ({ variants: many(variants), reviews: many(reviews) })),
  variantRelations: relations(variants, ({ one }) => ({
    product: one(products, { fields: [variants.productId], references: [products.id] })
  })),
  reviewRelations: relations(reviews, ({ one }) => ({
    product: one(products, { fields: [reviews.productId], references: [products.id] }),
    user: one(users, { fields: [reviews.userId], references: [users.id] })
  }))
}
const db = drizzle(new pg.Pool({ max: 10 }), { schema })

const createContext = ({ req }) => ({ db, userId: req.headers.authorization?.replace('Bearer ', '') })
const t = initTRPC.context().create({ transformer: superjson })
const timed = t.middleware(async ({ ctx, next, path, type }) => {
  const began = Date.now()
  const result = await next({ ctx: { ...ctx, requestId: randomUUID() } })
  if (Date.now() - began > 60_000) console.warn(`${type} ${path} was slow`)
  return result
})
const open = t.procedure.use(timed)
const signedIn = open.use(({ ctx, next }) => {
  if (!ctx.userId) throw new TRPCError({ code: 'UNAUTHORIZED' })
  return next({ ctx })
})

const searchInput = z.object({
  configId: z.string(),
  q: z.string().optional(),
  category: z.string().optional(),
  minPrice: z.number().optional(),
  maxPrice: z.number().optional(),
  limit: z.number().min(1).max(100).default(20),
  offset: z.number().min(0).default(0),
  sortBy: z.enum(['price', 'name', 'created']).default('created'),
  sortOrder: z.enum(['asc', 'desc']).default('desc')
})
const SORTS = { price: products.price, name: products.title, created: products.createdAt }
const isAvailable = eq(variants.isAvailable, true)

function wanted (db, { configId, q, category, minPrice, maxPrice }) {
  const conditions = [eq(products.configId, configId), eq(products.status, 'active')]
  if (q) {
    conditions.push(sql`to_tsvector('english', ${products.title} || ' ' || coalesce(${products.description}, ''))
      @@ websearch_to_tsquery('english', ${q})`)
  }
  if (category) conditions.push(eq(products.category, category))
  if (minPrice !== undefined || maxPrice !== undefined) {
    const prices = [eq(variants.productId, products.id), isAvailable]
    if (minPrice !== undefined) prices.push(gte(variants.price, String(minPrice)))
    if (maxPrice !== undefined) prices.push(lte(variants.price, String(maxPrice)))
    conditions.push(exists(db.select({ id: variants.id }).from(variants).where(and(...prices))))
  }
  return and(...conditions)
}

const productsRouter = t.router({
  search: open.input(searchInput).query(async ({ ctx, input }) => {
    const where = wanted(ctx.db, input)
    const direction = input.sortOrder === 'asc' ? asc : desc
    const [found, [{ total }]] = await Promise.all([
      ctx.db.query.products.findMany({
        where,
        with: {
          variants: { limit: 5, where: isAvailable, orderBy: asc(variants.createdAt) },
          reviews: { limit: 3, orderBy: desc(reviews.createdAt) }
        },
        limit: input.limit,
        offset: input.offset,
        orderBy: [direction(SORTS[input.sortBy]), ...(input.sortBy === 'created' ? [] : [asc(products.id)])]
      }),
      ctx.db.select({ total: count() }).from(products).where(where)
    ])
    const page = Math.floor(input.offset / input.limit) + 1
    return { products: found, pagination: { total, page, limit: input.limit, hasNext: input.offset + input.limit < total } }
  }),

  byId: open.input(z.string()).query(async ({ ctx, input }) => {
    const product = await ctx.db.query.products.findFirst({
      where: and(eq(products.id, input), eq(products.status, 'active')),
      with: {
        variants: { where: isAvailable, orderBy: asc(variants.createdAt) },
        reviews: { with: { user: { columns: { id: true, name: true, image: true } } }, orderBy: desc(reviews.createdAt), limit: 10 }
      }
    })
    if (!product) throw new TRPCError({ code: 'NOT_FOUND' })
    const { id, configId, category } = product
    const related = await ctx.db.query.products.findMany({
      where: and(eq(products.configId, configId), eq(products.category, category), ne(products.id, id), eq(products.status, 'active')),
      orderBy: desc(products.createdAt),
      limit: 4
    })
    return { ...product, related }
  }),

  create: signedIn.input(z.object({
    configId: z.string(),
    title: z.string().min(1),
    description: z.string().min(10),
    price: z.number().positive(),
    category: z.string(),
    images: z.array(z.string().url()),
    variants: z.array(z.object({
      name: z.string(), price: z.number().positive(), inventory: z.number().min(0), attributes: z.record(z.string(), z.string())
    })).optional()
  })).mutation(({ ctx, input: { variants: forms, ...given } }) => ctx.db.transaction(async tx => {
    const [made] = await tx.insert(products).values({ ...given, id: randomUUID(), price: String(given.price) }).returning()
    if (forms?.length) {
      await tx.insert(variants).values(forms.map(form => (
        { ...form, id: randomUUID(), price: String(form.price), productId: made.id }
      )))
    }
    return made
  }))
})

const analyticsRouter = t.router({
  report: open.input(z.object({ configId: z.string(), from: z.date(), to: z.date() })).query(async ({ ctx, input }) => {
    const where = event => and(
      eq(events.configId, input.configId), eq(events.event, event), gte(events.timestamp, input.from), lt(events.timestamp, input.to)
    )
    const times = event => ctx.db.select({ times: count() }).from(events).where(where(event)).then(([row]) => row.times)
    const product = sql`properties->>'productId'`
    const [pageViews, productClicks, addToCarts, topProducts] = await Promise.all([
      times('page_view'), times('product_click'), times('add_to_cart'),
      ctx.db.select({ productId: product, clicks: count() }).from(events).where(where('product_click'))
        .groupBy(product).orderBy(desc(count())).limit(10)
    ])
    return { pageViews, productClicks, addToCarts, conversionRate: productClicks && addToCarts / productClicks * 100, topProducts }
  })
})

const router = t.router({ products: productsRouter, analytics: analyticsRouter })
createServer(createHTTPHandler({ router, createContext })).listen(Number(process.env.PORT), '127.0.0.1')
