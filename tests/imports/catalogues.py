"""Generated product catalogues as Shopify CSV, with the difficult cases of such files."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from random import Random

NAMES = (
    *("Handle", "Title", "Body (HTML)", "Vendor", "Type", "Tags", "Published", "Option1 Name", "Option1 Value"),
    *("Option2 Name", "Option2 Value", "Variant SKU", "Variant Inventory Tracker", "Variant Inventory Qty", "Variant Price"),
    *("Variant Compare At Price", "Image Src", "Image Position", "SEO Title", "SEO Description", "Status"),
)
WORDS = 'copper lantern wool jumper oak table Größe кружка 茶碗 🫖 naïve "quoted" it\'s, =SUM(A1) +1 -2 @home'.split(" ")


def text(rows: Iterable[Mapping[str, str]], names: Iterable[str] = NAMES) -> str:
    """A CSV file of these rows."""
    columns = list(names)
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def catalogue(rows: int, seed: int = 1) -> str:
    """A CSV file of about so many rows: products with and without variants, and a few invalid rows."""
    return text(_rows(rows, Random(seed)))


def _rows(count: int, random: Random) -> Iterator[dict[str, str]]:
    done = number = 0
    while done < count:
        number += 1
        for row in _product(number, random):
            done += 1
            yield row


def _product(number: int, random: Random) -> Iterator[dict[str, str]]:
    def words(most: int) -> str:
        return " ".join(random.choices(WORDS, k=random.randint(1, most)))

    first = {
        "Handle": f"product-{number}",
        "Title": f"{words(4)} {number}",
        "Body (HTML)": f"<p>{words(40)}</p>\r\n<ul><li>{words(5)}</li></ul>",
        "Type": random.choice(["Shirts", "Mugs", ""]),
        "Tags": ", ".join(random.sample(["red", "blue", "new in", "50% off"], random.randint(0, 3))),
        "Status": random.choice(["active", "active", "draft", "archived"]),
        "SEO Title": words(3) if random.random() < 0.3 else "",
    }
    sizes = random.sample(["S", "M", "L", "XL", "-5 °C"], random.randint(0, 4))
    for n, size in enumerate(sizes or [""]):
        wrong = random.random() < 0.01
        yield {
            **(first if n == 0 else {"Handle": f"product-{number}"}),
            **({"Option1 Name": "Size" if n == 0 else "", "Option1 Value": size} if size else {}),
            "Variant SKU": f"SKU-{number}-{n}",
            "Variant Inventory Tracker": random.choice(["shopify", ""]),
            "Variant Inventory Qty": str(random.randint(-2, 50)),
            "Variant Price": "free" if wrong else random.choice(["0", "0.00", "19.90", "99999999.99", f"{number % 100}.5"]),
            "Variant Compare At Price": random.choice(["", "", "120"]),
            "Image Src": f"https://cdn.example/{number}/{n}.jpg?a=1&b=2",
            "Image Position": str(n + 1),
        }
