"""The model card as one page: no script, no font, no picture from elsewhere; curves are inline SVG."""

from collections.abc import Sequence
from html import escape

from interplant.core.release import Participant
from interplant.core.schema import PRIVATE
from interplant.server import charts
from interplant.server.card import (
    METRICS,
    NO_METRICS,
    NOTE,
    CardFacts,
    limits,
    training_facts,
    warnings,
    what,
)

_STYLE = """
:root { --ink: #1c2330; --soft: #5b6575; --line: #dfe3ea; --card: #ffffff; --page: #f4f6f9;
  --accent: #2563a8; --fill: #2563a81f; --warn: #8a4b00; --warn-back: #fff4e0; --good: #1d6b3f;
  --good-back: #e6f5ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf2; --soft: #9aa5b6; --line: #303848;
  --card: #1a202b; --page: #11151c; --accent: #7fb2ea; --fill: #7fb2ea26; --warn: #ffc97a;
  --warn-back: #3a2c12; --good: #8fd9ae; --good-back: #16311f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 36px 20px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 10px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; }
p { margin: 0 0 10px; }
.lead { color: var(--soft); max-width: 78ch; }
.badges { display: flex; flex-wrap: wrap; gap: 8px; margin: 0 0 16px; }
.badge { border-radius: 999px; padding: 2px 12px; font-size: 13px; font-weight: 600;
  border: 1px solid var(--line); color: var(--soft); }
.badge.good { color: var(--good); background: var(--good-back); border-color: transparent; }
.badge.warn { color: var(--warn); background: var(--warn-back); border-color: transparent; }
.note { background: var(--warn-back); color: var(--warn); border-radius: 8px; padding: 10px 14px;
  margin: 0 0 10px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px 22px; margin: 18px 0 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 18px;
  margin: 18px 0 0; }
.pair section { min-width: 0; margin: 0; }
.pair section:last-child:nth-child(odd) { grid-column: 1 / -1; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 18px; }
.numbers div { border-left: 3px solid var(--accent); padding-left: 12px; }
.numbers b { display: block; font-size: 22px; font-weight: 650; line-height: 1.2; }
.numbers span, .small { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-size: 13px; font-weight: 600; color: var(--soft); }
td.n, th.n { text-align: right; }
tr:last-child td { border-bottom: 0; }
code { font: 13px/1.4 ui-monospace, "SFMono-Regular", Menlo, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 18px; }
summary { cursor: pointer; font-weight: 600; }
details > *:not(summary) { margin-top: 12px; }
svg { display: block; width: 100%; max-width: 540px; height: auto; margin: 0 auto 8px 0; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .strong { fill: var(--ink); font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .curve { stroke: var(--accent); stroke-width: 2.2; fill: none; stroke-linejoin: round; }
svg .area { fill: var(--fill); } svg .bar, svg .dot { fill: var(--accent); }
footer { color: var(--soft); font-size: 13px; margin-top: 22px; }
@media print { body { background: none; } section { break-inside: avoid; } }
"""


def page(facts: CardFacts) -> str:
    """Return the card as HTML, whole in itself."""
    lineage = facts.lineage
    body = [
        f"<h1>{escape(lineage.release)}</h1>",
        _badges(facts),
        *(f'<p class="note"><b>{escape(head)}</b> {escape(text)}</p>' for head, text in warnings(lineage)),
        f'<p class="lead">{_prose(what(facts.task))}</p>',
        _numbers(facts),
        *_curves(facts),
        _participants(facts),
        _section("How it was trained", _facts(training_facts(facts))),
        _section("Limits", "<ul>" + "".join(f"<li>{escape(one)}</li>" for one in limits(facts)) + "</ul>"),
        _contract(facts),
        f"<footer>Signed with the release by {escape(training_facts(facts)['Signed by'])}. To check it, with "
        "the federation's public key and without a network: <code>interplant release verify FOLDER --key "
        "release.pub</code></footer>",
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(lineage.release)}'
        '</title>\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _badges(facts: CardFacts) -> str:
    lineage = facts.lineage
    marks = [
        ("good", "every plant private") if lineage.private else ("warn", "not private"),
        ("warn", "simulated data") if lineage.simulated else ("good", "plants' own data"),
        ("", f"task {lineage.task}"),
        ("", f"contract {facts.task.contract.version}"),
        ("", f"made {lineage.created[:16].replace('T', ' ')} UTC"),
    ]
    spans = (f'<span class="badge {kind}">{escape(text)}</span>' for kind, text in marks)
    return f'<div class="badges">{"".join(spans)}</div>'


