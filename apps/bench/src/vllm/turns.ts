/** Setting of checkpoint-engine: `ParameterServer()` as it comes, or with a process group that the caller keeps. */
export type PeerSetting = 'auto' | 'kept'

export interface OwnTurn {
  readonly system: 'ours'
  /** `first`: the first update with the strategy; `streamed`: while a client streams tokens. */
  readonly kind: 'first' | 'timed' | 'streamed'
  readonly checkpoint: 'A' | 'B'
  /** Setting of the peer with which this update alternates. */
  readonly beside?: PeerSetting
}

export interface PeerTurn {
  readonly system: 'peer'
  readonly kind: 'first' | 'timed'
  readonly checkpoint: 'A' | 'B'
  readonly beside: PeerSetting
}

/** One update of the server. */
export type Turn = OwnTurn | PeerTurn

type Unassigned = Omit<OwnTurn, 'checkpoint'> | Omit<PeerTurn, 'checkpoint'>

export interface TurnsOptions {
  /** Timed updates. */
  readonly repeat: number
  /** Both settings of the peer take turns with ours, half of the timed updates each. */
  readonly peer: boolean
  /** Checkpoint that the server has. */
  readonly serving: 'A' | 'B'
}

/**
 * Returns the updates of one strategy in order. Each brings the checkpoint that the server does not have, so that every weight
 * changes; who goes first changes from round to round, so that both systems bring both checkpoints.
 */
export function planTurns({ repeat, peer, serving }: TurnsOptions): Turn[] {
  const turns: Unassigned[] = [{ system: 'ours', kind: 'first' }]
  if (peer) for (const beside of ['auto', 'kept'] as const) turns.push(...rounds(beside, Math.ceil(repeat / 2)))
  else turns.push(...Array.from({ length: repeat }, (): Unassigned => ({ system: 'ours', kind: 'timed' })))
  turns.push(...Array.from({ length: repeat }, (): Unassigned => ({ system: 'ours', kind: 'streamed' })))
  const order = serving === 'A' ? (['B', 'A'] as const) : (['A', 'B'] as const)
  return turns.map((turn, index) => ({ ...turn, checkpoint: order[index % 2]! }))
}

/** The peer's first update with this setting is not a sample: it creates what the setting keeps. */
function rounds(beside: PeerSetting, count: number): Unassigned[] {
  const turns: Unassigned[] = [{ system: 'peer', kind: 'first', beside }]
  for (let i = 0; i < count; i++) {
    const ours: Unassigned = { system: 'ours', kind: 'timed', beside }
    const theirs: Unassigned = { system: 'peer', kind: 'timed', beside }
    turns.push(...(i % 2 === 0 ? [ours, theirs] : [theirs, ours]))
  }
  return turns
}
