"""The report's style sheet: for screens from 360 pixels wide, light and dark, and for print."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fffdf9; --ink: #1c1b19; --soft: #66625b; --rule: #ddd8ce; --faint: #f3efe7;
  --accent: #14607a; --bar: #3f8aa3; --reference: #b3402a;
  --serif: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, "Noto Serif", "Liberation Serif", serif;
  --sans: system-ui, -apple-system, "Segoe UI", "Noto Sans", "Liberation Sans", "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Noto Sans Mono", "Liberation Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #e9e5dd; --soft: #a39d92; --rule: #383a3d; --faint: #1e2124;
    --accent: #86c5da; --bar: #4f9db8; --reference: #ee8d73;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 76rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.55 var(--serif); overflow-wrap: break-word;
}
header { border-top: 4px solid var(--ink); padding-top: .8rem; }
h1 { margin: 0; font-size: clamp(1.9rem, 1.4rem + 2.4vw, 3rem); line-height: 1.12; letter-spacing: -.015em; }
.outcome { max-width: 44rem; margin: .7rem 0 0; font-size: clamp(1.1rem, 1rem + .5vw, 1.35rem); line-height: 1.42; }
h2 { margin: 0 0 .6rem; font-size: 1.6rem; line-height: 1.2; letter-spacing: -.01em; }
h3 { margin: 0 0 .45rem; font: 600 .95rem/1.4 var(--sans); }
section { margin-top: 3.25rem; padding-top: .8rem; border-top: 1px solid var(--ink); }
p { max-width: 44rem; margin: 0 0 1rem; text-wrap: pretty; }
a { color: var(--accent); text-underline-offset: .15em; text-decoration-thickness: 1px; }
a:focus-visible, .scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent);
    outline-offset: 2px; }
nav { margin-top: 1.3rem; font: .9rem/1.9 var(--sans); }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.3rem; margin: 0; padding: 0; list-style: none; }
code, pre { font: .86em/1.5 var(--mono); overflow-wrap: anywhere; }
pre { margin: 0; padding: .8rem 1rem; background: var(--faint); white-space: pre; overflow-wrap: normal; }
.soft { color: var(--soft); }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1.1rem 1.6rem;
    margin: 2rem 0 0; }
.figures div { display: flex; flex-direction: column-reverse; justify-content: flex-end; padding-top: .45rem;
    border-top: 1px solid var(--rule); }
.figures dt { font: .82rem/1.35 var(--sans); color: var(--soft); }
.figures dd { margin: 0; font: 600 1.5rem/1.25 var(--sans); font-variant-numeric: tabular-nums;
    letter-spacing: -.01em; }

.steps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.6rem 2.2rem;
    margin: 1.2rem 0 0; padding: 0; list-style: none; counter-reset: step; }
.steps > li { counter-increment: step; border-top: 3px solid var(--bar); padding-top: .55rem; min-width: 0; }
.steps > li:target { border-top-color: var(--reference); }
.steps h3 { margin: 0; font-size: 1.1rem; }
.steps h3::before { content: counter(step) " "; color: var(--bar); margin-right: .2em; }
.steps h3 span { font-weight: 400; font-size: .85rem; color: var(--soft); margin-left: .35em; }
.steps p { margin: .25rem 0 .6rem; line-height: 1.42; }
.facts { margin: 0; font: .86rem/1.45 var(--sans); }
.facts div { display: grid; grid-template-columns: 6.2rem minmax(0, 1fr); gap: .6rem; padding: .22rem 0;
    border-top: 1px solid var(--rule); }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.settings { columns: 19rem; column-gap: 2.2rem; margin-bottom: 1.8rem; }
.settings div { grid-template-columns: minmax(0, 1fr) auto; break-inside: avoid; }
.settings dd { text-align: right; overflow-wrap: anywhere; }
details { margin-top: .4rem; font: .86rem/1.45 var(--sans); }
summary { cursor: pointer; color: var(--accent); }
details ul { margin: .3rem 0 0; padding-left: 1.1rem; }
details li { overflow-wrap: anywhere; }

.scroll { overflow-x: auto; margin: 0 0 2rem; max-width: 100%;
  /* A shadow at the right edge while there is more to scroll to; the first layer moves with the table and hides it. */
  background: linear-gradient(to left, var(--paper) 45%, transparent) 100% 0 / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--rule), transparent) 100% 0 / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font: .86rem/1.4 var(--sans);
    font-variant-numeric: tabular-nums lining-nums; }
caption { padding-bottom: .5rem; text-align: left; font-weight: 600; font-size: .95rem; }
th, td { padding: .24rem .6rem; border-bottom: 1px solid var(--rule); vertical-align: top; text-align: left; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
thead th { vertical-align: bottom; font-weight: 400; color: var(--soft); border-bottom-color: var(--ink);
    line-height: 1.25; }
tfoot th, tfoot td { border-top: 1px solid var(--ink); border-bottom: 0; font-weight: 600; }
th:first-child { position: sticky; left: 0; background: var(--paper); padding-left: 0; max-width: 11rem;
    overflow-wrap: break-word; }
.number { text-align: right; white-space: nowrap; }
thead .number { white-space: normal; }
td.zero { color: var(--soft); }
tbody tr:hover > * { background: var(--faint); }

th:last-child, td:last-child { padding-right: 0; }
figure { display: flow-root; margin: 0 0 2rem; min-width: 0; }
figcaption { margin-bottom: .4rem; font: 600 .95rem/1.4 var(--sans); }
figcaption span { display: block; font-weight: 400; font-size: .86rem; color: var(--soft); max-width: 46rem; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 0 2.6rem; }
.chart text { font: 12px var(--sans); font-variant-numeric: tabular-nums lining-nums; fill: var(--ink); }
.chart .tick, .chart .axis { fill: var(--soft); }
.chart .value { font-weight: 600; }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .base { stroke: var(--ink); stroke-width: 1; }
.chart .line { fill: none; stroke: var(--bar); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .dot, .chart .bar { fill: var(--bar); }
.chart .track { fill: var(--faint); }
.chart line.reference { stroke: var(--reference); stroke-width: 1.5; stroke-dasharray: 5 3; }
.chart text.reference { fill: var(--reference); font-weight: 600; paint-order: stroke; stroke: var(--paper);
    stroke-width: 4px; stroke-linejoin: round; }
footer { margin-top: 3rem; padding-top: .6rem; border-top: 1px solid var(--rule); font: .86rem/1.5 var(--sans);
    color: var(--soft); }
@media print { body { max-width: none; padding: 0; } .scroll { overflow: visible; }
    section, .steps > li, figure { break-inside: avoid-page; } nav { display: none; } }
"""
