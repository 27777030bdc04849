import type { FaultyLink } from '@ckpt/testing'
import type { Fault, FaultContext, Point } from './fault.ts'

const UPDATE: readonly Point[] = ['begin', 'plan', 'h2d', 'reload', 'release', 'commit', 'any', 'gather']

/** Points at which ranks read from each other. */
const PULL: readonly Point[] = ['begin', 'h2d', 'broadcast', 'reload', 'any']

type Harm = (link: FaultyLink, context: FaultContext) => void

const linkOf = ({ cluster, victim }: FaultContext): FaultyLink => cluster.links[victim]!
const pullsOf = ({ cluster, victim }: FaultContext): FaultyLink => cluster.pulls[victim]!

const once = (of: typeof linkOf, harm: Harm) => (context: FaultContext) => {
  harm(of(context), context)
  return Promise.resolve(undefined)
}
const untilUndone = (of: typeof linkOf, harm: Harm) => (context: FaultContext) => {
  harm(of(context), context)
  return Promise.resolve(() => of(context).restore())
}
const cut: Harm = (link) => link.cut()
const silence: Harm = (link) => link.silence()
const blip: Harm = (link) => link.blip()

/** Faults of the connection between a rank and the coordinator. */
export const LINK_FAULTS: readonly Fault[] = [
  {
    name: 'connection lost',
    points: UPDATE,
    victims: 'member',
    expect: 'fails',
    codes: ['RANK_LOST'],
    within: 'window',
    lost: 'victim',
    inject: untilUndone(linkOf, cut),
  },
  {
    name: 'connection silent',
    points: UPDATE,
    victims: 'member',
    expect: 'fails',
    codes: ['RANK_LOST'],
    within: 'window',
    lost: 'victim',
    inject: untilUndone(linkOf, silence),
  },
  {
    name: 'connection broken once',
    points: UPDATE,
    victims: 'member',
    // Calls in progress may be lost with it; the rank stays a member.
    expect: 'either',
    codes: ['RANK_MISSING', 'RANK_LOST', 'TIMEOUT'],
    within: 'deadline',
    lost: 'nobody',
    inject: once(linkOf, blip),
  },
  {
    name: 'connection slow',
    points: ['begin', 'h2d', 'commit', 'gather'],
    victims: 'member',
    expect: 'succeeds',
    codes: [],
    within: 'deadline',
    lost: 'nobody',
    inject: untilUndone(linkOf, (link, { cluster, random }) =>
      link.delay(random.between(10, Math.floor(cluster.options.windowMs / 5))),
    ),
  },
]

/** Faults of the connections over which others read what a rank holds. No other rank holds it. */
export const PULL_FAULTS: readonly Fault[] = [
  {
    name: 'reads cut off',
    points: PULL,
    strategies: ['p2p'],
    victims: 'any',
    // Everything may have been read when it happens.
    expect: 'either',
    codes: ['PEER_LOST'],
    within: 'window',
    lost: 'nobody',
    inject: untilUndone(pullsOf, cut),
  },
  {
    name: 'reads silent',
    points: PULL,
    strategies: ['p2p'],
    victims: 'any',
    expect: 'either',
    codes: ['PEER_LOST', 'TIMEOUT', 'RANK_MISSING'],
    names: /endpoint|rank \d|member \d/,
    within: 'deadline',
    lost: 'nobody',
    inject: untilUndone(pullsOf, silence),
  },
  {
    name: 'reads broken once',
    points: PULL,
    strategies: ['p2p'],
    victims: 'any',
    expect: 'either',
    codes: ['PEER_LOST'],
    within: 'window',
    lost: 'nobody',
    inject: once(pullsOf, blip),
  },
  {
    name: 'reads slow',
    points: PULL,
    strategies: ['p2p'],
    victims: 'any',
    expect: 'succeeds',
    codes: [],
    within: 'deadline',
    lost: 'nobody',
    inject: untilUndone(pullsOf, (link, { random }) => link.delay(random.between(5, 100))),
  },
]
