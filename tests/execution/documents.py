"""Generates random valid documents for a schema, with variables, reproducibly by seed.

They use nested and inline fragments, aliases, conditions, variables with and without defaults and values, fields that several
fragments select, unions, interfaces and introspection.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
from graphql import (
    DocumentNode,
    GraphQLArgument,
    GraphQLBoolean,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    OverlappingFieldsCanBeMergedRule,
    SchemaMetaFieldDef,
    TypeMetaFieldDef,
    Undefined,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_composite_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
    is_union_type,
    parse,
    validate,
)

from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY

# How many fields a document has at most, how deep it goes, and for how many objects its lists may multiply.
MOST_FIELDS, MOST_DEPTH, MOST_OBJECTS = 40, 7, 300

# What is always given where there is room for it, so that a change can be asked for again.
ALWAYS = "idempotencyKey"

# What lists are taken to hold when that product is worked out.
OBJECTS_PER_LIST = 4

Values = Mapping[str, Sequence[Any]]


def literal(value: Any) -> str:
    """JSON as it stands in a document: with names that are not quoted."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {literal(one)}' for name, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return orjson.dumps(value).decode()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A document, what is sent with it, and the document parsed."""

    query: str
    variables: dict[str, Any]
    operation_name: str | None
    parsed: DocumentNode = field(repr=False)


def documents(schema: GraphQLSchema, values: Values, refused: Values, seed: int, operation: str = "query") -> Iterator[Drawn]:
    """Valid documents without end.

    `values` are the ones to choose from for an input, by its place ("Product.reviews.first", "ProductByInput.id"), else by its
    name, else by its scalar; every scalar has to have some. Now and then it is one of `refused`, if that has any.
    """
    dice = random.Random(seed)
    while True:
        drawn = Draft(schema, (values, refused), dice, operation).drawn()
        # Names that collide are the one rule that drafts may break.
        if not validate(schema, drawn.parsed, [OverlappingFieldsCanBeMergedRule], max_errors=1):
            yield drawn


def takes_one(type_: GraphQLInputObjectType) -> bool:
    """Whether exactly one field is to be given: graphql-core leaves it to Strawberry to know."""
    ours = type_.extensions.get(DEFINITION_EXTENSION_KEY)
    return type_.is_one_of or (ours is not None and ours.is_one_of)


