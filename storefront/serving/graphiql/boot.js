// Starts GraphiQL on the page around it. What differs from server to server is in the page's #settings.
"use strict";

(() => {
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const endpoint = location.origin + location.pathname;

  const params = new URLSearchParams(location.search);
  const tokenField = document.getElementById("token");
  const need = document.getElementById("need");
  let shownTabs = null;
  const tokenKey = `${settings.title}:token`;

  // One origin may have served another project's GraphiQL yesterday: each title has its own tabs.
  const storage = createStorage(`${settings.title}:`);
  const read = (name) => JSON.parse(storage.getItem(`graphiql:${name}`) ?? "null");
  const write = (name, value) => storage.setItem(`graphiql:${name}`, value);

  // Headers hold bearer tokens, which are not to outlive the browser's tab: everything is stored for this tab, and without the
  // headers for later visits too.
  function createStorage(namespace) {
    const areas = [sessionStorage, localStorage];
    const ours = (area) => Object.keys(area).filter((key) => key.startsWith(namespace));
    const storage = {
      getItem: (key) => sessionStorage.getItem(namespace + key) ?? localStorage.getItem(namespace + key),
      setItem: (key, value) => {
        sessionStorage.setItem(namespace + key, value);
        setLocal(namespace, key, withoutHeaders(key, value));
      },
      removeItem: (key) => areas.forEach((area) => area.removeItem(namespace + key)),
      clear: () => areas.forEach((area) => ours(area).forEach((key) => area.removeItem(key))),
      get length() {
        return new Set(areas.flatMap(ours)).size;
      },
    };
    // Earlier versions of this page stored the headers for good.
    for (const name of ours(localStorage)) {
      const key = name.slice(namespace.length);
      setLocal(namespace, key, withoutHeaders(key, localStorage.getItem(name)));
    }
    return storage;
  }

  function setLocal(namespace, key, value) {
    if (value === null) localStorage.removeItem(namespace + key);
    else localStorage.setItem(namespace + key, value);
  }

  // The headers editor, and what else has headers in it: tabs, the history of queries, the examples. A tab's hash is made of them.
  function withoutHeaders(key, value) {
    if (key === "graphiql:headers") return null;
    if (!["tabState", "queries", "favorites", "examples"].includes(key.replace("graphiql:", ""))) return value;
    try {
      return JSON.stringify(JSON.parse(value), (name, part) => (["headers", "hash"].includes(name) ? null : part));
    } catch {
      return null;
    }
  }

  // GraphiQL stores the visitor's tabs in the browser and from then on ignores `defaultTabs` (and even on the first visit it
  // leaves out the first tab's variables). So the tabs are made here: on the first visit the examples; later, whatever the
  // visitor left, where tabs that still are an example word for word follow it when it changes, and new examples are added.
  function prepareTabs(examples) {
    const delivered = read("examples") ?? [];
    const known = new Set(delivered.map((example) => example.name));
    const state = read("tabState") ?? { activeTabIndex: 0, tabs: examples.map(newTab) };
    state.tabs = state.tabs.map((tab) => renewed(tab, delivered, examples)).filter(Boolean);
    if (known.size > 0) state.tabs.push(...examples.filter((example) => !known.has(example.name)).map(newTab));
    if (params.has("query")) openLinked(state, params.get("query"), params.get("variables") ?? "");
    if (state.tabs.length > 0) keep(state);
    write("examples", JSON.stringify(examples));
  }

  // What a link to this page asks for, in a tab of its own, once. It is never sent by itself.
  function openLinked(state, query, variables) {
    const known = state.tabs.findIndex((tab) => tab.query === query && (tab.variables ?? "") === variables);
    if (known < 0) state.tabs.push(newTab({ name: `link-${Date.now()}`, query, variables, headers: "" }));
    state.activeTabIndex = known < 0 ? state.tabs.length - 1 : known;
  }

  function renewed(tab, delivered, examples) {
    const old = delivered.find((example) => example.query === tab.query && example.variables === (tab.variables ?? ""));
    if (!old) return tab;
    const example = examples.find((candidate) => candidate.name === old.name);
    // The headers may hold the visitor's token: they are never taken away.
    return example && { ...newTab(example), id: tab.id, headers: tab.headers || example.headers };
  }

  // All the keys that GraphiQL wants: where one is missing, it throws all tabs away.
  function newTab({ name, query, variables, headers }) {
    const operationName = /^(?:query|mutation|subscription)\s+(\w+)/m.exec(query)?.[1] ?? null;
    return { id: name, title: operationName ?? name, hash: null, query, variables, headers, operationName, response: null };
  }

  // GraphiQL also keeps the active tab's texts apart, and opens one more tab when they match none.
  function keep(state) {
    state.activeTabIndex = Math.min(Math.max(state.activeTabIndex, 0), state.tabs.length - 1);
    const { query, variables, headers } = state.tabs[state.activeTabIndex];
    write("tabState", JSON.stringify(state));
    for (const [name, text] of Object.entries({ query, variables, headers })) write(name, text ?? "");
  }

  try {
    prepareTabs(settings.examples);
  } catch (error) {
    console.warn("The tabs of the last visit could not be read; GraphiQL decides what to do with them.", error);
  }

  // The token of all tabs. A tab whose headers have an Authorization of their own, with credentials in it, keeps to that.
  tokenField.value = sessionStorage.getItem(tokenKey) ?? "";
  tokenField.form.addEventListener("submit", (event) => event.preventDefault());
  tokenField.addEventListener("input", () => {
    sessionStorage.setItem(tokenKey, readToken());
    showNeed(shownTabs);
  });

  function readToken() {
    return tokenField.value.trim().replace(/^bearer\s+/i, "");
  }

  function findAuthorization(headers) {
    return Object.keys(headers).find((name) => name.toLowerCase() === "authorization");
  }

  function hasCredentials(headers) {
    return !/^(bearer)?\s*$/i.test(headers[findAuthorization(headers)] ?? "");
  }

  function withToken(headers = {}) {
    if (hasCredentials(headers)) return headers;
    const { [findAuthorization(headers)]: _, ...others } = headers;
    return readToken() ? { ...others, Authorization: `Bearer ${readToken()}` } : others;
  }

  // Examples that need a token have an Authorization without credentials among their headers.
  function describeNeed({ query, headers }) {
    const given = parseHeaders(headers);
    if (readToken() || hasCredentials(given)) return "";
    if (findAuthorization(given)) return "This tab needs a token of the store's owner.";
    return /^\s*mutation\b/m.test(query ?? "") ? "Most mutations need a token." : "";
  }

  function parseHeaders(text) {
    try {
      return Object(JSON.parse(text || "{}"));
    } catch {
      return {};
    }
  }

  function showNeed(state) {
    shownTabs = state;
    const tab = state?.tabs[state.activeTabIndex];
    need.textContent = tab ? describeNeed(tab) : "";
  }

  // A library inside GraphiQL adds a <style> element while a menu is open; the nonce is how the page's policy lets it.
  window.__webpack_nonce__ = settings.styleNonce;

  // Subscriptions go over graphql-transport-ws; the headers become the payload of connection_init.
  const send = GraphiQL.createFetcher({
    url: endpoint,
    subscriptionUrl: endpoint.replace(/^http/, "ws"),
    headers: { accept: "application/graphql-response+json, application/json" },
    enableIncrementalDelivery: false,
  });

  const fetcher = (request, options) => send(request, { ...options, headers: withToken(options?.headers) });

  showNeed(read("tabState"));
  const app = React.createElement(GraphiQL, {
    fetcher,
    storage,
    // An empty list is not the same: GraphiQL fails without a first tab.
    defaultTabs: settings.examples.length > 0 ? settings.examples : undefined,
    defaultEditorToolsVisibility: "variables",
    shouldPersistHeaders: true,
    onTabChange: showNeed,
    plugins: [GraphiQLPluginExplorer.explorerPlugin()],
  });
  ReactDOM.createRoot(document.getElementById("graphiql")).render(app);
})();
