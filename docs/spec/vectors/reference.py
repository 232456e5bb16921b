"""Independent reference of pages 01 to 04: writes the vectors.

    python3 reference.py              write the JSON files beside this file
    python3 reference.py --check      regenerate, compare, exit 1 on differences
    python3 reference.py --self-test  attack the formats: flips, replay, undo
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FILES = {"link.json": "link", "setup.json": "circuit_setup",
         "cell.json": "circuit_cell", "request.json": "circuit_request",
         "payments.json": "payments_build", "directory.json": "directory"}
LIMIT = 1_000_000
SHOWN = 20                              # differences shown per file


def render(name: str) -> str:
    """Return the text of a vector file."""
    text = json.dumps(import_module(FILES[name]).build(), indent=1) + "\n"
    assert len(text) < LIMIT, name
    return text


def differences(old: Any, new: Any, path: str = "$") -> list[str]:
    """List where two JSON values differ."""
    if type(old) is not type(new):
        return [f"{path}: type differs"]
    if isinstance(new, dict):
        found = [f"{path}.{key}: only in the file" for key in old
                 if key not in new]
        for key, value in new.items():
            if key not in old:
                found.append(f"{path}.{key}: missing in the file")
            else:
                found += differences(old[key], value, f"{path}.{key}")
        return found
    if isinstance(new, list):
        found = [] if len(old) == len(new) else [
            f"{path}: {len(old)} items, not {len(new)}"]
        for i, (left, right) in enumerate(zip(old, new)):
            found += differences(left, right, f"{path}[{i}]")
        return found
    if old != new:
        return [f"{path}: {str(old)[:40]}... is not {str(new)[:40]}..."]
    return []


def check_file(name: str) -> list[str]:
    """Compare one vector file with a fresh one."""
    file = HERE / name
    if not file.exists():
        return [f"{name}: missing"]
    text, fresh = file.read_text(), render(name)
    if text == fresh:
        return []
    try:
        found = differences(json.loads(text), json.loads(fresh))
    except json.JSONDecodeError as error:
        return [f"{name}: not JSON: {error}"]
    return [f"{name}: {line}" for line in found or ["layout of the text"]]


def check() -> int:
    """Compare every vector file; return the exit code."""
    bad = 0
    for name in FILES:
        found = check_file(name)
        bad += bool(found)
        print("\n".join(found[:SHOWN]) if found else f"{name}: as generated")
        if len(found) > SHOWN:
            print(f"{name}: and {len(found) - SHOWN} more")
    return int(bad > 0)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Chive test vectors")
    parser.add_argument("--check", action="store_true",
                        help="compare the files with fresh ones")
    parser.add_argument("--self-test", action="store_true",
                        help="run the attacks on the formats")
    args = parser.parse_args()
    code = 0
    if args.self_test:
        import_module("selftest").main()
    if args.check:
        code = check()
    if not (args.check or args.self_test):
        for name in FILES:
            (HERE / name).write_text(render(name))
            print(f"wrote {name}")
    return code


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.exit(main())
