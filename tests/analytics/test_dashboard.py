"""The dashboard: its page and files, and its behaviour in a real browser without internet access."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import httpx
import psycopg
import pytest

from storefront.analytics.dashboard import assets
from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.ids import uuid7
from tests.browser import Browser, chromium, needs_chromium, watched
from tests.client import SECRET, Client, token_of
from tests.feed.processes import Server, running

installed = pytest.mark.skipif(
    "chart.js" not in assets.list_installed_files(), reason="the dashboard's chart is not installed: make install"
)

PEOPLE = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"


# ------------------------------------------------------------------------------------------------- the page


async def test_page_has_csp_and_no_data(shopper: Client) -> None:
    pages = {slug: await shopper.http.get(f"/dashboard/{slug}") for slug in ("no-such-store", "another")}
    for slug, page in pages.items():
        policy = page.headers["content-security-policy"]
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'" in policy and "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store" and page.headers["referrer-policy"] == "no-referrer"
        assert re.findall(r"<script(?! src=)[^>]*>", page.text) == ['<script id="settings" type="application/json">']
        assert not re.search(r"(https?|wss?)://|[\"'(]//\w|style=|\son\w+=", page.text)
        assert slug in page.text
    assert pages["another"].text.replace("another", "no-such-store") == pages["no-such-store"].text


async def test_page_of_stores_has_csp_and_relative_urls(shopper: Client) -> None:
    page, store_page = await shopper.http.get("/dashboard"), await shopper.http.get("/dashboard/a-store")
    assert page.status_code == 200
    for name in ("content-security-policy", "cache-control", "referrer-policy"):
        assert page.headers[name] == store_page.headers[name]
    addresses = re.findall(r'(?:src|href)="(dashboard-files/[^"]+)"', page.text)
    assert {address.split("/")[1].split("?")[0] for address in addresses} == set(assets.list_installed_files())
    for address in addresses:
        assert (await shopper.http.get(f"/{address}")).status_code == 200


@pytest.mark.parametrize("slug", ["Nord", "a%3Cscript%3E", "a..b", "a" * 101, "%22onload=x"])
async def test_invalid_slug_is_not_found(shopper: Client, slug: str) -> None:
    page = await shopper.http.get(f"/dashboard/{slug}")
    assert page.status_code == 404 and "<" not in page.text


async def test_static_files_are_immutable_and_allow_listed(shopper: Client) -> None:
    page = await shopper.http.get("/dashboard/a-store")
    addresses = re.findall(r'(?:src|href)="\.\./(dashboard-files/[^"]+)"', page.text)
    assert {address.split("/")[1].split("?")[0] for address in addresses} == set(assets.list_installed_files())
    for address in addresses:
        file = await shopper.http.get(f"/{address}")
        assert (file.status_code, file.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
        assert not re.search(rb"""["'(](https?|wss?)://(?!www\.w3\.org)|@import""", file.content.partition(b"\n")[2])
    for name in ("page.html", "package.json", "assets.py", "..%2fapi.py", "node_modules/chart.js/package.json"):
        assert (await shopper.http.get(f"/dashboard-files/{name}")).status_code == 404


def test_npm_lockfile_has_no_registry_urls() -> None:
    assert "resolved" not in (assets.FOLDER / "package-lock.json").read_text()


# --------------------------------------------------------------------------------------------- in a browser


