"""Word lists of the demo data: names, categories, texts and traffic sources."""

from dataclasses import dataclass


def _split_names(names: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(names.split(separator))


LETTER_SIZES = ("XS", "S", "M", "L", "XL", "XXL")
SHOE_SIZES = ("36", "37", "38", "39", "40", "41", "42", "43", "44", "45")
SMALL_MEDIUM_LARGE = ("Small", "Medium", "Large")
VOLUMES = ("250 ml", "500 ml", "750 ml", "1 l")


@dataclass(frozen=True, slots=True)
class Category:
    """A product category: nouns, materials, sizes, and the usual price in whole currency units."""

    name: str
    usual_price: int
    sizes: tuple[str, ...]
    materials: tuple[str, ...]
    nouns: tuple[str, ...]


def _build_category(name: str, usual_price: int, sizes: tuple[str, ...], materials: str, nouns: str) -> Category:
    return Category(name, usual_price, sizes, _split_names(materials, ", "), _split_names(nouns, ", "))


# Categories with the most products first.
CATEGORIES = (
    _build_category(
        "Clothing",
        64,
        LETTER_SIZES,
        "Cotton, Linen, Merino, Flannel, Corduroy",
        "Shirt, Cardigan, Overshirt, Jumper, Skirt, Parka, Scarf",
    ),
    _build_category(
        "Home",
        38,
        SMALL_MEDIUM_LARGE,
        "Oak, Ash, Rattan, Cork, Ceramic",
        "Tray, Basket, Vase, Mirror, Picture Frame, Candle Holder",
    ),
    _build_category(
        "Kitchen",
        34,
        VOLUMES,
        "Stoneware, Enamel, Glass, Copper, Steel",
        "Teapot, Mug, Carafe, Saucepan, Storage Jar, Mixing Bowl",
    ),
    _build_category(
        "Furniture",
        289,
        SMALL_MEDIUM_LARGE,
        "Oak, Walnut, Beech, Pine, Rattan",
        "Armchair, Side Table, Bookcase, Stool, Sideboard, Coat Stand",
    ),
    _build_category(
        "Shoes", 112, SHOE_SIZES, "Leather, Suede, Canvas, Wool", "Trainers, Chelsea Boots, Slippers, Loafers, Clogs"
    ),
    _build_category(
        "Lighting",
        96,
        SMALL_MEDIUM_LARGE,
        "Brass, Opal Glass, Paper, Steel, Linen",
        "Floor Lamp, Pendant, Desk Lamp, Wall Light, Lantern",
    ),
    _build_category(
        "Bags", 88, SMALL_MEDIUM_LARGE, "Canvas, Leather, Felt, Nylon", "Backpack, Tote, Weekender, Pouch, Crossbody Bag"
    ),
    _build_category(
        "Bedroom",
        74,
        ("Single", "Double", "King"),
        "Linen, Percale, Wool, Bamboo",
        "Duvet Cover, Throw, Pillowcase, Quilt, Fitted Sheet",
    ),
    _build_category(
        "Bathroom", 27, SMALL_MEDIUM_LARGE, "Cotton, Bamboo, Terrazzo, Hinoki", "Bath Towel, Bath Mat, Soap Dish, Robe, Wash Bag"
    ),
    _build_category(
        "Garden", 45, SMALL_MEDIUM_LARGE, "Terracotta, Zinc, Teak, Willow", "Planter, Watering Can, Trug, Bird Feeder, Bench"
    ),
    _build_category(
        "Outdoors",
        129,
        SMALL_MEDIUM_LARGE,
        "Ripstop, Canvas, Aluminium, Down",
        "Tent, Sleeping Bag, Camp Stove, Hammock, Dry Bag",
    ),
    _build_category(
        "Stationery",
        16,
        ("A6", "A5", "A4"),
        "Recycled Paper, Cloth, Kraft, Leather",
        "Notebook, Diary, Sketchbook, Folder, Card Set",
    ),
    _build_category(
        "Toys",
        29,
        SMALL_MEDIUM_LARGE,
        "Maple, Felt, Organic Cotton, Birch",
        "Stacking Tower, Puzzle, Rattle, Pull-Along Duck, Marble Run",
    ),
    _build_category(
        "Jewellery", 79, SMALL_MEDIUM_LARGE, "Silver, Gold, Pearl, Brass", "Ring, Bracelet, Pendant Necklace, Ear Studs, Brooch"
    ),
    _build_category(
        "Audio", 189, SMALL_MEDIUM_LARGE, "Walnut, Aluminium, Fabric, Steel", "Bookshelf Speaker, Headphones, Turntable, Radio"
    ),
    _build_category(
        "Body Care", 21, VOLUMES, "Oat, Lavender, Cedar, Sea Salt, Rose", "Hand Cream, Shampoo, Body Oil, Soap Bar, Bath Salts"
    ),
    _build_category("Cycling", 57, LETTER_SIZES, "Carbon, Steel, Merino, Leather", "Saddle, Jersey, Handlebar Bag, Bell, Gloves"),
    _build_category(
        "Pets", 33, SMALL_MEDIUM_LARGE, "Hemp, Wool, Leather, Canvas", "Dog Bed, Lead, Cat Tunnel, Feeding Bowl, Collar"
    ),
)


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A store in another language than English: its name and currency, and the words of its products."""

    name: str
    currency: str
    styles: tuple[str, ...]
    categories: tuple[Category, ...]
    sentences: tuple[str, ...]


# By rank. The Bulgarian nouns are all masculine, as the adjectives before them.
LOCAL_STORES = {
    3: LocalStore(
        "Топъл дом",
        "EUR",
        _split_names("Северен Светъл Уютен Кръгъл Сгъваем Зимен"),
        (
            _build_category("Дом", 38, ("Малък", "Среден", "Голям"), "дъбов, ленен, вълнен, керамичен", "поднос, килим, чаршаф"),
            _build_category("Осветление", 96, ("Малък", "Голям"), "месингов, хартиен, стъклен", "фенер, абажур, полилей"),
            _build_category("Мебели", 289, ("Малък", "Голям"), "дъбов, буков, орехов", "стол, шкаф, рафт"),
        ),
        (
            "Изработен на ръка в малка работилница.",
            "Всяка част може да се смени.",
            "Опакован в хартия, без пластмаса.",
            "Бърше се с влажна кърпа.",
        ),
    ),
    4: LocalStore(
        "京都の道具",
        "JPY",
        _split_names("手作りの 定番の 軽い 丸い 夏の 旅の"),
        (
            _build_category("食器", 28, ("小", "中", "大"), "陶器, 磁器, 漆", "茶碗, 湯呑, 急須, 皿"),
            _build_category("家具", 240, ("小", "大"), "檜, 杉, 竹", "椅子, 棚, 机"),
            _build_category("照明", 90, ("小", "大"), "和紙, 真鍮, 竹", "行灯, 提灯"),
        ),
        (
            "小さな工房で一つずつ作られています。",
            "使うほどに色が深まります。",
            "修理して長く使えます。",
            "贈り物にもどうぞ。",
        ),
    ),
}

STYLES = _split_names(
    "Classic Plain Quilted Washed Woven Hand-Thrown Folding Ribbed Weathered Slim Tall Round Everyday Rainproof Striped "
    "Brushed Featherlight Stackable Reversible Winter Summer Travel Heritage Soft Sturdy"
)
# Words with accents, which searches without accents must find.
ACCENTED_STYLES = ("Café", "Crème", "Björk", "Öland", "Séverine", "Brûlée", "Niño", "Ærø", "Łódź", "Zoë", "Grüezi", "Fjällnäs")
# With the CSS colours to show them by.
SWATCHES = {
    "Charcoal": "#36454f", "Chalk": "#f4f1e8", "Midnight": "#191970", "Moss": "#6b7a3a", "Ochre": "#cc7722", "Clay": "#b66a50",
    "Fog": "#c9ced1", "Petrol": "#005f6a", "Aubergine": "#3d0734", "Oatmeal": "#e0d5c1", "Brick": "#8d3b2f", "Sage": "#9caf88",
}  # fmt: skip
COLOURS = tuple(SWATCHES)
VENDOR_SUFFIXES = ("Studio", "Works", "Goods", "& Sons")

STORE_FIRST_WORDS = _split_names(
    "Nordic Amber Little Silver Wild Northern Old Quiet Golden Blue Salted Paper Velvet Sunday Copper Honest"
)
STORE_SECOND_WORDS = _split_names(
    "Oak Harbour Fox Meadow Lantern Thread Orchard Anchor Sparrow Pebble Willow Compass Maple Heron Juniper Tide"
)
STORE_LAST_WORDS = _split_names("Living Goods Atelier Supply Store Workshop Trading House Market Studio")
STORE_DESCRIPTIONS = (
    "Things for the home that are made to be repaired.",
    "A small shop with a short list of good things.",
    "Chosen by hand, sent within two days.",
    "From makers we know by name.",
    "Everyday objects, made a little better.",
)
FONTS = ("Inter", "Lora", "Source Sans 3", "Playfair Display", "IBM Plex Sans")
PALETTES = (
    ("#1f3a34", "#d8c9a7"), ("#22313f", "#f2b134"), ("#5b2333", "#f7f4f3"), ("#264653", "#e9c46a"),
    ("#2d2a32", "#ddd92a"), ("#3a506b", "#5bc0be"), ("#6b4226", "#efe6dd"), ("#0b3954", "#bfd7ea"),
)  # fmt: skip
HEADER_STYLES = ("minimal", "full", "centered")
CURRENCIES = ("USD", "USD", "USD", "EUR", "USD", "GBP", "USD")

# Sentences that fit singular and plural nouns: without articles and without verbs that must agree.
DESCRIPTION_OPENERS = (
    "{style} by name and by nature: the {noun} we use ourselves.",
    "Our {noun} in {material}, cut and finished in a workshop of nine people.",
    "We looked for the right {noun} for years, then had a sample made.",
    "Our best-known {noun}, now in {material}.",
    "Plain {material}, patient work, and the {noun} we had wished for ourselves.",
    "It took us an afternoon to draw and a year to correct: the {noun} without anything to add.",
)
DESCRIPTION_DETAILS = (
    "The {material} comes from a family mill and is checked by hand.",
    "Edges are rounded, seams are doubled, and every part can be replaced.",
    "It weighs less than it looks and folds away when guests have left.",
    "The colour deepens with use, so no two pieces stay alike.",
    "Packed in paper, without plastic, and carbon-neutral on its way to you.",
    "It has been washed, dropped and left in the rain so that yours need not be.",
    "Made in small series; when one is sold out, the next takes six weeks.",
    "Works well with the rest of the collection and does not mind standing alone.",
    "A hidden loop, a spare button and a card with the maker's name are included.",
    "Holds more than you would think, and closes with one hand.",
    "Quiet enough for a bedroom, strong enough for a workshop.",
    "Children may use it too, under the eyes of somebody taller.",
)
CARE_SENTENCES = (
    "Wipe with a damp cloth and let it dry in the shade.",
    "Wash cold, dry flat, iron never.",
    "A drop of oil once a year keeps it as it is.",
    "No care needed beyond a little attention.",
    "Send it back within thirty days if it is not for you.",
)
TAGS = ("new", "sale", "gift", "eco", "bestseller", "limited", "handmade", "recycled", "vegan", "last-chance")

REVIEW_TITLES = {
    1: ("Fell apart", "Sent it back", "Not as described"),
    2: ("Expected more", "Looks better in the picture", "Hm"),
    3: ("Does what it should", "All right for the price", "Neither here nor there"),
    4: ("Really good", "Nearly perfect", "Would buy again"),
    5: ("Wonderful", "Exactly right", "My favourite thing this year", "Bought a second one"),
}
REVIEW_OPENERS = {
    1: ("It broke in the first week.", "The size was wrong and so was the colour.", "I cannot recommend this at all."),
    2: ("The idea is good, the finish is not.", "It is thinner than I thought.", "After a month it already shows its age."),
    3: ("It is fine, no more and no less.", "Good material, odd proportions.", "I like it, my family does not."),
    4: (
        "Very well made, only the delivery took long.",
        "Lovely, though a little smaller than expected.",
        "I use it nearly every day.",
    ),
    5: ("I could not be happier with it.", "Even nicer than in the pictures.", "You can feel that somebody took their time."),
}
REVIEW_SENTENCES = (
    "It came well packed, with a handwritten note.",
    "Two friends have asked me where I got it.",
    "The colour goes with everything we have.",
    "Customer service answered within the hour.",
    "I have had it for three months now.",
    "It was a present for my sister.",
    "The instructions could be clearer.",
    "At this price it is hard to find anything like it.",
)

FIRST_NAMES = _split_names(
    "Alma Bastian Celia Dario Elif Fritz Greta Henrik Ines Jonas Katya Lukas Mara Nils Olive Pavel Renée Søren Tilda Umar Vera "
    "Wanda Yusuf Zoë Björn André"
)
LAST_NAMES = _split_names(
    "Ashford Bergström Castillo Dubois Engel Fontaine Grant Holm Ivanova Jankowski Keller Lind Moreau Nakamura Owusu Pereira "
    "Rao Sørensen Tran Ueda Vogel Whitaker Şahin Zielinski"
)

USER_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
)
# Referrer, UTM source, medium and campaign of all events in a session.
ORIGINS: tuple[tuple[str | None, str | None, str | None, str | None], ...] = (
    (None, None, None, None),
    (None, None, None, None),
    ("https://www.google.com/", None, None, None),
    ("https://www.google.com/", "google", "cpc", "autumn-sale"),
    ("https://www.instagram.com/", "instagram", "social", "new-arrivals"),
    ("https://duckduckgo.com/", None, None, None),
    ("https://www.pinterest.com/", "pinterest", "social", "gift-guide"),
    (None, "newsletter", "email", "weekly-letter"),
)
