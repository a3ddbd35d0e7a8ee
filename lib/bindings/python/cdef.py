# SPDX-License-Identifier: Apache-2.0
"""Makes _thundermq.py, by which Python calls the library, from the public header: nothing is declared twice.

    cdef.py include/thundermq/thundermq.h _thundermq.py

It is cffi's out-of-line ABI mode: plain Python, no compiler. The header is meant to be read so: each struct is whole, each constant a
number, and no macro is needed to call anything.
"""

import contextlib
import re
import sys

import cffi

BIG = 1 << 63  # larger ones are told by the package itself


def constant(text, known):
    """The value of a macro, or None if it is no number."""
    text = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", text)
    text = re.sub(r"\bUINT64_MAX\b", str((1 << 64) - 1), text)
    text = re.sub(r"\b[A-Z]\w+\b", lambda m: str(known.get(m.group(0), m.group(0))), text)
    if not re.fullmatch(r"[0-9a-fA-FxX\s()<>|+*-]+", text):
        return None
    return eval(text, {"__builtins__": {}})  # digits and operators only


def declarations(header):
    """The header without comments and preprocessor, and its numbers by name."""
    header = re.sub(r"/\*.*?\*/", " ", header, flags=re.S).replace("\\\n", " ")
    lines, numbers, skipped = [], {}, []
    for line in header.split("\n"):
        directive = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if not directive:
            if not any(skipped):
                lines.append(line)
            continue
        word, rest = directive.groups()
        if word in ("if", "ifdef", "ifndef"):
            skipped.append("__cplusplus" in rest)
        elif word == "endif":
            skipped.pop()
        elif word == "define":
            macro = re.fullmatch(r"(\w+)\s+(.+)", rest.strip())  # with arguments: not for us
            value = constant(macro.group(2), numbers) if macro else None
            if value is not None:
                numbers[macro.group(1)] = value
    return "\n".join(lines).replace("THMQ_API ", ""), numbers


def main(header, output):
    with open(header, encoding="utf-8") as f:
        text, numbers = declarations(f.read())
    ffi = cffi.FFI()
    ffi.set_source("_thundermq", None)
    ffi.cdef("\n".join(f"#define {n} {v}" for n, v in numbers.items() if v < BIG))
    for name, value in numbers.items():  # as sizes of arrays
        text = re.sub(rf"\b{name}\b", str(value), text)
    ffi.cdef(text)
    with contextlib.redirect_stdout(None):  # it tells that it generates
        ffi.emit_python_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
