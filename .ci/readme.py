"""Compares the README's tables with the program: `readme.py README.md HELP METRICS STATUS_SOURCE`.

HELP is the output of `serve --help`, METRICS a scrape, STATUS_SOURCE the source of the status table. Prints `ok` or
`fail`, a tab and what it is about.
"""

import re
import sys


def same(name, program, documented):
    missing, stale = sorted(set(program) - set(documented)), sorted(set(documented) - set(program))
    if program and not missing and not stale:
        print(f"ok\t{name}")
    else:
        print(f"fail\t{name}: missing in the README {missing}, not in the program {stale}")


def flag(block):
    default = re.search(r"\[default: ([^\]]*)\]", block)
    return re.search(r"--[a-z-]+", block).group(), default.group(1) if default else "none"


def upper(code):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper()


def section(text, heading):
    return re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", text, re.M | re.S).group(1)


texts = []
for argument in sys.argv[1:]:
    with open(argument, encoding="utf-8") as file:
        texts.append(file.read())
readme, help_text, metrics, statuses = texts

flags = [flag(block) for block in re.split(r"\n(?= +(?:-h, )?--)", help_text)[1:] if "--help" not in block]
rows = re.findall(r"^\| `(--[a-z-]+)` \| ([^|]+) \|", section(readme, "Configuration"), re.M)
same("flags of serve and their defaults", flags, [(name, default.strip().strip("`")) for name, default in rows])

families = re.findall(r"^# TYPE (\S+)", metrics, re.M)
own = [family for family in families if not family.startswith("process_")]
same("metrics", own, re.findall(r"^\| `([a-z_]+)(?:\{[^`]*\})?` \|", section(readme, "Metrics"), re.M))

meanings = re.findall(r'Code::(\w+),\s*"([A-Z_]+)"', statuses)
rows = re.findall(r"^\| [^|]+ \| ([A-Z_]+) \| `([A-Z_]+)` \|", section(readme, "Errors"), re.M)
same("statuses and reasons", [(upper(code), reason) for code, reason in meanings], rows)
