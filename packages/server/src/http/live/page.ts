import { CLUSTER_SCRIPT } from './cluster-script.ts'
import { COMMON_SCRIPT, LIVE_SCRIPT } from './script.ts'

const STYLE = `
:root { color-scheme: light dark; --page: #fff; --text: #1a1c20; --quiet: #5b616b; --line: #d9dce1; --good: #17713b; --bad: #b3261e;
  --h2d: #2f6fd0; --broadcast: #d97706; --reload: #2c8c5a; --pull: #7b4fc9; --step: #9aa1ac; --step-other: #c6cbd3; font: 15px/1.5 system-ui, sans-serif }
@media (prefers-color-scheme: dark) { :root { --page: #15171b; --text: #e6e8ec; --quiet: #9ba2ad; --line: #363b44; --good: #6cc690;
  --bad: #f2837b; --h2d: #6ea3f2; --broadcast: #f0a848; --reload: #5fc08b; --pull: #b294f2; --step: #5b626d; --step-other: #3f454e } }
* { box-sizing: border-box } a { color: inherit }
body { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; background: var(--page); color: var(--text) }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
.quiet { color: var(--quiet) } .good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
thead th { color: var(--quiet); font-size: .85rem } td { overflow-wrap: anywhere } td.short { white-space: nowrap }
progress { width: 100%; height: 1rem } svg { width: 100%; display: block; margin: .4rem 0 } svg text { font-size: 12px; fill: currentColor }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 0 2.5rem }
.h2d { fill: var(--h2d) } .broadcast { fill: var(--broadcast) } .reload { fill: var(--reload) } .pull { fill: var(--pull) } .step { fill: var(--step) } .other { fill: var(--step-other) }
@media (max-width: 640px) { body { padding: 1rem .9rem 3rem } thead { display: none } tbody tr { display: grid; grid-template-columns: repeat(2, 1fr); gap: .3rem 1rem;
  border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; margin: 0 0 .6rem } td, td.short { border: 0; padding: 0; white-space: normal }
  td:last-child { grid-column: 1 / -1 } td::before { content: attr(data-label); display: block; color: var(--quiet); font-size: .8rem; font-weight: 400 } }
polyline { fill: none; stroke: var(--reload); stroke-width: 2 }
`

/** Returns the page at `/live`: it contains no data, and loads nothing from elsewhere. */
export function livePage(nonce: string): string {
  const sections = `<section><h2>Update</h2><div id="running"></div></section>
<div class="columns">
<section><h2>Members</h2><div id="members"></div></section>
<section><h2>Engines</h2><div id="engines"></div></section>
</div>
<section><h2>Checkpoints on this rank</h2><div id="checkpoints"></div></section>
<section><h2>History</h2><div id="history"></div></section>`
  return pageOf({ nonce, title: 'ckpt live', other: ['/cluster', 'all ranks'], sections, script: LIVE_SCRIPT })
}

/** Returns the page at `/cluster`, which is made in the same way. */
export function clusterPage(nonce: string): string {
  const sections = `<section><h2>Summary</h2><div id="summary"></div></section>
<section><h2>Ranks</h2><div id="ranks"></div></section>
<section><h2>Links</h2><div id="links"></div></section>`
  return pageOf({ nonce, title: 'ckpt cluster', other: ['/live', 'this rank'], sections, script: CLUSTER_SCRIPT })
}

interface PageParts {
  readonly nonce: string
  readonly title: string
  /** Path and name of the other page. */
  readonly other: readonly [string, string]
  readonly sections: string
  readonly script: string
}

function pageOf({ nonce, title, other, sections, script }: PageParts): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style nonce="${nonce}">${STYLE}</style>
</head>
<body>
<main>
<h1>ckpt <span id="rank" class="quiet"></span></h1>
<p><span id="connection" class="quiet" role="status">connecting</span> · <a id="other" href="${other[0]}">${other[1]}</a></p>
${sections}
</main>
<script type="module" nonce="${nonce}">${COMMON_SCRIPT}${script}</script>
</body>
</html>
`
}
