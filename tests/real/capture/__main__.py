"""Captures again what real servers answer to Curb: tests/data/answers, which tests/contract/test_answers.py reads.

`python -m tests.real.capture kubernetes alertmanager` takes the servers that variables name (as for the tests in
tests/real) or brings up what this machine can have, and says what is not as it was. Look at the difference before you
commit it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.answers import changes, stories_of, write_stories
from tests.real.bring_up import RECIPES
from tests.real.capture.servers import SERVERS
from tests.real.programs import AwayError


def main(arguments: list[str]) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.real.capture", description=__doc__, formatter_class=raw)
    parser.add_argument("name", nargs="+", choices=[*SERVERS, "all"], help="which servers: %(choices)s")
    parser.add_argument("--look", action="store_true", help="say what is not as it was, and write nothing")
    given = parser.parse_args(arguments)
    for name in SERVERS if "all" in given.name else given.name:
        with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as directory:
            recipe = RECIPES.get(name)
            if recipe and not os.environ.get(recipe.variable) and not any(map(shutil.which, recipe.programs)):
                try:
                    os.environ[recipe.variable] = recipe.bring(stack).value
                except AwayError as error:
                    sys.exit(f"{name}: {error}")
            server, stories = asyncio.run(SERVERS[name](Path(directory)))
        was, before = stories_of(name)
        print(f"{server} ({was or 'nothing'} before), {len(stories)} stories")
        print("".join(f"  {each}\n" for each in changes(before, stories)), end="")
        if not given.look:
            write_stories(name, server, stories)


if __name__ == "__main__":
    main(sys.argv[1:])
