"""Writes the tables of figures in docs/*.md: `make results`.

Between its lines `<!-- table: NAME -->` and `<!-- end -->` a page has what docs/runs/NAME.json tells: the commands, the
table, and the hardware, the date and the repeats. Such a file has

    commands    lines of a shell, shown above the table
    hardware    what the figures were measured on
    date        as 2026-11-24; `committed` in its place where only the day is known on which the figures came into the
                repository; neither where logs tell it
    repeats     how often it was measured, and what is known of the spread
    rows        objects whose keys are the columns; a cell is a text, a number, or a median and what goes with it

A row with a `log` has the columns of docs/runs/LOG.jsonl.gz that `measures` lists. A row with `logs`, runs that differ
by their seed, has their mean and spread; of two such rows Welch's test tells whether they differ. The table `recipes`
is the program's own. In results.md every table of figures is made; before what others published stands a line
`<!-- published -->`.
"""

import itertools
import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from resnet_v2.inference.comparisons import welch_test
from resnet_v2.logs.runlog import read_curve, read_lines
from resnet_v2.training import recipe_table

DOCS = Path(__file__).parent
MADE = re.compile(r"^<!-- table: (?P<name>\S+) -->\n.*?^<!-- end -->\n", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^(?P<before>[^|\n].*)?\n+(?P<table>(?:\|.*\n)+)", re.MULTILINE)
PUBLISHED = "<!-- published -->"

# The columns of a row, in their order.
Row = dict[str, Any]


def pages(docs: Path) -> dict[Path, str]:
    """The text of every page, its tables made anew.

    Ends with a sentence where a figure comes from no file, or a file of docs/runs is on no page.
    """
    runs, used, made = docs / "runs", set[Path](), {}
    for path in sorted(docs.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if path.name == "results.md":  # other pages have tables of formats, too
            check(path, MADE.sub("", text))
        made[path] = MADE.sub(lambda found: between(found["name"], table(runs, found["name"], used)), text)
    if unused := set(runs.iterdir()) - used:
        names = ", ".join(sorted(path.name for path in unused))
        raise SystemExit(f"{runs} has files that no page shows, {names}; show or remove them.")
    return made


def check(path: Path, by_hand: str) -> None:
    """Refuse figures that come from no file."""
    for found in TABLE.finditer(by_hand):
        if found["before"] != PUBLISHED and re.search(r"\d", found["table"]):
            head = found["table"].splitlines()[0]
            raise SystemExit(
                f"{path} has figures of no file, {head}; make the table from a file of docs/runs, or put {PUBLISHED} "
                "before it where others published them."
            )


def between(name: str, text: str) -> str:
    """What is made, with the lines around it."""
    return f"<!-- table: {name} -->\n\n{text}\n\n<!-- end -->\n"


def table(runs: Path, name: str, used: set[Path]) -> str:
    """What docs/runs has under a name; the files it comes from are added to `used`."""
    if name == "recipes":
        return recipe_table.markdown()
    path = runs / f"{name}.json"
    told = json.loads(there(path).read_text(encoding="utf-8"), parse_float=str, parse_int=str)  # 9.50 stays 9.50
    rows: list[Row] = told["rows"]
    names = [log for row in rows for log in row.get("logs", [row["log"]] if "log" in row else [])]
    logs = {log: runs / f"{log}.jsonl.gz" for log in names}
    used |= {path, *logs.values()}
    figures = {log: measured(path) for log, path in logs.items()}
    told["date"] = when(told, [day for found in figures.values() for day in found["days"]])
    if missing := [key for key in ("commands", "hardware", "date", "repeats") if not told.get(key)]:
        raise SystemExit(f"{path} does not tell the {' and the '.join(missing)}; say it, figures are nothing without.")
    parts = ["\n".join(f"    {command}" for command in told["commands"])]
    if "logs" in rows[0]:
        groups = [[figures[log] for log in row["logs"]] for row in rows]
        parts.append(markdown([row | of_seeds(group) for row, group in zip(rows, groups, strict=True)]))
        parts += [differ(*groups)] if len(groups) == 2 else []
    else:
        measures = told.get("measures", ())
        parts.append(markdown([row | {column: figures[row["log"]][column] for column in measures} for row in rows]))
    parts.append(f"*Hardware: {told['hardware']}. Date: {told['date']}. Repeats: {told['repeats']}.*")
    return "\n\n".join(parts)


def there(path: Path) -> Path:
    """The path of a file of figures, which has to be there."""
    if not path.is_file():
        raise SystemExit(f"{path} is missing, and a page shows its figures; bring it back, or take them off the page.")
    return path


def measured(path: Path) -> Row:
    """The columns that a log can give, `days` and `error` (the top-1 error at the end, percent)."""
    curve, events = read_curve(there(path)), [json.loads(line) for line in read_lines(path)]
    summary, error = curve.summary(), curve.top1[max(curve.top1)]
    return {
        "days": [datetime.fromtimestamp(event["time"], UTC).date() for event in (events[0], events[-1])],
        "error": error,
        "seed": events[0]["settings"]["seed"],
        "epochs": summary["epochs"],
        "minutes": f"{minutes(events):.0f}",
        "top-1": f"{summary['top1_error']:.2f}",
        "top-5": f"{summary['top5_error']:.2f}",
        "top-1 at the end": f"{error:.2f}",
    }


def minutes(events: Sequence[Row]) -> float:
    """Of training and validation; not those between the sittings of a run that was stopped and resumed."""
    seconds = 0.0
    for before, event in itertools.pairwise(events):
        if event["event"] == "train":
            seconds += event["seconds"]
        elif event["event"] == "validation":
            seconds += event["time"] - before["time"]
    return seconds / 60


def of_seeds(runs: Sequence[Row]) -> Row:
    """The columns of runs that differ by their seed."""
    errors = [run["error"] for run in runs]
    return {
        "epochs": runs[0]["epochs"],
        "seeds": ", ".join(f"{run['seed']}" for run in runs),
        "top-1 at the end": ", ".join(f"{error:.2f}" for error in errors),
        "mean": f"{mean(errors):.2f}",
        "standard deviation": f"{stdev(errors):.2f}",
    }


def differ(ones: Sequence[Row], others: Sequence[Row]) -> str:
    """A sentence on whether the means of two kinds of runs differ."""
    first, second = ([run["error"] for run in runs] for runs in (ones, others))
    apart, chance = mean(second) - mean(first), welch_test(first, second)
    return f"The second mean less the first: {apart:+.2f} points, p = {chance:.2g} (Welch's t-test)."


def when(told: Row, days: Sequence[date]) -> str | None:
    """The date of a table: of its logs, or as its file has it; None where it has none."""
    if days:
        first, last = min(days), max(days)
        return spelled(last) if first == last else f"{spelled(first)} and {spelled(last)}"
    if "committed" in told:
        return f"not kept, the commit's is {spelled(date.fromisoformat(told['committed']))}"
    return spelled(date.fromisoformat(told["date"])) if "date" in told else None


def spelled(day: date) -> str:
    """`24 November 2026`."""
    return f"{day.day} {day:%B %Y}"


def markdown(rows: Sequence[Row]) -> str:
    """A table in Markdown; `logs` are no column, and what a row lacks stays empty."""
    columns = [column for column in dict.fromkeys(itertools.chain(*rows)) if column != "logs"]
    body = [[cell(column, row.get(column, "")) for column in columns] for row in rows]
    lines = [f"| {' | '.join(line)} |" for line in (columns, *body)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def cell(column: str, value: Any) -> str:
    """A median stands before what goes with it: `9.54 (9.22 to 9.73)`, or how many `times` as fast another is."""
    match value:
        case {"median": median, "lowest": lowest, "highest": highest}:
            return f"{median} ({lowest} to {highest})"
        case {"median": median, "times": times}:
            return f"{median} ({times})"
    return f"`{value}`" if column == "log" else f"{value}"


if __name__ == "__main__":
    for page, text in pages(DOCS).items():
        page.write_text(text, encoding="utf-8")
