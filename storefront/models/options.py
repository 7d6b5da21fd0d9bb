"""The options of a product, such as size and colour: a JSON column of the product, in display order.

Each option is a dict with `id`, `name` and `values`; each value one with `id`, `value` and `swatch` (None, or a dict with `color`
and `image`). Names and values are compared without case. Variants get the spelling of the options, which is what was written
first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from storefront.core.ids import new_id
from storefront.models.variant import fold_case

Option = dict[str, Any]
Attributes = Mapping[str, str]


class OptionEditor:
    """Options that follow the attributes of variants. The given ones are not changed."""

    def __init__(self, options: Sequence[Option] = ()) -> None:
        self.options: list[Option] = [{**option, "values": [*option["values"]]} for option in options]
        # Names in display order.
        self._places = {option["name"]: place for place, option in enumerate(self.options)}
        # By name and value without case.
        self._options = {fold_case(option["name"]): option for option in self.options}
        self._values = {
            (name, fold_case(value["value"])): value for name, option in self._options.items() for value in option["values"]
        }

    def adopt(self, attributes: Attributes) -> dict[str, str]:
        """The attributes of a variant in the spelling and order of the options, to which missing names and values are added."""
        spelled = dict[str, str]()
        for name, value in attributes.items():
            folded_name, folded_value = fold_case(name), fold_case(value)
            if (option := self._options.get(folded_name)) is None:
                option = self._add_option(folded_name, name)
            if (known := self._values.get((folded_name, folded_value))) is None:
                known = self._values[folded_name, folded_value] = {"id": new_id(), "value": value, "swatch": None}
                option["values"].append(known)
            spelled[option["name"]] = known["value"]
        if len(spelled) < 2:
            return spelled
        return {name: spelled[name] for name in sorted(spelled, key=self._places.__getitem__)}

    def drop_unused(self, before: Iterable[Attributes], after: Iterable[Attributes]) -> None:
        """Drop the values that variants had and no variant has any longer. Values that none ever had stay."""
        for name, value in _collect_pairs(before) - _collect_pairs(after):
            if (option := self._options.get(name)) and (known := self._values.pop((name, value), None)):
                option["values"].remove(known)
                if not option["values"]:
                    self.options.remove(self._options.pop(name))

    def arrange(self, listed: Sequence[Mapping[str, Any]]) -> None:
        """Take the order and the swatches of options that are listed by name, with their values. Others follow."""
        self.options = _arrange(self.options, listed, "name", _arrange_option)

    def _add_option(self, folded_name: str, name: str) -> Option:
        option = self._options[folded_name] = {"id": new_id(), "name": name, "values": []}
        self._places[name] = len(self._places)
        self.options.append(option)
        return option


def _arrange_option(known: Option | None, entry: Mapping[str, Any]) -> Option:
    former = known or {"id": new_id(), "name": entry["name"], "values": []}
    return {**former, "values": _arrange(former["values"], entry["values"], "value", _arrange_value)}


def _arrange_value(known: Option | None, entry: Mapping[str, Any]) -> Option:
    return {"id": new_id(), "value": entry["value"], **(known or {}), "swatch": entry.get("swatch")}


def _arrange(
    stored: Sequence[Option],
    listed: Sequence[Mapping[str, Any]],
    key: str,
    build: Callable[[Option | None, Mapping[str, Any]], Option],
) -> list[Option]:
    remaining = {fold_case(entry[key]): entry for entry in stored}
    arranged = [build(remaining.pop(fold_case(entry[key]), None), entry) for entry in listed]
    return [*arranged, *remaining.values()]


def _collect_pairs(attributes_of_variants: Iterable[Attributes]) -> set[tuple[str, str]]:
    return {(fold_case(name), fold_case(value)) for attributes in attributes_of_variants for name, value in attributes.items()}
