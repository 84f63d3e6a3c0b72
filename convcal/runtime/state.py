# SPDX-License-Identifier: BSD-3-Clause
"""What a model keeps from one run to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from convcal.errors import InputError

if TYPE_CHECKING:
    from convcal.model_description import ModelDescription

__all__ = ["State", "check_has_states"]

Content = TypeVar("Content")


class State(Generic[Content]):
    """The states of one model, as Core ML's ``MLState`` keeps them.

    Made by a runner's ``make_state`` and updated by its ``run``; nothing else is done with it.
    """

    def __init__(self, owner: object, content: Content) -> None:
        self._owner = owner
        self._content = content

    def content_for(self, runner: object) -> Content:
        """Give what is kept, to the runner that made it.

        Raises
        ------
        InputError
            If another one did.
        """
        if self._owner is not runner:
            raise InputError(
                "the state was made by another runner; give run() what make_state() of the same "
                "runner gave"
            )
        return self._content


def check_has_states(description: ModelDescription) -> None:
    """Refuse to make the states of a model that has none.

    Raises
    ------
    InputError
        With the model's description.
    """
    if not description.states:
        raise InputError(f"the model keeps no states, it has {description}; run it without one")