class Draft:
    """A document on its way."""

    def __init__(self, schema: GraphQLSchema, values: tuple[Values, Values], dice: random.Random, operation: str) -> None:
        self.schema = schema
        self.values, self.refused = values
        self.dice = dice
        self.operation = operation
        self.left = dice.choice([4, 8, 12, 16, 24, MOST_FIELDS])
        self.defined: dict[str, str] = {}
        self.given: dict[str, Any] = {}
        self.by_type: dict[str, list[str]] = {}
        self.fragments: dict[str, tuple[str, str]] = {}
        self.chosen: dict[tuple[str, str], tuple[str, str]] = {}
        self.numbers = count(1)

    def drawn(self) -> Drawn:
        """The finished document."""
        root = getattr(self.schema, f"{self.operation}_type")
        body = self.root_selection(root)
        defined = ", ".join(f"${name}: {text}" for name, text in self.defined.items())
        operations = [f"{self.operation} Asked{f'({defined})' if defined else ''} {body}"]
        name = None
        if self.luck(0.1):
            operations.insert(self.dice.randint(0, 1), "query Other { __typename }")
            name = "Asked"
        named = [f"fragment {name} on {type_} {body}" for name, (type_, body) in self.fragments.items()]
        query = "\n".join([*operations, *named])
        return Drawn(query, self.given, name, parse(query))

    def luck(self, chance: float) -> bool:
        """Whether something happens that does with this probability."""
        return self.dice.random() < chance

    # -------------------------------------------------------------------------------------------- selections

    def root_selection(self, root: GraphQLObjectType) -> str:
        """The operation's own fields: subscriptions have one, changes a few, in order."""
        meta = {} if self.operation != "query" else {"__schema": SchemaMetaFieldDef, "__type": TypeMetaFieldDef}
        names = [*root.fields] * 4 + [*meta]
        how_many = 1 if self.operation == "subscription" else self.dice.choice([1, 1, 1, 2, 3])
        fields = {**root.fields, **meta}
        chosen = self.dice.sample(names, how_many)
        items = [self.field(root, name, fields[name], MOST_DEPTH, 1) for name in chosen]
        if self.operation == "query" and self.luck(0.2):
            items.append("__typename")
        if self.operation == "query" and self.luck(0.2):
            items.append(self.spread(root, MOST_DEPTH, 1))
        return f"{{ {' '.join(items)} }}"

    def selection(self, type_: Any, depth: int, objects: int) -> str:
        """What is selected of a composite type."""
        how_many = self.dice.choice([1, 2, 3, 3, 4, 5]) if self.left > 0 else 1
        items = [self.item(type_, depth, objects) for _ in range(how_many)]
        return f"{{ {' '.join(items)} }}"

    def item(self, type_: Any, depth: int, objects: int) -> str:
        """One field, or fields in a fragment."""
        wants_fragment = self.luck(0.8 if is_abstract_type(type_) else 0.2)
        if wants_fragment and depth > 0 and self.left > 0:
            return self.spread(type_, depth, objects)
        if is_union_type(type_) or self.luck(0.06):
            alias = self.dice.choice(["", "", "a_type: ", "b_type: "])
            return f"{alias}__typename{self.conditions()}"
        fields = dict(type_.fields)
        self.left -= 1
        if self.left <= 0 or depth <= 0 or objects > MOST_OBJECTS:
            fields = {name: one for name, one in fields.items() if not is_composite_type(get_named_type(one.type))}
        elif self.luck(0.5):
            # Most fields are leaves, most of what matters is not.
            edges = {name: one for name, one in fields.items() if is_composite_type(get_named_type(one.type))}
            fields = edges or fields
        if not fields:
            return "__typename"
        name = self.dice.choice([*fields])
        return self.field(type_, name, fields[name], depth, objects)

    def field(self, type_: Any, name: str, definition: GraphQLField, depth: int, objects: int) -> str:
        """One field with arguments, conditions and what is below."""
        head = f"{self.head(type_, name, definition)}{self.conditions()}"
        named = get_named_type(definition.type)
        if not is_composite_type(named):
            return head
        if is_list_type(get_nullable_type(definition.type)):
            objects *= OBJECTS_PER_LIST
        # The schema's own description is large: it is not to be had in full.
        depth = min(depth, 4) if named.name.startswith("__") else depth
        return f"{head} {self.selection(named, depth - 1, objects)}"

    def head(self, type_: Any, name: str, definition: GraphQLField) -> str:
        """The response name, the field and its arguments. Within a document, a response name of a type means one thing."""
        response_name = self.response_name(type_, name)
        key = type_.name, response_name
        if key not in self.chosen:
            shown = name if response_name == name and self.luck(0.9) else f"{response_name}: {name}"
            self.chosen[key] = name, f"{shown}{self.arguments(f'{type_.name}.{name}', definition.args)}"
        return self.chosen[key][1]

    def response_name(self, type_: Any, name: str) -> str:
        """The field's own name mostly, or an alias, which may be the name of another field."""
        aliases = f"{self.dice.choice('abc')}_{name.strip('_')}", self.dice.choice(["id", "title", "name"])
        wanted = self.dice.choices([name, *aliases], [0.82, 0.15, 0.03])[0]
        free = (one for one in (wanted, name, *aliases) if self.chosen.get((type_.name, one), (name,))[0] == name)
        return next(free, f"d{next(self.numbers)}_{name.strip('_')}")

    def conditions(self) -> str:
        """Nothing mostly, or one or both directives."""
        if not self.luck(0.12):
            return ""
        names = self.dice.choice([["skip"], ["include"], ["include"], ["skip", "include"], ["include", "skip"]])
        return "".join(f" @{name}(if: {self.condition(name)})" for name in names)

    def condition(self, name: str) -> str:
        if self.luck(0.4):
            # More is told than is not.
            return self.dice.choice(["true", "false", "true" if name == "include" else "false"])
        return self.variable(GraphQLNonNull(GraphQLBoolean), "if", False)

    # --------------------------------------------------------------------------------------------- fragments

    def spread(self, type_: Any, depth: int, objects: int) -> str:
        """Fields of a type, or of some of what it may be, in an inline or a named fragment."""
        on = self.dice.choice(list(self.overlapping(type_)))
        if self.luck(0.4):
            condition = f" on {on.name}" if on is not type_ or self.luck(0.6) else ""
            return f"...{condition}{self.conditions()} {self.selection(on, depth - 1, objects)}"
        known = [name for name, (of, _) in self.fragments.items() if of == on.name]
        if known and objects == 1 and self.luck(0.5):
            return f"...{self.dice.choice(known)}{self.conditions()}"
        # Written before it is named: no fragment can come to contain itself.
        body = self.selection(on, depth - 1, objects)
        name = f"F{next(self.numbers)}"
        self.fragments[name] = on.name, body
        twice = f" ...{name}" if self.luck(0.1) else ""
        return f"...{name}{self.conditions()}{twice}"

    def overlapping(self, type_: Any) -> Iterator[Any]:
        """The types that an object of this type may also be of."""
        if is_abstract_type(type_):
            yield from self.schema.get_possible_types(type_)
        yield type_
        if is_object_type(type_):
            yield from (of for of in self.schema.type_map.values() if self.is_of(type_, of))

    def is_of(self, type_: GraphQLObjectType, of: Any) -> bool:
        if isinstance(of, GraphQLInterfaceType):
            return of in type_.interfaces
        return is_union_type(of) and type_ in of.types

    # ------------------------------------------------------------------------------------------------ inputs

    def arguments(self, place: str, given: Mapping[str, GraphQLArgument]) -> str:
        """The required arguments and some of the others."""
        texts = [f"{name}: {self.input(one, f'{place}.{name}')}" for name, one in given.items() if self.is_given(name, one)]
        return f"({', '.join(texts)})" if texts else ""

    def is_given(self, name: str, one: GraphQLArgument | GraphQLInputField) -> bool:
        return name == ALWAYS or (is_non_null_type(one.type) and one.default_value is Undefined) or self.luck(0.35)

    def input(self, one: GraphQLArgument | GraphQLInputField, place: str) -> str:
        """A literal or a variable."""
        return self.value(one.type, place, one.default_value is not Undefined)

    def value(self, type_: GraphQLInputType, place: str, has_default: bool = False) -> str:
        is_free = not place.endswith(f".{ALWAYS}")
        if is_free and self.luck(0.3):
            return self.variable(type_, place, has_default)
        if is_free and not is_non_null_type(type_) and self.luck(0.1):
            return "null"
        return self.solid(get_nullable_type(type_), place)

    def solid(self, type_: Any, place: str) -> str:
        if isinstance(type_, GraphQLList):
            return f"[{', '.join(self.value(type_.of_type, place) for _ in range(self.dice.choice([0, 1, 1, 2])))}]"
        if isinstance(type_, GraphQLInputObjectType):
            return f"{{{', '.join(self.input_fields(type_))}}}"
        plain = self.plain(type_, place)
        return str(plain) if isinstance(type_, GraphQLEnumType) else literal(plain)

    def input_fields(self, type_: GraphQLInputObjectType) -> Iterator[str]:
        if takes_one(type_):
            name = self.dice.choice(list(type_.fields))
            yield f"{name}: {self.value(GraphQLNonNull(type_.fields[name].type), f'{type_.name}.{name}')}"
            return
        for name, one in type_.fields.items():
            if self.is_given(name, one):
                yield f"{name}: {self.input(one, f'{type_.name}.{name}')}"

    def plain(self, type_: Any, place: str) -> Any:
        """A value as it stands in JSON."""
        if is_non_null_type(type_):
            return self.plain(type_.of_type, place)
        if isinstance(type_, GraphQLList):
            return [self.plain(type_.of_type, place) for _ in range(self.dice.choice([0, 1, 1, 2]))]
        if isinstance(type_, GraphQLInputObjectType):
            return self.plain_fields(type_)
        if isinstance(type_, GraphQLEnumType):
            return self.dice.choice(list(type_.values))
        names = place, place.rpartition(".")[2], type_.name
        refused = next((self.refused[name] for name in names if name in self.refused), None)
        if refused and self.luck(0.02):
            return self.dice.choice(refused)
        return self.dice.choice(next(self.values[name] for name in names if name in self.values))

    def plain_fields(self, type_: GraphQLInputObjectType) -> dict[str, Any]:
        names = [self.dice.choice(list(type_.fields))] if takes_one(type_) else list(type_.fields)
        fields = {name: type_.fields[name] for name in names if takes_one(type_) or self.is_given(name, type_.fields[name])}
        return {name: self.plain(one.type, f"{type_.name}.{name}") for name, one in fields.items()}

    def variable(self, type_: GraphQLInputType, place: str, has_default: bool) -> str:
        """A variable that may stand in a place, declared and given, or not, in one of the ways that there are."""
        known = self.by_type.setdefault(f"{type_} {place}", [])
        if known and self.luck(0.4):
            return f"${self.dice.choice(known)}"
        name = f"v{next(self.numbers)}"
        known.append(name)
        self.defined[name] = self.declared(name, type_, place, has_default)
        return f"${name}"

    def declared(self, name: str, type_: GraphQLInputType, place: str, has_default: bool) -> str:
        inner = type_.of_type if is_non_null_type(type_) else type_
        if self.luck(0.25):
            # With a default of its own a variable that may be null may stand where null may not.
            self.give(name, type_, place, needed=False)
            return f"{self.dice.choice([type_, inner])} = {self.constant(inner, place)}"
        if is_non_null_type(type_) and has_default and self.luck(0.5):
            self.give(name, type_, place, needed=False)
            return str(inner)
        self.give(name, type_, place, needed=is_non_null_type(type_))
        return str(type_)

    def give(self, name: str, type_: GraphQLInputType, place: str, *, needed: bool) -> None:
        """A value, mostly; now and then null or nothing at all, more often where that is allowed."""
        if self.luck(0.005 if needed else 0.2):
            return
        if self.luck(0.005 if needed or is_non_null_type(type_) else 0.1):
            self.given[name] = None
            return
        wrong = self.luck(0.005)
        self.given[name] = self.dice.choice([{}, [[]], "wrong", -1.5, True]) if wrong else self.plain(type_, place)

    def constant(self, type_: Any, place: str) -> str:
        """A literal without variables."""
        if is_non_null_type(type_):
            return self.constant(type_.of_type, place)
        if isinstance(type_, GraphQLList):
            return f"[{self.constant(type_.of_type, place)}]"
        if isinstance(type_, GraphQLInputObjectType):
            names = [next(iter(type_.fields))] if takes_one(type_) else list(type_.fields)
            fields = {name: type_.fields[name] for name in names if takes_one(type_) or self.is_given(name, type_.fields[name])}
            texts = (f"{name}: {self.constant(one.type, f'{type_.name}.{name}')}" for name, one in fields.items())
            return f"{{{', '.join(texts)}}}"
        plain = self.plain(type_, place)
        return str(plain) if isinstance(type_, GraphQLEnumType) else literal(plain)