def _numbers(facts: CardFacts) -> str:
    lineage = facts.lineage
    most = max((one.epsilon for one in lineage.participants if one.mechanism == PRIVATE), default=None)
    found = [
        (str(len(lineage.participants)), "plants took part"),
        (str(lineage.rounds), "rounds"),
        ("-" if most is None else f"{most:.3g}", "highest ε of a plant"),
    ]
    for name in _metrics(facts):
        last = [one.metrics[name] for one in facts.rounds if name in one.metrics][-1]
        found.append((f"{last:.4g}", f"{name} in the last round"))
    cells = (f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in found)
    return f'<section><div class="numbers">{"".join(cells)}</div></section>'


def _curves(facts: CardFacts) -> list[str]:
    parts = [
        _section(
            f"{name} over the rounds".capitalize(),
            charts.line([(one.round, one.metrics[name]) for one in facts.rounds if name in one.metrics], name)
            + f'<p class="small">{escape(METRICS)}</p>',
        )
        for name in _metrics(facts)
    ]
    if facts.rounds:
        told = "" if parts else f'<p class="small">{escape(NO_METRICS)}</p>'
        counts = [(one.round, float(one.plants)) for one in facts.rounds]
        parts.append(_section("Updates merged in each round", charts.columns(counts, "updates") + told))
    spent = [(one.name, one.epsilon) for one in facts.lineage.participants if one.mechanism == PRIVATE]
    if spent:
        note = f'<p class="small">{escape(NOTE.partition(". ")[2])}</p>'
        parts.append(_section("Privacy spent by each plant (ε)", charts.bars(spent) + note))
    return ['<div class="pair">' + "".join(parts) + "</div>"] if parts else []


def _metrics(facts: CardFacts) -> list[str]:
    return sorted({name for one in facts.rounds for name in one.metrics})


def _participants(facts: CardFacts) -> str:
    head = ["plant", "snapshot", "rounds", "privacy unit", "ε", "δ", "data"]
    rows = [_participant(one) for one in facts.lineage.participants]
    note = f'<p class="small">{escape(NOTE.partition(". ")[0])}.</p>'
    return _section("Participants", _table(head, rows, numbers={2, 4, 5}) + note)


def _participant(one: Participant) -> list[str]:
    private = one.mechanism == PRIVATE
    return [
        escape(one.name),
        ", ".join(f"<code>{escape(digits)}</code>{rounds}" for digits, rounds in one.brief()),
        str(one.rounds),
        escape(one.unit) if private else "-",
        f"{one.epsilon:.3g}" if private else "not private",
        f"{one.delta:g}" if private else "-",
        "simulated" if one.simulated else "own",
    ]


def _contract(facts: CardFacts) -> str:
    contract = facts.task.contract
    inputs = {**contract.settings, **contract.sensors}
    rows = [
        [f"<code>{escape(name)}</code>", escape(one.unit), f"{one.low:g}", f"{one.high:g}"]
        for name, one in inputs.items()
    ]
    table = _table(["input", "unit", "low", "high"], rows, numbers={2, 3})
    conditions = ", ".join(one.name for one in contract.conditions) or "one"
    head = f"Contract, version {contract.version}: {len(inputs)} inputs"
    return (
        f"<section><details open><summary>{escape(head)}</summary>"
        f"<p>Operating conditions: {escape(conditions)}.</p>{table}</details></section>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _facts(found: dict[str, str]) -> str:
    rows = (f"<dt>{escape(name)}</dt><dd>{_prose(value)}</dd>" for name, value in found.items())
    return f"<dl>{''.join(rows)}</dl>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """A table whose cells are HTML already; columns in ``numbers`` stand at the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = (' class="n"' if place in numbers else "" for place in range(len(row)))
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(row, kinds, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells(head, "th")}</tr>{body}</table></div>'


def _prose(text: str) -> str:
    """Sentences with the card's two marks of Markdown: ``**strong**`` and ``code`` in backticks."""
    parts = escape(text).split("**")
    strong = "".join(f"<b>{part}</b>" if place % 2 else part for place, part in enumerate(parts))
    parts = strong.split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
