"""The only place of the end-to-end checks that waits."""

import time

import pytest


def wait_for(condition, what, timeout=30):
    """Returns the first true result of `condition`. An OSError (nothing listens, no file yet) counts as "not yet"."""
    end = time.monotonic() + timeout
    last = None
    while True:
        try:
            last = condition()
            if last:
                return last
        except OSError as error:
            last = error
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {timeout} s; last: {last!r}")
        time.sleep(0.05)
