"""What `inspect` found, as one HTML page that asks no server for anything: pictures stand in it, and no script does."""

import base64
import html
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from resnet_v2.console import agreeing, counted
from resnet_v2.data.jpeg import Image, encode, resize_shorter_side
from resnet_v2.errors import ResnetError, printable
from resnet_v2.files import make_folder, not_written, refuse_no_file, write_text
from resnet_v2.inspection.calibration import Bin
from resnet_v2.inspection.inspection import Inspection
from resnet_v2.inspection.oddities import Odd

MARK = '<meta name="generator" content="resnet-v2 inspect">'
THUMBNAIL_SIDE, QUALITY = 120, 85  # pixels of the shorter side, at most
SMALL_SIDE = 100  # pixels below which the page shows each of them
WRONG_SHOWN, GROUPS_SHOWN, MEMBERS_SHOWN, ODD_SHOWN, PAIRS_SHOWN, CONFUSED_SHOWN, BAD_SHOWN = 60, 20, 6, 12, 8, 6, 50
TRAINED = "The network was trained on these pictures: about others it is less often right. Give --val."
LEGEND = (
    '<ul class="legend"><li><b class="right"></b> how often it is right</li><li><b class="certain"></b> how certain '
    'it is in the mean</li><li><b class="ideal"></b> as right as certain</li></ul>'
)
ODD_KINDS = {
    "blurred": "Blurred: less sharp than the others",
    "flat": "Flat: less contrast than the others",
    "dark": "Darker than the others",
    "bright": "Brighter than the others",
    "small": "Smaller than the others",
    "large": "Larger than the others",
    "narrow": "Of another shape than the others",
    "grey": "Grey, where the others have colours",
    "unlike": "Unlike the others to the network: far from all of its features",
}


def refuse_to_write(out: Path) -> None:
    """Raise ResnetError, before the work begins, where the page cannot be written, or another file has its name."""
    refuse_no_file(out)
    try:
        make_folder(out.parent)
        if out.exists():
            with out.open("rb+") as file:
                if MARK.encode() not in file.read(4096):
                    raise ResnetError(
                        f"{out} is there already and is no page of `resnet-v2 inspect`; give another `out`."
                    )
    except OSError as error:
        raise not_written(out, error) from None


def write(found: Inspection, out: Path) -> None:
    """Write the page whole or not at all."""
    write_text(out, page(found))