def fill(url: str) -> tuple[str, str, str]:
    """Create a store with a few days of events; returns its id, its owner and a product."""
    user, store, product = (str(uuid7()) for _ in range(3))
    rng, now = Random(1), datetime.now(UTC)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO users (id, email) VALUES (%s, 'o@example.com')", [user])
        identity = "INSERT INTO user_identities (issuer, subject, user_id) VALUES ('storefront', %s, %s)"
        connection.execute(identity, [user, user])
        connection.execute(
            "INSERT INTO configs (id, user_id, store_name, slug, is_published) VALUES (%s, %s, %s, 'mugs', true)",
            [store, user, "The <b>Mug</b> Shop"],
        )
        connection.execute(
            "INSERT INTO products (id, config_id, title, handle, price, max_price) VALUES (%s, %s, 'Blue Mug', 'mug', 5, 5)",
            [product, store],
        )
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "COPY analytics_events (id, config_id, event, properties, session_id, utm_source, timestamp) FROM STDIN"
            ) as copy,
        ):
            for n in range(400):
                kind = ("page_view", "product_click", "add_to_cart", "purchase")[min(3, int(4 * rng.random() ** 2))]
                at = now - timedelta(days=2, minutes=n)
                document = f'{{"productId": "{product}"}}'
                copy.write_row((str(uuid7()), store, kind, document, f"s{n // 4}", ("news", "ad")[n % 8 // 4], at))
        # The page loads its report once a minute: events that are not rolled up by then appear a minute later.
        while connection.execute("SELECT EXISTS (SELECT FROM analytics_queue)").fetchone() == (True,):
            time.sleep(0.02)
    return store, user, product


@pytest.fixture
def server(empty_url: str, tmp_path: Path) -> Iterator[Server]:
    with running(empty_url, tmp_path, ROLLUP_INTERVAL="0.2") as started:
        yield started


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path / "chromium") as socket:
        page = Browser(socket)
        watched(page)
        yield page


def figure(place: str, name: str) -> str:
    return f"Number(document.querySelector('#{place} [data-name={name}] dd')?.firstChild.textContent.replace(/\\D/g, ''))"


def sign_in(browser: Browser, token: str) -> None:
    browser.wait("document.activeElement?.id === 'token'")
    browser.call("Input.insertText", text=token)
    browser.run("document.querySelector('#sign-in button').click()")


@needs_chromium
@installed
def test_owner_sees_report_and_live_counters(empty_url: str, server: Server, browser: Browser) -> None:
    store, owner, _ = fill(empty_url)
    browser.call("Page.navigate", url=f"{server.address}/dashboard/mugs")
    sign_in(browser, token_of(owner))
    browser.wait(f"{figure('figures', 'sessions')} === 100")
    with psycopg.connect(empty_url) as connection:
        [(views,)] = connection.execute("SELECT count(*) FROM analytics_events WHERE event = 'page_view'").fetchall()
    assert browser.run(figure("figures", "pageViews")) == views
    assert browser.run("document.getElementById('store').textContent") == "The <b>Mug</b> Shop"
    assert browser.run("document.querySelector('#products td').textContent") == "Blue Mug"
    assert (
        browser.run("[...document.querySelectorAll('#sources td:first-child')].map(td => td.textContent).sort().join()")
        == "ad,news"
    )
    assert browser.run("document.querySelectorAll('#funnel li').length") == 4
    assert "Add-to-cart rate" in browser.run("document.getElementById('figures').innerText")
    changes = browser.run("[...document.querySelectorAll('#figures small')].map(change => change.textContent)")
    assert changes and all(change.endswith("previous 30 days") for change in changes)
    browser.run("days.value = '1', days.dispatchEvent(new Event('change'))")
    browser.wait(
        "document.querySelector('#figures small').textContent.endsWith('% vs previous day')"
        " || document.querySelector('#figures small').textContent.endsWith('none in previous day')"
    )
    browser.run("days.value = '30', days.dispatchEvent(new Event('change'))")
    browser.wait(f"{figure('figures', 'sessions')} === 100")
    # The chart has a point for each day, and is not blank.
    assert browser.run("Chart.getChart('series').data.labels.length") == 30
    drawn = "[...document.querySelector('#series').getContext('2d').getImageData(0, 0, 600, 300).data].some(Boolean)"
    assert browser.run(drawn)
    # Live counters: no session yet, then two.
    browser.wait("document.getElementById('pulse').className === '' && document.querySelectorAll('#live > div').length === 7")
    before = browser.run(figure("live", "pageViews"))
    events = [{"event": "page_view", "sessionId": f"now {n}"} for n in range(2)]
    assert (
        httpx.post(
            f"{server.address}/events/{store}", json={"events": events, "consent": True}, headers={"user-agent": PEOPLE}
        ).json()["recorded"]
        == 2
    )
    browser.wait(f"{figure('live', 'pageViews')} === {before + 2} && {figure('live', 'activeSessions')} === 2")
    # The token is in no URL, nothing was loaded from other origins, the CSP was not violated.
    for address in browser.asked():
        assert address.startswith(server.address) and "token" not in address and "ey" not in address
    assert browser.complaints() == []
    shown = browser.run("document.body.innerText")
    assert "NaN" not in shown and "undefined" not in shown


@needs_chromium
def test_revenue_is_shown_where_purchases_have_totals(empty_url: str, server: Server, browser: Browser) -> None:
    store, owner, product = fill(empty_url)
    browser.call("Page.navigate", url=f"{server.address}/dashboard/mugs")
    sign_in(browser, token_of(owner))
    browser.wait(f"{figure('figures', 'sessions')} === 100")
    text = "document.querySelector('#figures [data-name={}]')?.textContent ?? null"
    with psycopg.connect(empty_url) as connection:
        [(purchases,)] = connection.execute("SELECT count(*) FROM analytics_events WHERE event = 'purchase'").fetchall()
    # Purchases without a total are purchases, but no revenue.
    shown = browser.run(text.format("purchaseRate"))
    assert shown.startswith(f"Purchases per 100 sessions{purchases}") and shown.endswith("none in previous 30 days")
    assert browser.run("document.querySelectorAll('[data-name^=revenue]').length") == 0
    totals = [("EUR", "19.90"), ("EUR", "1000.00"), ("JPY", "1990")]
    events = [
        {
            "event": "purchase",
            "sessionId": f"buyer {n}",
            "properties": {"productId": product, "total": total, "currency": currency},
        }
        for n, (currency, total) in enumerate(totals)
    ]
    url = f"{server.address}/events/{store}"
    answer = httpx.post(url, json={"events": events, "consent": True}, headers={"user-agent": PEOPLE}).json()
    assert answer["recorded"] == 3
    for _ in range(60):
        browser.run("days.dispatchEvent(new Event('change'))")
        time.sleep(0.2)
        if browser.run("document.querySelectorAll('[data-name^=revenue]').length") == 2:
            break
    plain = "(name => document.querySelector(`#figures [data-name=${name}] dd`).firstChild.textContent)"
    expected = {
        "revenue-EUR": (1019.9, "EUR"),
        "average-EUR": (509.95, "EUR"),
        "revenue-JPY": (1990, "JPY"),
        "average-JPY": (1990, "JPY"),
    }
    for name, (value, currency) in expected.items():
        formatted = f"({value}).toLocaleString(undefined, {{ style: 'currency', currency: '{currency}' }})"
        assert browser.run(f"{plain}('{name}') === {formatted}"), (name, browser.run(f"{plain}('{name}')"))
    shown = browser.run("document.getElementById('figures').innerText")
    assert "NaN" not in shown and "undefined" not in shown
    assert browser.complaints() == []


@needs_chromium
def test_page_rejects_invalid_credentials_with_reason(empty_url: str, server: Server, browser: Browser) -> None:
    _, owner, _ = fill(empty_url)
    stranger = token_of(str(uuid7()), email="s@example.com")
    browser.call("Page.navigate", url=f"{server.address}/dashboard/mugs")
    for token, why in (
        ("nonsense", "not valid"),
        (stranger, "signed in as s@example.com, and only the store's owner may read its analytics. Sign in as the owner"),
    ):
        sign_in(browser, token)
        browser.wait(f"document.getElementById('why').textContent.includes({why!r})")
        assert "configId" not in browser.run("document.body.innerText")
        assert browser.run("document.getElementById('dashboard').hidden && !sessionStorage.length")
    sign_in(browser, token_of(owner))
    browser.wait(f"{figure('figures', 'sessions')} === 100")
    # The token is gone with the tab.
    assert browser.run("sessionStorage.length === 1 && !localStorage.length && !document.cookie")
    # Another range, in the same session and after a reload of the tab.
    browser.run("days.value = '1', days.dispatchEvent(new Event('change'))")
    browser.wait(f"{figure('figures', 'sessions')} === 0")
    browser.call("Page.reload")
    browser.wait(f"{figure('figures', 'sessions')} === 100")
    browser.run("leave.click()")
    browser.wait("!document.getElementById('sign-in').hidden && !sessionStorage.length")


@needs_chromium
@installed
def test_chart_follows_colour_scheme(empty_url: str, server: Server, browser: Browser) -> None:
    _, owner, _ = fill(empty_url)
    browser.call("Page.navigate", url=f"{server.address}/dashboard/mugs")
    sign_in(browser, token_of(owner))
    browser.wait(f"{figure('figures', 'sessions')} === 100")
    drawn = "(({ scales: { y }, legend }) => [y.options.ticks.color, legend.options.labels.color, y.options.grid.color])"
    colours = f"{drawn}(Chart.getChart('series'))"
    styles = "(text => [text, text, getComputedStyle(document.querySelector('th')).borderBottomColor])"
    expected = f"{styles}(getComputedStyle(document.getElementById('status')).color)"
    seen = []
    for scheme in ("light", "dark", "light"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.wait(f"matchMedia('(prefers-color-scheme: {scheme})').matches && `${{{colours}}}` === `${{{expected}}}`")
        seen.append(browser.run(colours))
    assert seen[0] == seen[2] and not set(seen[0]) & set(seen[1])


@needs_chromium
def test_page_lists_own_stores(empty_url: str, server: Server, browser: Browser) -> None:
    _, owner, _ = fill(empty_url)
    with psycopg.connect(empty_url) as connection:
        statement = "INSERT INTO configs (id, user_id, store_name, slug, is_published) VALUES (%s, %s, %s, %s, %s)"
        connection.execute("INSERT INTO users (id, email) VALUES (%s, 'n@example.com')", [stranger := str(uuid7())])
        connection.execute(statement, [str(uuid7()), owner, "Plates & <b>Bowls</b>", "plates", False])
        connection.execute(statement, [str(uuid7()), stranger, "Another's", "another", True])
    browser.call("Page.navigate", url=f"{server.address}/dashboard")
    sign_in(browser, token_of(owner))
    browser.wait("!document.getElementById('stores').hidden")
    listed = browser.run("[...document.querySelectorAll('#store-list li')].map(item => item.innerText)")
    assert listed == ["Plates & <b>Bowls</b> plates, not published", "The <b>Mug</b> Shop mugs"]
    # The link leads to the store's dashboard, in the same session, and back.
    browser.run("document.querySelector('#store-list a[href$=mugs]').click()")
    browser.wait(f"location.pathname === '/dashboard/mugs' && {figure('figures', 'sessions')} === 100")
    browser.run("document.getElementById('all').click()")
    browser.wait("location.pathname === '/dashboard' && document.querySelectorAll('#store-list li').length === 2")
    browser.run("leave.click()")
    browser.wait("!document.getElementById('sign-in').hidden && document.getElementById('stores').hidden")
    sign_in(browser, token_of(str(uuid7()), email="new@example.com"))
    browser.wait("!document.getElementById('no-stores').hidden && !document.getElementById('stores').hidden")
    assert browser.complaints() == []


@needs_chromium
@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/mugs"])
def test_sign_in_page_has_landmarks(server: Server, browser: Browser, path: str) -> None:
    browser.call("Page.navigate", url=f"{server.address}{path}")
    browser.wait("document.activeElement?.id === 'token'")
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    found = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")}
    assert {("main", ""), ("banner", ""), ("form", "Sign in"), ("heading", "Sign in")} <= found
    assert {role for role, _ in found} >= {"textbox", "button"}


@needs_chromium
def test_expired_token_signs_out(empty_url: str, server: Server, browser: Browser) -> None:
    _, owner, _ = fill(empty_url)
    browser.call("Page.navigate", url=f"{server.address}/dashboard/mugs")
    sign_in(browser, sign_token(Claims(owner), SECRET, seconds=-25))
    # Plus five seconds of tolerance for clock skew.
    browser.wait("!document.getElementById('dashboard').hidden")
    browser.wait("!document.getElementById('sign-in').hidden")
    assert "expired" in browser.run("document.getElementById('why').textContent")


@needs_chromium
def test_unknown_store_is_reported(server: Server, browser: Browser) -> None:
    browser.call("Page.navigate", url=f"{server.address}/dashboard/no-such-store")
    sign_in(browser, token_of(str(uuid7()), email="s@example.com"))
    browser.wait("document.getElementById('why').textContent.includes('no such store')")
