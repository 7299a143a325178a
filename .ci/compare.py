"""Compares the JSON in a file with the table on standard input, field by field.

A line is `path = JSON value` or `path ~ pattern`; the details of a status go by their type (`ErrorInfo.reason`). Prints
`ok` or `fail`, a tab and what it is about: a line for each field, and one that there is nothing else.
"""

import json
import re
import sys


def leaves(value, path=""):
    """Every value that is no object and no list, with its path; an empty object or list is a value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not members or not value:
        yield path, value
        return
    for key, member in members:
        yield from leaves(member, f"{path}.{key}" if path else str(key))


def read(name):
    try:
        with open(name, encoding="utf-8") as file:
            document = json.load(file)
    except ValueError as error:
        return {"not JSON": str(error)}
    if isinstance(document, dict) and isinstance(document.get("details"), list):
        for detail in document.pop("details"):
            document[detail.pop("@type").rsplit(".", 1)[1]] = detail
    return document


def fits(value, how, wanted):
    if how == "~":
        return isinstance(value, str) and re.fullmatch(wanted, value) is not None
    return json.dumps(value) == json.dumps(json.loads(wanted))


found = dict(leaves(read(sys.argv[1])))
for line in filter(str.strip, sys.stdin):
    path, how, wanted = line.strip().split(" ", 2)
    if path not in found:
        print(f"fail\t{path} is missing")
        continue
    value = found.pop(path)
    verdict = "ok" if fits(value, how, wanted) else f"fail\texpected {wanted}, found {json.dumps(value)} at"
    print(f"{verdict}\t{path}" if verdict == "ok" else f"{verdict} {path}")
print(f"fail\tnothing else, but there is {json.dumps(found)}" if found else "ok\tnothing else")
