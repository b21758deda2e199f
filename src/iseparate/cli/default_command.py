"""``iseparate SONG`` means ``iseparate separate SONG``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

DEFAULT = "separate"


class DefaultCommandGroup(TyperGroup):
    """A group that hands anything but its own commands and options to the default command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command where the first word is neither a command nor an option of the group's own."""
        if args and args[0] not in self.commands:
            own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
            if args[0] not in own and not args[0].startswith(("--install-completion", "--show-completion")):
                args = [DEFAULT, *args]
        return super().parse_args(ctx, args)
