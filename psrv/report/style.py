"""The page's style sheet."""

CSS = """
:root { color-scheme: light; --ink: #1d232b; --faint: #5a636f; --line: #dfe3e8; --soft: #f5f7f9; }
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 74rem; background: #fff;
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Liberation Sans", "DejaVu Sans", sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .4rem 0; max-width: 48rem; }
header p, .note, figcaption { color: var(--faint); }
.note { font-size: .875rem; }
.scroll { overflow-x: auto; margin: .75rem 0; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid #0072b2; outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.wide { min-width: 100%; }
th, td {
  padding: .4rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); overflow-wrap: normal;
}
thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; white-space: normal;
  border-bottom: 2px solid var(--line); }
thead tr.groups > * { text-align: center; border-bottom: 0; padding-bottom: 0; }
th.text, td.text { text-align: left; }
tbody th { text-align: left; font-weight: 600; position: sticky; left: 0; background: #fff; }
tbody tr:hover > * { background: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; list-style: none; padding: 0;
  margin: .8rem 0; font-size: .9rem; }
.legend li { display: flex; align-items: center; gap: .45rem; }
.swatch { width: .85rem; height: .85rem; border-radius: 2px; flex: none; }
.stroke { width: 1.9rem; height: .75rem; flex: none; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit !important; }
.bars svg { max-width: 56rem; }
.bars .narrow { display: none; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr));
  gap: 1.5rem 1.25rem; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; }
summary { cursor: pointer; padding: .5rem .8rem; font-weight: 600; }
details > *:not(summary), details > .scroll { margin: 0 .8rem .8rem; }
.pairs td, .pairs th { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
details .wide th, details .wide td { padding: .4rem; }
.pairs th { position: static; font-weight: 400; color: var(--faint); min-width: 9rem; }
.pairs td { text-align: left; }
ul.notes { padding-left: 1.1rem; margin: .5rem 0; font-size: .95rem; }
@media (max-width: 40rem) {
  body { padding: 1.25rem .9rem 3rem; }
  h1 { font-size: 1.4rem; }
  .bars .broad { display: none; }
  .bars .narrow { display: block; }
  th, td { padding: .35rem .5rem; }
}
@media print { details { break-inside: avoid; } .scroll { overflow: visible; } }
"""
