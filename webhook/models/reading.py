"""A JSON value is read by a model; what the model refuses is told in the service's own words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

from pydantic import ValidationError

from common.api.base import Body
from common.settings import Settings
from webhook.problems import INVALID_FIELD, Problem
from webhook.refusals import refuse_unknown

B = TypeVar("B", bound=Body)
Refusals = Mapping[str, Callable[[Mapping[str, Any], Settings], object]]
"""By field: raises what is said of a value that the model refused; given the whole body."""


class Model(Generic[B]):
    """A model of a body, ready to read with."""

    __slots__ = ("_most", "_validate", "fields", "type")

    def __init__(self, model: type[B], *, read_by: type[B] | None = None) -> None:
        """`read_by`: where less is left to the model than it describes."""
        reader = read_by or model
        reader.model_rebuild()
        self.type = model
        self.fields = frozenset(model.model_fields)
        self._most = len(self.fields)
        self._validate: Callable[[Any], B] = reader.__pydantic_validator__.validate_python

    def read(self, value: Any, limits: Settings, refusals: Refusals) -> B:
        """The body. Raises Problem for what is no object or has unknown fields.

        If fields are wrong: a body that raises a field's Problem when that is read. So whoever
        checks the fields in their order tells of several mistakes the first, whether it is one
        that the model knows of or not.
        """
        if type(value) is dict and len(value) > self._most:
            refuse_unknown(value, self.fields)  # a model would make a list of them all
        try:
            return self._validate(value)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_context=False, include_input=False)
        refuse_unknown(value, self.fields)
        names = frozenset(str(one["loc"][0]) for one in wrong)
        return cast("B", _Partly(value, names, limits, refusals))


class _Partly:
    """A body of which some fields are wrong, the others being as they were sent."""

    def __init__(
        self, value: Mapping[str, Any], wrong: frozenset[str], limits: Settings, refusals: Refusals
    ) -> None:
        self._value = value
        self._wrong = wrong
        self._limits = limits
        self._refusals = refusals

    def __getattr__(self, name: str) -> Any:
        if name not in self._wrong:
            return self._value.get(name)
        if name in self._refusals:
            self._refusals[name](self._value, self._limits)
        raise Problem(INVALID_FIELD, f"{name} is not as it has to be", field=name)
