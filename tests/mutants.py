"""Changes the code in small ways, one at a time, and shows which changes no test notices: ``make mutants``.

The changes are those of mutmut (``[tool.mutmut]`` in pyproject.toml says where). What is left over is printed as a diff: either a
test is missing, or the change means nothing. Arguments are mutmut's: ``'onboarding.vendors.*'`` tries only these again.
"""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

MUTMUT = str(Path(sys.executable).with_name("mutmut"))
# Which tests touch what is found out anew each time: mutmut would miss it for a module that was added to its list.
STATS = Path("mutants/mutmut-stats.json")
KILLED = frozenset({"killed", "timeout", "segfault", "caught by type check"})


def output_of(*arguments: str) -> list[str]:
    done = subprocess.run([MUTMUT, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def statuses() -> dict[str, str]:
    """What became of each mutant, by its name."""
    lines = (line.strip().rpartition(": ") for line in output_of("results", "--all", "true"))
    return {name: status for name, _, status in lines if name}


def module_of(mutant: str) -> str:
    return mutant.rpartition(".")[0]


def changed_lines(mutant: str) -> list[str]:
    return [
        line
        for line in output_of("show", mutant)
        if line.startswith(("-", "+")) and not line.startswith(("---", "+++"))
    ]


def report() -> None:
    tried = {name: status for name, status in statuses().items() if status != "not checked"}
    by_module = defaultdict(list)
    for name, status in tried.items():
        by_module[module_of(name)].append(status)
    left = [name for name, status in tried.items() if status not in KILLED]
    lines = [line for name in left for line in ("", f"{name}: {tried[name]}", *changed_lines(name))]
    lines += ["", "killed / tried"]
    for module, found in sorted(by_module.items()):
        lines.append(f"{sum(status in KILLED for status in found):6} / {len(found):<6} {module}")
    lines.append(f"{len(tried) - len(left):6} / {len(tried):<6} altogether")
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> int:
    STATS.unlink(missing_ok=True)
    ran = subprocess.run([MUTMUT, "run", "--max-children", "2", *sys.argv[1:]], check=False)
    if ran.returncode == 0:
        report()
    return ran.returncode


if __name__ == "__main__":
    sys.exit(main())
