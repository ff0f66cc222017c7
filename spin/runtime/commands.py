"""The subcommands of a command line, listed in its help under headings."""

import argparse
from typing import Any


class GroupedCommands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """What `add_subparsers(action=GroupedCommands)` returns; a command stands under the `heading` of when it is added."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.heading = ""
        self._listed: dict[str, list[tuple[str, str]]] = {}

    def add_parser(self, name: str, *, help: str | None = None, **named: Any) -> Any:
        """As argparse's own, but for the place in the help; says what it does in the command's own help too."""
        self._listed.setdefault(self.heading, []).append((name, help or ""))
        return super().add_parser(name, **{"description": help, **named})

    def listing(self) -> str:
        """The commands by heading, for the epilog of a parser with `RawDescriptionHelpFormatter`."""
        width = max(len(name) for group in self._listed.values() for name, _ in group)
        groups = [
            "\n".join([f"{heading}:", *(f"    {name:{width}}  {text}" for name, text in group)])
            for heading, group in self._listed.items()
        ]
        return "\n\n".join(groups)
