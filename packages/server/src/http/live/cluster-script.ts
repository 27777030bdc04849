/** Script of the page of all ranks: asks again and again. */
export const CLUSTER_SCRIPT = String.raw`
const cell = (good, text) => element('td', { class: good ? 'good' : 'bad' }, text)
function membership({ membership, why, silentMs }) {
  if (membership === 'member') return cell(true, 'heard ' + time(silentMs) + ' ago')
  return cell(false, membership === 'missing' ? 'has not joined' : why)
}
function engines({ engines = [] } = {}) {
  if (engines.length === 0) return 'not updated yet'
  const dirty = engines.filter((one) => one.dirty)
  if (dirty.length > 0) return cell(false, dirty.map((one) => one.engine + ': dirty' + (one.reason ? ', ' + one.reason : '')).join('; '))
  return cell(true, engines.map((one) => one.engine + ': ' + (one.version ?? 'no version')).join('; '))
}
function update({ last } = {}) {
  if (!last) return 'none'
  const what = last.checkpoint + ' at ' + clock(last.startedMs) + ', ' + last.strategy + ', ' + time(last.totalMs)
  return last.error ? cell(false, what + ': ' + last.error.code + ': ' + last.error.message) : what + (last.bytes === undefined ? '' : ', ' + size(last.bytes))
}
const held = ({ checkpoints = [] } = {}) => checkpoints.map(({ name, bytes }) => name + ', ' + size(bytes)).join('; ') || 'none'
function draw({ rank, worldSize, ranks }) {
  at('rank').textContent = 'cluster of ' + worldSize + ', seen by rank ' + rank
  const members = ranks.filter((one) => one.membership === 'member')
  const versions = new Set(ranks.flatMap(({ report }) => (report?.engines ?? []).map(({ version }) => version ?? 'none')))
  const dirty = ranks.filter(({ report }) => report?.engines.some((one) => one.dirty)).map((one) => one.rank)
  at('summary').replaceChildren(table(['ranks', 'versions', 'dirty engines'], [[
    cell(members.length === worldSize, members.length + ' of ' + worldSize),
    versions.size === 0 ? 'none' : cell(versions.size === 1, [...versions].join(', ')),
    cell(dirty.length === 0, dirty.length === 0 ? 'none' : 'of ranks ' + dirty.join(', ')),
  ]], ''))
  at('ranks').replaceChildren(table(['rank', 'process', 'membership', 'state', 'engine', 'last update', 'checkpoints'], ranks.map((one) => [
    String(one.rank), one.host ? one.host + ', ' + one.pid : 'none', membership(one),
    one.membership !== 'member' ? 'unknown' : one.report ? cell(one.report.reasons.length === 0, [one.report.state, ...one.report.reasons].join(': ')) : 'not reported',
    engines(one.report), update(one.report), held(one.report)]), ''))
  const linked = ranks.filter(({ links }) => links.length > 0)
  at('links').replaceChildren(table(['rank', 'device', 'other ranks read its memory by'],
    linked.map(({ rank, report, links }) => [String(rank), report?.device ?? 'unknown', links.join(', ')]), 'none is known: they are told when metas are gathered'))
}
await repeat(async () => {
  const answer = await fetch('/v1/cluster', { headers })
  if (!answer.ok) throw refusal(answer)
  draw(await answer.json())
  at('connection').textContent = 'connected'
})
`
