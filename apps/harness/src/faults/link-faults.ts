import type { Fault, FaultContext, Point } from './fault.ts'

const UPDATE: readonly Point[] = ['begin', 'plan', 'h2d', 'reload', 'release', 'commit', 'any', 'gather']

const linkOf = ({ cluster, victim }: FaultContext) => cluster.links[victim]!

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
