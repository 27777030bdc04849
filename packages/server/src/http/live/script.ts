/** What the scripts of the pages share. Text is inserted only as text, never as markup. */
export const COMMON_SCRIPT = String.raw`
const token = new URLSearchParams(location.hash.slice(1)).get('token')
const at = (id) => document.getElementById(id)

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}
function table(head, rows, none) {
  if (rows.length === 0) return element('p', { class: 'quiet' }, none)
  // On a narrow page each row is a card whose cells repeat their columns' names.
  const cells = (row) => row.map((cell, index) => {
    const made = cell instanceof Node && cell.nodeName === 'TD' ? cell : element('td', {}, cell)
    if (made.textContent.length < 20) made.classList.add('short')
    made.setAttribute('data-label', head[index])
    return made
  })
  return element('table', {}, element('thead', {}, element('tr', {}, ...head.map((name) => element('th', { scope: 'col' }, name)))),
    element('tbody', {}, ...rows.map((row) => element('tr', {}, ...cells(row)))))
}
const size = (bytes) => bytes >= 1e9 ? (bytes / 1e9).toFixed(2) + ' GB' : (bytes / 1e6).toFixed(1) + ' MB'
const time = (ms) => ms >= 1000 ? (ms / 1000).toFixed(2) + ' s' : ms.toFixed(1) + ' ms'
const clock = (ms) => new Date(ms).toDateString() === new Date().toDateString() ? new Date(ms).toLocaleTimeString() : new Date(ms).toLocaleString()
const headers = token ? { authorization: 'Bearer ' + token } : {}
// The token stays in the part of the address that no server sees.
at('other').href += location.hash
function refusal(answer) {
  return new Error(answer.status === 401 ? 'a token is needed: open this page as ' + location.pathname + '#token=…' : 'the server answers ' + answer.status)
}
/** Does it again and again; failures are shown. */
async function repeat(work) {
  for (;;) {
    try { await work() } catch (error) { at('connection').textContent = 'not connected: ' + error.message + '; trying again' }
    await new Promise((resolve) => setTimeout(resolve, 1000))
  }
}
`

/** Script of the page of one rank: reads the event stream and draws. */
export const LIVE_SCRIPT = String.raw`
const SVG = 'http://www.w3.org/2000/svg'
const STAGES = ['H2D', 'broadcast', 'reload', 'pull']
function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  if (text !== undefined) made.textContent = text
  return made
}
const room = () => Math.max(280, at('running').clientWidth)

function loads(running, now) {
  const width = room(), height = 120, elapsed = Math.max(1, now - running.startedMs)
  const chart = shape('svg', { viewBox: '0 0 ' + width + ' ' + (height + 18), role: 'img', 'aria-label': 'bytes loaded since the update began' })
  const total = Math.max(1, running.totalBytes)
  const points = [[0, 0], ...running.loads].map(([ms, bytes]) => (ms / elapsed) * width + ',' + (height - (bytes / total) * height))
  chart.append(shape('polyline', { points: points.join(' ') }),
    shape('text', { x: 0, y: height + 14 }, '0'), shape('text', { x: width, y: height + 14, 'text-anchor': 'end' }, time(elapsed)))
  return chart
}
function timeline(of) {
  const shown = STAGES.filter((_, stage) => of.spans.some((span) => span[0] === stage))
  const width = room(), left = 74, row = 18, bottom = (shown.length + 2) * row, whole = Math.max(...of.steps.map((step) => step[2]), 1)
  const x = (us) => left + (us / whole) * (width - left)
  const chart = shape('svg', { viewBox: '0 0 ' + width + ' ' + bottom, role: 'img', 'aria-label': 'stages of the last update' })
  ;['update', ...shown].forEach((name, index) => chart.append(shape('text', { x: 0, y: index * row + 12 }, name)))
  of.steps.forEach(([name, start, end], index) => {
    const bar = shape('rect', { x: x(start), y: 0, width: Math.max(0.5, x(end) - x(start)), height: row - 4, class: index % 2 ? 'other' : 'step' })
    bar.append(shape('title', {}, name + ': ' + time((end - start) / 1000)))
    chart.append(bar)
  })
  for (const [stage, , , start, end] of of.spans) {
    chart.append(shape('rect', { x: x(start), y: (shown.indexOf(STAGES[stage]) + 1) * row, width: Math.max(0.5, x(end) - x(start)), height: row - 4, class: STAGES[stage].toLowerCase() }))
  }
  chart.append(shape('text', { x: left, y: bottom - 4 }, '0'), shape('text', { x: width, y: bottom - 4, 'text-anchor': 'end' }, time(whole / 1000)))
  return chart
}
function update({ running, history, now }) {
  if (running) {
    const part = running.totalBytes ? running.loadedBytes / running.totalBytes : 0
    return [element('p', {}, running.checkpoint + ' as ' + running.version + ', ' + running.strategy + ': ' + size(running.loadedBytes) + ' of ' +
      size(running.totalBytes) + ' loaded after ' + time(now - running.startedMs)),
      element('progress', { max: 1, value: part, 'aria-label': 'part loaded' }), loads(running, now)]
  }
  const last = history.find((one) => one.timeline)
  if (!last) return [element('p', { class: 'quiet' }, 'none yet')]
  return [element('p', { class: 'quiet' }, 'none is running; the last successful one: ' + last.checkpoint + ', ' + size(last.bytes) + ' in ' + time(last.totalMs)),
    timeline(last.timeline)]
}
let last
addEventListener('resize', () => last && draw(last))
function draw(state) {
  last = state
  at('rank').textContent = 'rank ' + state.rank + ' of ' + state.worldSize + ', ' + state.device.kind
  at('running').replaceChildren(...update(state))
  at('members').replaceChildren(table(['rank', 'host', 'device'],
    state.members.map(({ rank, host, device }) => [String(rank), host || 'this one', device]), ''))
  at('engines').replaceChildren(table(['rank', 'engine', 'version', 'state'], state.engines.map((one) => [String(one.rank), one.engine,
    one.version ?? 'none', element('td', { class: one.dirty ? 'bad' : 'good' }, one.dirty ? 'dirty' + (one.reason ? ': ' + one.reason : '') : 'clean')]),
    'none has been updated by this rank yet'))
  at('checkpoints').replaceChildren(table(['name', 'size', 'tensors'],
    state.checkpoints.map(({ name, bytes, tensors }) => [name, size(bytes), tensors.toLocaleString()]), 'none is registered'))
  at('history').replaceChildren(table(['began', 'checkpoint', 'strategy', 'took', 'outcome'], state.history.map((one) => [clock(one.startedMs), one.checkpoint,
    one.strategy, time(one.totalMs), one.error ? element('td', { class: 'bad' }, one.error.code + ': ' + one.error.message)
      : element('td', { class: 'good' }, 'serves ' + one.version + ', ' + size(one.bytes))]), 'no update yet'))
}
async function follow() {
  const answer = await fetch('/v1/live/events', { headers })
  if (!answer.ok) throw refusal(answer)
  at('connection').textContent = 'connected'
  let text = ''
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
  for (;;) {
    const { value, done } = await reader.read()
    if (done) throw new Error('the server closed the connection')
    text += value
    const events = text.split('\n\n')
    text = events.pop()
    const last = events.findLast((event) => event.startsWith('data: '))
    if (last) draw(JSON.parse(last.slice(6)))
  }
}
await repeat(follow)
`
