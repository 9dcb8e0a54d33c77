"""Checked values of what users and strangers write: strict types, no unknown key, one line per error."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from robustness_bench.benchmark.errors import BenchError, unknown

Loc = tuple[int | str, ...]
Item = TypeVar("Item")
Record = TypeVar("Record", bound=BaseModel)
# A whole number where a float is expected stays one: `lr = 1` and `lr = 1.0` have had different ids.
_AS_WRITTEN = WrapValidator(lambda value, check: (check(value), value)[1])
Number = Annotated[float, _AS_WRITTEN]
Finite = Annotated[float, Field(allow_inf_nan=False), _AS_WRITTEN]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _AS_WRITTEN]
AtLeast0 = Annotated[float, Field(ge=0, allow_inf_nan=False), _AS_WRITTEN]
Share = Annotated[float, Field(ge=0, lt=1), _AS_WRITTEN]
UpTo1 = Annotated[float, Field(ge=0, le=1), _AS_WRITTEN]
Several = Annotated[tuple[Item, ...], Field(strict=False)]
"""A TOML or JSON list, kept as a tuple."""
_LONGEST_NAME = 40  # of one that an error repeats
_WORDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "greater_than": "must be above {gt:.12g}",
    "greater_than_equal": "must be at least {ge:.12g}",
    "less_than": "must be below {lt:.12g}",
    "less_than_equal": "must be at most {le:.12g}",
    "finite_number": "must be finite",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "is empty: name at least one",
    "missing": "is missing",
    "missing_argument": "is missing",  # of a tuple with names, before pydantic 2.13
}


class Strict(BaseModel):
    """A frozen record: a string is no number, true is no number, an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def identity(self) -> dict[str, Any]:
        """Return the fields as they enter ids.

        A field with a default is younger than the first results: as long as it has its default, it is left
        out, so that ids of older results stay.
        """
        return self.model_dump(exclude_defaults=True)


def named(kind: str, known: Callable[[], Iterable[str]]) -> AfterValidator:
    """Return a check that a text is one of the names in a registry, which is read when it is needed."""

    def check(name: str) -> str:
        if name in (names := list(known())):
            return name
        if name.isascii() and name.isprintable() and len(name) <= _LONGEST_NAME:
            raise ValueError(f"is an {unknown(kind, name, names)}")
        raise ValueError(f"must be one of {', '.join(names)}, got {shown(name)}")

    return AfterValidator(check)


def checked(
    model: type[Record],
    values: Mapping[str, Any],
    place: Callable[[Loc], str] = lambda loc: "",
    kind: type[Exception] = BenchError,
) -> Record:
    """Return the values as a record.

    Args:
        place: what an error puts before a key: where it stands.

    Raises:
        kind: the first problem, in one line.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise kind(problems(error, model, place)[0]) from error


def problems(error: ValidationError, model: type[BaseModel], place: Callable[[Loc], str]) -> list[str]:
    """Return a line per problem: the key, what it must be, what it is."""
    return [_line(each, model, place(each["loc"])) for each in error.errors(include_url=False)]


def _line(problem: Any, model: type[BaseModel], place: str) -> str:
    loc, kind, value, told = problem["loc"], problem["type"], problem["input"], problem.get("ctx", {})
    keys = [_safe(part) for part in loc if isinstance(part, str) and part != "[key]"]
    key = place + ".".join(keys)
    if kind == "extra_forbidden":
        section = f"[{'.'.join(keys[:-1])}]: " if keys[1:] else ""
        odd = str(loc[-1])[:_LONGEST_NAME]
        return f"{place}{section}{unknown('key', odd, _fields(model, keys[:-1]))}"
    if kind == "literal_error":
        return f"{place}{unknown('.'.join(keys), str(value)[:_LONGEST_NAME], _choices(told['expected']))}"
    if kind == "value_error":
        return f"{key} {told['error']}".strip()
    if loc and isinstance(loc[-1], int):
        key += f": item {loc[-1] + 1}"
    words = _WORDS[kind].format(**told) if kind in _WORDS else problem["msg"]
    if kind == "missing" and (field := model.model_fields.get(keys[-1])) and field.description:
        words += f": {field.description}"
    return f"{key} {words}".strip() + (f", got {shown(value)}" if words.startswith("must") else "")


def _safe(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_.:-]{1,60}", key) else shown(key)


def _choices(text: str) -> list[str]:
    """Return the values in pydantic's list of them: 'last' or 'best'."""
    return re.findall("'([^']*)'", text)


def _fields(model: Any, sections: Iterable[str]) -> list[str]:
    """Return the known keys of a section."""
    for section in sections:
        model = model.model_fields[section].annotation
    return list(model.model_fields)


def shown(value: object) -> str:
    """Return an untrusted value for a terminal: printable, on one line, short."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:60]}…"
