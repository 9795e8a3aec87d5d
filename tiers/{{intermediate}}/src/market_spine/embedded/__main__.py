"""`python -m market_spine.embedded COMMAND...`: one server for all that a command runs.

This process becomes the command, and the connection that holds the server stays open in it.
"""

import os
import sys

from market_spine import embedded
from market_spine.errors import StoreError
from market_spine.settings import settings


def main() -> None:
    """Hold the servers, unless the settings name another, and become the command."""
    command = sys.argv[1:]
    if not command:
        sys.exit("usage: python -m market_spine.embedded COMMAND...")
    try:
        if not settings().database_url:
            os.set_inheritable(embedded.hold().descriptor, True)
        os.execvp(command[0], command)
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main()
