// Loads the report from the GraphQL endpoint, and subscribes to the live counters by server-sent events. The token stays in this tab.
"use strict";

// Without a slug this is the page that lists the viewer's stores.
const { slug, root, documents } = JSON.parse(document.getElementById("settings").textContent);
const ENDPOINT = `${root}graphql`;
const KEY = "storefront-dashboard-token";
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;
const DAY = 86_400_000;

const NAMES = {
  activeSessions: "Here now", sessions: "Sessions", pageViews: "Page views", productClicks: "Product clicks",
  addToCarts: "Added to cart", purchases: "Purchases", searches: "Searches",
  conversionRate: "Add-to-cart rate", sessionConversionRate: "Sessions with a cart",
};
const RATES = new Set(["conversionRate", "sessionConversionRate"]);
const STEPS = { product_click: "clicked a product", add_to_cart: "put it into the cart", purchase: "purchased" };

const byId = (id) => document.getElementById(id);
const formatValue = (name, value) => RATES.has(name) ? `${value.toFixed(1)} %` : value.toLocaleString();
let token = sessionStorage.getItem(KEY);
let chart = null;
let session = null;
let viewer = null;

// The API rejected the credentials, or the store.
class AccessError extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

// --------------------------------------------------------------------------------------------- requests

function post(query, variables, accept, signal) {
  const headers = { "content-type": "application/json", accept };
  if (token) headers.authorization = `Bearer ${token}`;
  return fetch(ENDPOINT, { method: "POST", headers, body: JSON.stringify({ query, variables }), signal });
}

function requireData(response) {
  const [error] = response.errors ?? [];
  if (!error) return response.data;
  const code = error.extensions?.code;
  if (["UNAUTHENTICATED", "FORBIDDEN", "NOT_FOUND"].includes(code)) throw new AccessError(error.message, code);
  throw new Error(error.message);
}

async function execute(query, variables, signal) {
  return requireData(await (await post(query, variables, "application/json", signal)).json());
}

async function* subscribe(query, variables, signal) {
  const response = await post(query, variables, "text/event-stream", signal);
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) return yield requireData(await response.json());
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const messages = (rest + part.value).split("\n\n");
    rest = messages.pop();
    for (const message of messages) {
      if (message.startsWith("event: next\n")) yield requireData(JSON.parse(message.slice(message.indexOf("data: ") + 6)));
    }
  }
}

// -------------------------------------------------------------------------------------------- rendering

function element(tag, content = "", ...classes) {
  const node = document.createElement(tag);
  node.textContent = content;
  node.classList.add(...classes);
  return node;
}

function card(name, value, before, period, title = NAMES[name], text = formatValue(name, value)) {
  const node = element("div"), term = element("dt", title), figure = element("dd", text);
  node.dataset.name = name;
  if (before !== undefined) {
    const change = before ? Math.round((100 * (value - before)) / before) : null;
    const comparison = change === null ? `none in ${period}` : `${change > 0 ? "+" : ""}${change} % vs ${period}`;
    figure.append(element("small", comparison, ...(change > 0 ? ["up"] : change < 0 ? ["down"] : [])));
  }
  node.append(term, figure);
  return node;
}

// Revenue and average purchase by currency, of the purchases that state their totals; no cards without any.
function revenueCards(report, period) {
  return report.revenue.flatMap(({ currency, amount, purchases }) => {
    const former = report.previous.revenue.find((sum) => sum.currency === currency) ?? { amount: "0", purchases: 0 };
    const format = (value) => value.toLocaleString(undefined, { style: "currency", currency });
    const total = Number(amount), average = total / purchases, formerAverage = former.purchases ? former.amount / former.purchases : 0;
    return [
      card(`revenue-${currency}`, total, Number(former.amount), period, "Revenue", format(total)),
      card(`average-${currency}`, average, formerAverage, period, "Average purchase", format(average)),
    ];
  });
}

