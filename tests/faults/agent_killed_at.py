"""The agent, with SIGKILL at one step of a change of model: `python agent_killed_at.py STEP run --config FILE`"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from edge_agent.commands.model_orders import ModelOrders  # noqa: E402
from edge_agent.models import change, record  # noqa: E402

# Where: object, name of its function, and whether that is still called. The first start has written the record before.
STEPS: dict[str, tuple[Any, str, bool]] = {
    "while it is proved": (change.Change, "_compare", False),
    "before the record": (record, "_digest", False),
    "record not synced": (record.os, "fsync", False),
    "record not renamed": (Path, "replace", False),
    "folder not synced": (record, "sync_folder", False),
    "before the switch": (ModelOrders, "_put_in_service", False),
    "before the answer": (ModelOrders, "_put_in_service", True),
    "after the answer": (ModelOrders, "_switch", True),
}


def die_at(step: str) -> None:
    where, name, called = STEPS[step]
    function: Callable[..., Any] = getattr(where, name)

    def deadly(*arguments: Any, **options: Any) -> None:
        if called:
            function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(where, name, deadly)


def arm(step: str) -> None:
    """The functions of the record serve others, too: deadly from the beginning of the switch on."""
    begin = ModelOrders._switch

    def armed(self: ModelOrders, *arguments: Any) -> None:
        die_at(step)
        begin(self, *arguments)

    if step in ("while it is proved", "after the answer"):
        die_at(step)
    else:
        ModelOrders._switch = armed  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    from edge_agent.__main__ import main

    main()
