"""The report page's style sheet: no outside asset, light and dark, narrow screens and print."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #201f1d; --muted: #6a675f; --rule: #e2ded4;
  --accent: #3d5bd9; --bar: #c9c4b8; --good: #17714a; --bad: #ad3b22; --idle: #6a675f;
  --good-wash: #e6f3ec; --bad-wash: #fbeae5; --idle-wash: #efede7; --second: #c26a14; --third: #17714a;
  --fourth: #8d3fa8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141518; --card: #1c1e22; --ink: #e9e7e1; --muted: #a09d95; --rule: #32343a;
    --accent: #8da5ff; --bar: #4a4d55; --good: #63c896; --bad: #f2937a; --idle: #a09d95;
    --good-wash: #17301f; --bad-wash: #3a1f18; --idle-wash: #26282d; --second: #f0a45b; --third: #63c896;
    --fourth: #d08ae6;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans",
    sans-serif;
}
h1 { font-size: 2rem; line-height: 1.15; letter-spacing: -0.02em; margin: 0.1rem 0 0.5rem; }
h2 { font-size: 1.3rem; letter-spacing: -0.01em; margin: 3.25rem 0 0.35rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; }
p { margin: 0.35rem 0 0.9rem; max-width: 46rem; }
code, .mono { font: 0.86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
.eyebrow { color: var(--accent); font-weight: 600; margin: 0; }
.lead, .hint { color: var(--muted); }
.hint { font-size: 0.9rem; }
.tally { margin: 1.1rem 0 1.4rem; font-size: 1.1rem; }
.cards {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19.5rem), 1fr)); gap: 0.9rem;
}
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1rem 1.1rem; }
.claim { display: flex; flex-direction: column; }
.claim h3 { margin: 0; }
.claim header { display: flex; justify-content: space-between; gap: 0.6rem; align-items: baseline; }
.claim .statement {
  font-size: 0.88rem; line-height: 1.45; color: var(--muted); margin: 0.6rem 0 0; padding-top: 0.55rem;
  border-top: 1px solid var(--rule);
}
.claim .big {
  font-size: 2.1rem; line-height: 1.15; font-weight: 650; letter-spacing: -0.02em;
  margin: 0.35rem 0 0.15rem;
}
.claim .big small { font-size: 0.85rem; font-weight: 400; letter-spacing: 0; color: var(--muted); }
.claim dl {
  display: grid; grid-template-columns: 1fr auto; gap: 0.1rem 0.9rem; margin: 0; font-size: 0.92rem;
}
.claim dd { margin: 0; text-align: right; }
dd, td.number, .bars .value { font-variant-numeric: tabular-nums; }
.verdict {
  white-space: nowrap; font-size: 0.82rem; font-weight: 600; border-radius: 99px; padding: 0.1rem 0.6rem;
}
.shown { color: var(--good); background: var(--good-wash); }
.not-shown { color: var(--bad); background: var(--bad-wash); }
.not-measured { color: var(--idle); background: var(--idle-wash); }
.caution {
  border-left: 3px solid var(--second); padding: 0.1rem 0 0.1rem 0.8rem; margin: 1rem 0; max-width: 46rem;
}
.caution p { margin: 0.2rem 0; font-size: 0.92rem; }
.samples {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19.5rem), 1fr));
  gap: 1.1rem 0.9rem;
}
.gallery { grid-template-columns: repeat(auto-fill, minmax(min(47%, 13.5rem), 1fr)); }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
.strips { display: grid; gap: 1.3rem; }
figure { margin: 0; min-width: 0; }
.samples figure { display: flex; flex-direction: column; justify-content: flex-end; }
figcaption { font-size: 0.88rem; line-height: 1.35; margin-bottom: 0.3rem; overflow-wrap: anywhere; }
.row { display: grid; gap: 0.35rem; }
.row > div { min-width: 0; }
.row span { display: block; font-size: 0.75rem; color: var(--muted); margin-top: 0.15rem; }
img {
  display: block; width: 100%; height: auto; aspect-ratio: 1; background: #fff; border: 1px solid var(--rule);
  border-radius: 4px;
}
img.pixels { image-rendering: pixelated; }
.bars { display: grid; gap: 0.5rem; margin: 1rem 0 1.6rem; }
.bar {
  display: grid; grid-template: "label track value" / minmax(9rem, 17rem) 1fr 4.2rem;
  gap: 0.1rem 0.8rem; align-items: center;
}
.bars .track { grid-area: track; } .bars .value { grid-area: value; text-align: right; }
.bars .label { grid-area: label; }
.bars .label { font-size: 0.92rem; line-height: 1.25; }
.bars .track { height: 1.05rem; background: var(--idle-wash); border-radius: 3px; }
.bars .fill { height: 100%; background: var(--bar); border-radius: 3px; min-width: 2px; }
.bars .ours { background: var(--accent); }
.bars .label.strong, .bars .value.strong, tr.strong td { font-weight: 650; }
.scroll { overflow-x: auto; margin: 0.8rem 0 0.4rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th { text-align: left; font-weight: 600; color: var(--muted); font-size: 0.84rem; vertical-align: bottom; }
th, td { padding: 0.42rem 0.8rem 0.42rem 0; border-bottom: 1px solid var(--rule); }
td { vertical-align: top; overflow-wrap: anywhere; }
th:last-child, td:last-child { padding-right: 0; }
th:first-child, td:first-child { min-width: 7.5rem; }
th.number, td.number { text-align: right; white-space: nowrap; }
.charts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19.5rem), 1fr)); gap: 0.9rem;
}
.charts figure { display: flex; flex-direction: column; justify-content: space-between; }
svg { display: block; width: 100%; height: auto; font-size: 10.5px; }
svg text { fill: var(--muted); font-family: inherit; }
svg .rule { stroke: var(--rule); }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.line-0 { stroke: var(--accent); } .line-1 { stroke: var(--second); }
.line-2 { stroke: var(--third); } .line-3 { stroke: var(--fourth); }
.trade { max-width: 46rem; }
svg .mark { fill: var(--paper); stroke-width: 1.6; } svg .mark.strong { stroke-width: 3.2; }
td small { display: block; color: var(--muted); font-size: 0.8rem; white-space: nowrap; }
.note { color: var(--muted); font-size: 0.78rem; margin: 0.2rem 0 0; }
.legend {
  display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; font-size: 0.8rem; color: var(--muted);
  margin-bottom: 0.3rem;
}
.legend i {
  display: inline-block; width: 0.9rem; height: 0.2rem; margin: 0 0.35rem 0.2rem 0; border-radius: 1px;
}
.key-0 { background: var(--accent); } .key-1 { background: var(--second); }
.key-2 { background: var(--third); } .key-3 { background: var(--fourth); }
dl.terms {
  display: grid; grid-template-columns: minmax(8rem, 13rem) 1fr; gap: 0.55rem 1.2rem; margin: 0.8rem 0;
  font-size: 0.94rem;
}
dl.terms dt { font-weight: 600; }
dl.terms dd { margin: 0; color: var(--muted); font-variant-numeric: normal; overflow-wrap: anywhere; }
details { margin: 0.8rem 0; } summary { cursor: pointer; color: var(--accent); }
footer {
  margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--rule); color: var(--muted);
  font-size: 0.88rem;
}
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.6rem; }
  .bar { grid-template: "label value" "track track" / 1fr 4.2rem; }
  dl.terms { grid-template-columns: 1fr; gap: 0.1rem; } dl.terms dd { margin-bottom: 0.6rem; }
  .row.many { grid-template-columns: repeat(3, 1fr) !important; }
}
@media print { body { max-width: none; padding: 0; } .card, figure { break-inside: avoid; } }
"""
