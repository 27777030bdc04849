import type { Fault, FaultContext, Point } from './fault.ts'

const UPDATE: readonly Point[] = ['begin', 'plan', 'h2d', 'reload', 'release', 'commit', 'any', 'gather']

/** Where ranks read from each other. */
const PULL: readonly Point[] = ['begin', 'h2d', 'broadcast', 'reload', 'any']

const linkOf = ({ cluster, victim }: FaultContext) => cluster.links[victim]!

const pullsOf = ({ cluster, victim }: FaultContext) => cluster.pulls[victim]!

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
    inject(context) {
      linkOf(context).cut()
      return Promise.resolve(() => linkOf(context).restore())
    },
  },
  {
    name: 'connection silent',
    points: UPDATE,
    victims: 'member',
    expect: 'fails',
    codes: ['RANK_LOST'],
    within: 'window',
    lost: 'victim',
    inject(context) {
      linkOf(context).silence()
      return Promise.resolve(() => linkOf(context).restore())
    },
  },
  {
    name: 'connection broken once',
    points: UPDATE,
    victims: 'member',
    // What was under way may be lost with it; the rank stays a member.
    expect: 'either',
    codes: ['RANK_MISSING', 'RANK_LOST', 'TIMEOUT'],
    within: 'deadline',
    lost: 'nobody',
    inject(context) {
      linkOf(context).blip()
      return Promise.resolve(undefined)
    },
  },
  {
    name: 'connection slow',
    points: ['begin', 'h2d', 'commit', 'gather'],
    victims: 'member',
    expect: 'succeeds',
    codes: [],
    within: 'deadline',
    lost: 'nobody',
    inject(context) {
      const { cluster, random } = context
      linkOf(context).delay(random.between(10, Math.floor(cluster.options.windowMs / 5)))
      return Promise.resolve(() => linkOf(context).restore())
    },
  },
]

/** Faults of the connections over which others read what a rank holds. Nobody else holds it. */
export const PULL_FAULTS: readonly Fault[] = [
  {
    name: 'reads cut off',
    points: PULL,
    strategies: ['p2p'],
    victims: 'any',
    // All may have been read when it happens.
    expect: 'either',
    codes: ['PEER_LOST'],
    within: 'window',
    lost: 'nobody',
    inject(context) {
      pullsOf(context).cut()
      return Promise.resolve(() => pullsOf(context).restore())
    },
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
    inject(context) {
      pullsOf(context).silence()
      return Promise.resolve(() => pullsOf(context).restore())
    },
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
    inject(context) {
      pullsOf(context).blip()
      return Promise.resolve(undefined)
    },
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
    inject(context) {
      pullsOf(context).delay(context.random.between(5, 100))
      return Promise.resolve(() => pullsOf(context).restore())
    },
  },
]