// Purchases per hundred sessions, if there are any.
function conversionCards(report, period) {
  if (!report.purchases || !report.sessions) return [];
  const [value, former] = [report, report.previous].map(({ purchases, sessions }) => sessions ? (100 * purchases) / sessions : 0);
  return [card("purchaseRate", value, former, period, "Purchases per 100 sessions", value.toLocaleString(undefined, { maximumFractionDigits: 1 }))];
}

function row(...cells) {
  const node = element("tr");
  node.append(...cells.map((cell) => element("td", typeof cell === "number" ? cell.toLocaleString() : cell)));
  return node;
}

function step({ event, sessions, rate }, all) {
  const node = element("li", event ? `${sessions.toLocaleString()} ${STEPS[event]} (${rate.toFixed(1)} %)` : `${all.toLocaleString()} sessions`);
  const bar = element("meter");
  bar.max = Math.max(all, 1);
  bar.value = sessions;
  node.append(bar);
  return node;
}

// Colours of the page's scheme, which has light and dark ones, for axes and legend.
function useSchemeColours() {
  Chart.defaults.color = getComputedStyle(byId("status")).color;
  Chart.defaults.borderColor = getComputedStyle(document.querySelector("th")).borderBottomColor;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (!chart) return;
  useSchemeColours();
  chart.update("none");
});

function draw(series, interval) {
  byId("no-chart").hidden = typeof Chart !== "undefined";
  if (typeof Chart === "undefined") return;
  useSchemeColours();
  const form = interval === "HOUR" ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" };
  const labels = series.map(({ startsAt }) => new Date(startsAt).toLocaleString(undefined, { ...form, timeZone: ZONE }));
  const line = (label, name, colour) => ({
    label, data: series.map((point) => point[name]), borderColor: colour, backgroundColor: colour, pointRadius: 0, pointHitRadius: 12, tension: 0.25,
  });
  const datasets = [
    line("Page views", "pageViews", "#4f6bed"), line("Sessions", "sessions", "#e08a2e"), line("Added to cart", "addToCarts", "#2e9e75"),
  ];
  if (chart) {
    chart.data = { labels, datasets };
    chart.update("none");
    return;
  }
  // Axes copy the default colours when the chart is created: functions read those of now.
  const color = () => Chart.defaults.color, borderColor = () => Chart.defaults.borderColor;
  const axis = (ticks) => ({ ticks: { color, ...ticks }, grid: { color: borderColor }, border: { color: borderColor } });
  const options = {
    animation: false, maintainAspectRatio: false, interaction: { mode: "index", intersect: false },
    scales: { y: { beginAtZero: true, ...axis({ precision: 0 }) }, x: axis({ maxTicksLimit: 12 }) },
  };
  chart = new Chart(byId("series"), { type: "line", data: { labels, datasets }, options });
}

function showReport(report, range, interval, days) {
  const names = ["sessions", "pageViews", "productClicks", "addToCarts", "purchases", "searches", ...RATES];
  const period = days === 1 ? "previous day" : `previous ${days} days`;
  byId("figures").replaceChildren(
    ...names.map((name) => card(name, report[name], report.previous[name], period)),
    ...conversionCards(report, period),
    ...revenueCards(report, period),
  );
  byId("funnel").replaceChildren(...report.funnel.map((entry) => step(entry, report.sessions)));
  byId("products").replaceChildren(
    ...report.topProducts.map(({ productId, product, clicks, addToCarts }) => row(product?.title ?? `${productId} (deleted)`, clicks, addToCarts)),
  );
  byId("sources").replaceChildren(
    ...report.sources.slice(0, 8).map(({ source, medium, campaign, sessions, events }) =>
      row([source, medium, campaign].filter(Boolean).join(" / "), sessions, events)),
  );
  const date = (text) => new Date(text).toLocaleDateString();
  byId("range").textContent = `${date(range.from)} – ${date(Date.parse(range.to) - 1)}, ${ZONE}`;
  draw(report.series, interval);
}

function showLive(tick) {
  const order = Object.keys(NAMES).filter((name) => name in tick);
  byId("live").replaceChildren(...order.map((name) => card(name, tick[name])));
}

// ---------------------------------------------------------------------------------------------- session

