/** The page's style sheet. Colours are variables, so that charts follow light, dark and paper too. */
export const STYLE = `
:root {
  color-scheme: light dark; --page: #fff; --text: #1a1c20; --quiet: #5b616b; --line: #d9dce1; --good: #17713b; --bad: #b3261e;
  --h2d: #2f6fd0; --broadcast: #d97706; --reload: #2c8c5a; --pull: #7b4fc9; --step: #9aa1ac; --step-other: #c6cbd3; --limit: #b3261e; --ours: #2f6fd0; --theirs: #9aa1ac;
  font: 15px/1.5 system-ui, sans-serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171b; --text: #e6e8ec; --quiet: #9ba2ad; --line: #363b44; --good: #6cc690; --bad: #f2837b;
    --h2d: #6ea3f2; --broadcast: #f0a848; --reload: #5fc08b; --pull: #b294f2; --step: #5b626d; --step-other: #3f454e; --limit: #f2837b; --ours: #6ea3f2; --theirs: #7b8390;
  }
}
* { box-sizing: border-box }
body { max-width: 76rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text) }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem } h3 { font-size: 1rem; margin: 1.5rem 0 .25rem }
p { margin: .25rem 0 .75rem; max-width: 60rem } .quiet, small, figcaption { color: var(--quiet) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .4rem .7rem .4rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
thead th { font-weight: 600; color: var(--quiet); font-size: .85rem; vertical-align: bottom } tbody th { font-weight: 600 }
td { white-space: nowrap } small { display: block; white-space: normal; font-weight: 400; font-size: .8rem }
.good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }
ul.lead { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; margin: 1.5rem 0 0; padding: 0; list-style: none }
ul.lead li { border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem } ul.lead b { display: block; font-size: 1.75rem; line-height: 1.2 }
ul.lead span { color: var(--quiet); font-size: .9rem }
figure { margin: .5rem 0 1.5rem } figure svg { width: 100%; height: auto; display: block; font-size: 11px } figure svg.plot-narrow { display: none }
.key { display: inline-flex; gap: 1.25rem; flex-wrap: wrap } .key span::before {
  content: ''; display: inline-block; width: .75em; height: .75em; margin-right: .4em; border-radius: 2px; background: var(--swatch)
}
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: .5rem 0 } dt { color: var(--quiet) } dd { margin: 0 }
pre { overflow: auto; max-height: 30rem; font-size: .75rem; padding: .75rem; border: 1px solid var(--line) }
@media screen and (max-width: 1150px) {
  /* Each row is a card: a table of ten columns does not fit. */
  thead { display: none } tbody tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .4rem 1rem;
    border: 1px solid var(--line); border-radius: 6px; padding: .6rem .9rem; margin: 0 0 .75rem }
  th, td { border: 0; padding: 0; white-space: normal; overflow-wrap: anywhere } tbody th { grid-column: 1 / -1 }
  td::before { content: attr(data-label); display: block; color: var(--quiet); font-size: .8rem }
}
@media screen and (max-width: 850px) { figure svg.plot-wide { display: none } figure svg.plot-narrow { display: block; max-width: 34rem } }
@media screen and (max-width: 640px) {
  body { padding: 1rem .9rem 3rem }
  dl { grid-template-columns: 1fr; gap: 0 } dd { margin: 0 0 .5rem; overflow-wrap: anywhere } tbody tr { grid-template-columns: repeat(2, 1fr) }
}
@media print {
  :root {
    color-scheme: light; --page: #fff; --text: #000; --quiet: #444; --line: #bbb; --good: #0f5c2e; --bad: #8c1a14;
    --h2d: #2f6fd0; --broadcast: #d97706; --reload: #2c8c5a; --pull: #7b4fc9; --step: #9aa1ac; --step-other: #c6cbd3; --limit: #8c1a14; --ours: #2f6fd0; --theirs: #9aa1ac;
    font-size: 10pt;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  body { padding: 0; max-width: none } details { display: none } figure, tr, li { break-inside: avoid } ul.lead b { font-size: 15pt } h2, h3 { break-after: avoid }
}
`