def page(found: Inspection) -> str:
    """The page as HTML."""
    style = resources.files("resnet_v2").joinpath("logs/report.css").read_text("utf-8")
    style += resources.files("resnet_v2").joinpath("inspection/page.css").read_text("utf-8")
    sections = [section for section in _sections(found) if section is not None]
    links = "".join(f'<li><a href="#{key}">{title} <b>{count}</b></a></li>' for key, title, count, _ in sections)
    bodies = "\n".join(
        f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{title}</h2>{body}</section>'
        for key, title, _, body in sections
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    sets = " and ".join(_text(its.name) for its in found.looked.sets)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{MARK}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Inspection of {sets}</title>
<style>
{style}
</style>
</head>
<body>
<a class="skip" href="#main">To the findings</a>
<header>
<h1>Inspection of {sets}</h1>
<p>{counted(len(found.looked), "picture")}, seen by {_text(found.network.network)} (epoch {found.network.epoch}).</p>
<nav aria-label="Findings"><ul>{links}</ul></nav>
</header>
<main id="main">
{bodies}
</main>
<footer>Made by <code>resnet-v2 inspect</code>. It holds all of its pictures and asks no server for anything.</footer>
</body>
</html>
"""


Section = tuple[str, str, str, str]  # key, title, what the link counts, HTML


def _sections(found: Inspection) -> Iterator[Section | None]:
    yield _wrong_labels(found)
    yield _doubles(found)
    yield _odd(found)
    yield _calibration(found)
    yield _confusions(found)
    yield _classes(found)
    yield _unreadable(found)


def _wrong_labels(found: Inspection) -> Section:
    its = found.wrong
    if its.problem:
        return "labels", "Wrong labels", "-", _paragraph(f"They are not looked for, since {its.problem}.")
    words = (
        f"A logistic regression on the network's features, trained on the other pictures, agrees with "
        f"{_percent(its.accuracy, 1)} of all labels. Here are those that it holds for wrong, each with the probability "
        "of the other class, the most certain first. "
        "Look at each: some are rare pictures of the right class."
    )
    if its.left_out:
        few = ", ".join(found.name(one) for one in its.left_out[:MEMBERS_SHOWN])
        words += f" Classes with too few pictures are left out ({len(its.left_out)}): {few}."
    pictures = [
        (
            one.index,
            f"{found.name(one.given)}, rather {found.name(one.suggested)}",
            _percent(one.probability, 1),
        )
        for one in its.found[:WRONG_SHOWN]
    ]
    body = _paragraph(words) + _more(len(its.found), WRONG_SHOWN) + _pictures(found, pictures)
    return "labels", "Wrong labels", str(len(its.found)), body


def _doubles(found: Inspection) -> Section:
    groups = sorted(found.doubles, key=lambda one: (not found.across(one), not found.mixed(one)))
    words = "Pictures that are there more than once: the same pixels, or the same picture to the eye."
    if len(found.looked.sets) > 1:
        words += " Those that are in both sets come first: the errors on them say nothing."
    body = _paragraph(words) + _more(len(groups), GROUPS_SHOWN)
    for number, group in enumerate(groups[:GROUPS_SHOWN], start=1):
        kinds = ["the same pixels" if group.exact else "alike"]
        kinds += ["in both sets"] * found.across(group) + ["in several classes"] * found.mixed(group)
        shown = [(one, found.name(int(found.looked.labels[one])), "") for one in group.members[:MEMBERS_SHOWN]]
        title = f"Group {number}: {_of(len(group.members), MEMBERS_SHOWN)} pictures, {', '.join(kinds)}"
        body += f"<h3>{_text(title)}</h3>" + _pictures(found, shown)
    return "doubles", "Doubles", str(len(groups)), body


def _odd(found: Inspection) -> Section:
    by_kind: dict[str, list[Odd]] = {}
    for one in found.odd:
        by_kind.setdefault(one.kind, []).append(one)
    body = _paragraph(
        "Pictures more than 3.5 deviations from the middle of their set, by what can be measured of them."
    )
    body += _more(len(found.odd), len(found.odd))
    for kind, title in ODD_KINDS.items():
        if its := by_kind.get(kind):
            shown = [(one.index, found.name(int(found.looked.labels[one.index])), "") for one in its[:ODD_SHOWN]]
            body += f"<h3>{title} ({_of(len(its), ODD_SHOWN)})</h3>" + _pictures(found, shown)
    return "odd", "Odd pictures", str(len({one.index for one in found.odd})), body


def _calibration(found: Inspection) -> Section:
    its, problem = found.calibration, found.silence or found.uncalibrated
    if its is None:
        return "calibration", "Calibration", "-", _paragraph(f"It is not measured. {problem}")
    before, after = (100 * error for error in (its.error_before, its.error_after))
    words = (
        f"How far the network's certainty is from how often it is right: {before:.2f} points in the mean (expected "
        f"calibration error, 15 bins). With the logits divided by a temperature of {its.temperature:.3f} it is "
        f"{after:.2f} points. The temperature comes from one half of the pictures, both figures from the other half of "
        f"{its.pictures}. Chance alone makes {100 * its.chance:.2f} points with so many. No answer changes its order. "
        "--calibrate saves the network with it."
    )
    if its.error_after >= its.error_before:
        words += " Here it does not help: leave the network as it is."
    elif not its.mended:
        words += " One temperature does not mend it: the diagram shows where it is still off."
    if found.trained:
        words += f" {TRAINED}"
    diagrams = _diagram(its.bins_before, "As it answers now") + _diagram(its.bins_after, "With the temperature")
    body = _paragraph(words) + f'<div class="diagrams">{diagrams}</div>' + _bins(its.bins_before, its.bins_after)
    return "calibration", "Calibration", f"{100 * its.error_before:.1f}", body


def _diagram(bins: Sequence[Bin], title: str) -> str:
    """A reliability diagram; what it shows stands in the table below too."""
    side, low = 200, 30
    bars = []
    for one in (one for one in bins if one.pictures):
        x, width = low + side * one.low, side / len(bins) - 1
        right, certain = (side * value for value in (one.accuracy, one.confidence))
        bars.append(
            f'<rect class="right" x="{x:.1f}" y="{side - right:.1f}" width="{width:.1f}" height="{right:.1f}"/>'
        )
        y = f"{side - certain:.1f}"
        bars.append(f'<line class="certain" x1="{x:.1f}" y1="{y}" x2="{x + width:.1f}" y2="{y}"/>')
    ticks = "".join(
        f'<text x="{low + side * share:.0f}" y="{side + 14}" text-anchor="middle">{share:g}</text>'
        f'<text x="{low - 5}" y="{side - side * share + 4:.0f}" text-anchor="end">{share:g}</text>'
        for share in (0, 0.5, 1)
    )
    return (
        f'<figure><figcaption><strong>{title}</strong></figcaption><svg viewBox="0 -8 {side + low + 14} {side + 42}" '
        f'role="img" aria-label="{title}: how often it is right, by how certain it is"><line class="axis" x1="{low}" '
        f'y1="{side}" x2="{low + side}" y2="{side}"/>{"".join(bars)}<line class="ideal" x1="{low}" y1="{side}" '
        f'x2="{low + side}" y2="0"/>{ticks}<text x="{low + side / 2:.0f}" y="{side + 30}" text-anchor="middle">'
        f"how certain it is</text></svg>{LEGEND}</figure>"
    )


def _bins(before: Sequence[Bin], after: Sequence[Bin]) -> str:
    rows = [
        (f"{100 * one.low:.0f} to {100 * one.high:.0f} %", *(cell for its in (one, other) for cell in _bin(its)))
        for one, other in zip(before, after, strict=True)
    ]
    head = ("certain", *2 * ("pictures", "certain, mean", "right"))
    table = _table("The same in numbers: as it answers now, then with the temperature.", head, rows)
    return f"<details><summary>In numbers</summary>{table}</details>"


def _bin(one: Bin) -> tuple[str, str, str]:
    if not one.pictures:
        return "0", "", ""
    return str(one.pictures), f"{100 * one.confidence:.1f} %", f"{100 * one.accuracy:.1f} %"


def _confusions(found: Inspection) -> Section:
    if found.silence:
        return "confusions", "Confusions", "-", _paragraph(f"They are not counted. {found.silence}")
    wrong = sum(len(one.pictures) for one in found.confusions)
    pictures = counted(wrong, "picture")
    words = f"What the network takes for another class: {pictures}, a top-1 error of {found.error:.2f} %."
    if found.trained:
        words += f" {TRAINED}"
    body = _paragraph(words) + _more(len(found.confusions), PAIRS_SHOWN)
    for one in found.confusions[:PAIRS_SHOWN]:
        title = f"{found.name(one.given)} taken for {found.name(one.taken)}: {_of(len(one.pictures), CONFUSED_SHOWN)}"
        shown = [(index, f"{_percent(share, 0)} certain", "") for index, share in one.pictures[:CONFUSED_SHOWN]]
        body += f"<h3>{_text(title)}</h3>" + _pictures(found, shown)
    return "confusions", "Confusions", str(wrong), body


def _classes(found: Inspection) -> Section:
    counts, most = found.counts, max(1, int(found.counts.max()))
    present = [label for label in range(counts.shape[1]) if counts[:, label].any() or label < len(found.names)]
    rows = []
    for label in present:
        width = f'<span class="bar" style="width:{100 * counts[0, label] / most:.0f}px"></span>'
        rows.append((_text(found.name(label)), *map(str, counts[:, label].tolist()), width))
    head = ("class", "pictures", *["held out"] * (len(counts) - 1), "")
    its = counts[0][counts[0] > 0]
    words = ""
    if len(its):
        largest = counted(int(its.max()), "picture")
        words = f"Of {counted(len(its), 'class')} the largest has {largest}, the smallest {its.min()}."
    if empty := len(present) - len(its):
        words += f" {counted(empty, 'class')} {agreeing(empty, 'has', 'have')} none."
    return "classes", "Classes", str(len(present)), _paragraph(words) + _table("Pictures of each class", head, rows)


def _unreadable(found: Inspection) -> Section | None:
    its = found.looked.unreadable
    if not its:
        return None
    rows = "".join(f"<li>{_text(problem)}</li>" for _, _, problem in its[:BAD_SHOWN])
    body = _paragraph("They are in no other figure.") + _more(len(its), BAD_SHOWN) + f"<ul>{rows}</ul>"
    return "unreadable", "Unreadable pictures", str(len(its)), body


def _pictures(found: Inspection, pictures: Iterable[tuple[int, str, str]]) -> str:
    """Pictures by their places, each with a line on it and a word beside where it is."""
    shown = []
    for index, line, word in pictures:
        at = found.looked.at(index)
        where = at.short
        small, source = _thumbnail(found.looked.pixels(index))
        about = f"{line}, {word}" if word else line
        shown.append(
            f'<li><figure><img{" class=small" if small else ""} alt="{_text(f"{about}: {where}")}" src="{source}">'
            f"<figcaption><strong>{_text(line)}</strong>{f'{_text(word)}, ' if word else ''}"
            f"<span>{_text(where)}</span></figcaption></figure></li>"
        )
    return f'<ul class="pictures">{"".join(shown)}</ul>' if shown else ""


def _thumbnail(pixels: Image) -> tuple[bool, str]:
    """Whether a picture is so small that each pixel is shown, and its data as an address."""
    if max(pixels.shape[:2]) < SMALL_SIDE:
        return True, _address("png", encode(pixels, ".png", 9))
    short, long = sorted(pixels.shape[:2])
    if long > 8 * short:  # a strip: its middle
        top, left = ((side - min(side, 8 * short)) // 2 for side in pixels.shape[:2])
        pixels = pixels[top : top + 8 * short, left : left + 8 * short]
    smaller = resize_shorter_side(pixels, THUMBNAIL_SIDE) if short > THUMBNAIL_SIDE else pixels
    return False, _address("jpeg", encode(smaller.copy(), ".jpg", QUALITY))


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are HTML, the first of a row is its heading."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(caption)}"><table><caption>{_text(caption)}'
        f"</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _of(count: int, shown: int) -> str:
    """How many there are, and how many of them stand here."""
    return f"the first {shown} of {count}" if count > shown else str(count)


def _more(count: int, shown: int) -> str:
    if not count:
        return _paragraph("None was found.")
    return _paragraph(f"The first {shown} of {count}; --json prints them all.") if count > shown else ""


def _percent(share: float, digits: int) -> str:
    """With a space at which no line breaks."""
    return f"{100 * share:.{digits}f}\u00a0%"


def _paragraph(words: str) -> str:
    return f"<p>{_text(words)}</p>"


def _text(words: str) -> str:
    """A text of a file as HTML that shows it and does nothing else."""
    return html.escape(printable(words))