function midnight(daysAgo) {
  const now = new Date();
  return new Date(now.getFullYear(), now.getMonth(), now.getDate() - daysAgo);
}

async function refresh(store, signal) {
  const days = Number(byId("days").value);
  const range = { from: midnight(days - 1).toISOString(), to: midnight(-1).toISOString() };
  const interval = days === 1 ? "HOUR" : days > 90 ? "WEEK" : "DAY";
  const { analytics } = await execute(documents.report, { id: store, range, interval, zone: ZONE }, signal);
  showReport(analytics, range, interval, days);
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function follow(store, signal) {
  for (let wait = 1_000; !signal.aborted; wait = Math.min(2 * wait, 30_000)) {
    try {
      for await (const { analyticsFeed } of subscribe(documents.live, { id: store, zone: ZONE }, signal)) {
        byId("pulse").className = "";
        showLive(analyticsFeed);
        wait = 1_000;
      }
    } catch (error) {
      if (error instanceof AccessError) return signIn(explain(error));
    }
    byId("pulse").className = "off";
    await pause(wait);
  }
}

async function keepFresh(store, signal) {
  while (!signal.aborted) {
    await pause(60_000);
    if (!document.hidden && !signal.aborted) await refresh(store, signal).catch(() => {});
  }
}

async function start() {
  session?.abort();
  session = new AbortController();
  const { signal } = session;
  byId("status").textContent = "Loading …";
  try {
    await (slug === null ? listStores(signal) : showStore(signal));
    byId("sign-in").hidden = true;
    byId("choice").hidden = false;
    byId("status").textContent = "";
  } catch (error) {
    if (error instanceof AccessError) signIn(explain(error));
    else fail(error);
  }
}

async function showStore(signal) {
  const { config, me } = await execute(documents.store, { slug }, signal);
  viewer = me;
  if (!config) throw new AccessError("There is no such store, or it is not published and not yours.", "NOT_FOUND");
  await refresh(config.id, signal);
  byId("store").textContent = config.storeName;
  byId("dashboard").hidden = false;
  chart?.resize();
  byId("days").onchange = () => refresh(config.id, signal).catch(fail);
  follow(config.id, signal);
  keepFresh(config.id, signal);
}

async function listStores(signal) {
  const links = [];
  let after = null;
  do {
    const { me } = await execute(documents.stores, { after }, signal);
    if (!me) throw new AccessError("Sign in to see your stores.", "UNAUTHENTICATED");
    links.push(...me.configs.nodes.map(storeLink));
    after = me.configs.pageInfo.hasNextPage ? me.configs.pageInfo.endCursor : null;
  } while (after !== null);
  byId("store-list").replaceChildren(...links);
  byId("no-stores").hidden = links.length > 0;
  byId("period").hidden = byId("all").hidden = true;
  byId("stores").hidden = false;
}

function storeLink({ storeName, slug, isPublished }) {
  const item = element("li"), link = element("a", storeName);
  link.href = `dashboard/${slug}`;
  item.append(link, " ", element("small", isPublished ? slug : `${slug}, not published`));
  return item;
}

// Why the viewer has to sign in, in words for people. Empty for viewers who have not tried to.
function explain(error) {
  if (error.code === "UNAUTHENTICATED") return token ? error.message : "";
  if (error.code !== "FORBIDDEN") return error.message;
  return `You are signed in as ${viewer?.email ?? viewer?.name ?? "another user"}, and only the store's owner may read its analytics. Sign in as the owner of this store.`;
}

function fail(error) {
  if (error.name !== "AbortError") byId("status").textContent = `${error.message} Reload to try again.`;
}

function signIn(why) {
  session?.abort();
  token = null;
  sessionStorage.removeItem(KEY);
  byId("dashboard").hidden = byId("stores").hidden = byId("choice").hidden = true;
  byId("sign-in").hidden = false;
  byId("why").textContent = why;
  byId("status").textContent = "";
  byId("token").focus();
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  sessionStorage.setItem(KEY, token);
  byId("token").value = "";
  start();
});
byId("leave").addEventListener("click", () => signIn(""));
start();
